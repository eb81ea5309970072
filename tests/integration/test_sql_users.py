"""supabase/optional/users.sql on a real PostgreSQL with Supabase's roles: every table and column, by every user."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from testkit.users import REMOVE_USERS, STAND_IN, USERS, acting_as
from tests.integration.catalogue import catalogue, database, migration_files
from tests.integration.database import GROUP, OTHER_GROUP, at, message, photo
from tests.integration.test_sql_races import Connection, batch, call

OURS, THEIRS = "ours", "theirs"

# The tables that users read, and their columns that stay closed. All other tables are closed.
HIDDEN = {
    "group_members": set(),
    "groups": {"admins"},
    "media": {"created_at"},
    "message_changes": set(),
    "message_edits": set(),
    "message_reactions": {"wa_msg_id"},
    "messages": {"raw", "content_order", "revoke_claimed_by"},
    "people": set(),
    "poll_votes": set(),
    "runtime_flags": set(),
    "session_members": set(),
}

# Which rows are the user's, asked by the superuser in other words than the policies': by groups and sessions.
MESSAGES = "select id from public.messages where group_id = any(%(groups)s)"
MINE = {
    "group_members": "group_id = any(%(groups)s)",
    "groups": "id = any(%(groups)s)",
    "media": "id in (select media_id from public.messages where group_id = any(%(groups)s))",
    "message_changes": f"message_id in ({MESSAGES}) or (deleted and session_id = any(%(sessions)s))",
    "message_edits": f"message_id in ({MESSAGES})",
    "message_reactions": f"message_id in ({MESSAGES})",
    "messages": f"id in ({MESSAGES})",
    "people": "session_id = any(%(whole)s) or (session_id, sender) in "
    "(select session_id, sender from public.messages where group_id = any(%(groups)s) "
    "union select session_id, member from public.group_members where group_id = any(%(groups)s))",
    "poll_votes": f"poll_id in ({MESSAGES})",
    "runtime_flags": "session_id = any(%(owned)s)",
    "session_members": "user_id = %(user)s",
}


@dataclass(frozen=True, kw_only=True)
class User:
    """One of the users, and what they ought to see."""

    user: str
    sessions: list[str]
    whole: list[str]
    owned: list[str]
    groups: list[int]


class World:
    """Two sessions with two groups each, and everything that users may see in all four."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        for session in (OURS, THEIRS):
            self._fill(session)
        self.groups = {
            (session, name): number
            for number, session, name in connection.execute("select id, session_id, wa_group_id from public.groups")
        }
        ours = [self.groups[OURS, name] for name in (GROUP, OTHER_GROUP)]
        theirs = [self.groups[THEIRS, name] for name in (GROUP, OTHER_GROUP)]
        self.users = {
            "owner": self._user({OURS: ("owner", None)}, whole=[OURS], owned=[OURS], groups=ours),
            "member": self._user({OURS: ("member", None)}, whole=[OURS], groups=ours),
            # The id of a group of another session opens nothing.
            "of one group": self._user({OURS: ("member", [ours[0], theirs[0]])}, groups=ours[:1]),
            "of both": self._user({OURS: ("member", ours[1:]), THEIRS: ("owner", None)}, whole=[THEIRS],
                                  owned=[THEIRS], groups=[ours[1], *theirs]),
            "of no group": self._user({OURS: ("member", [])}),
            "foreigner": self._user({THEIRS: ("owner", None)}, whole=[THEIRS], owned=[THEIRS], groups=theirs),
            "nobody": self._user({}),
        }  # fmt: skip

    def _fill(self, session: str) -> None:
        """In each group: texts, an edit, a reaction, a poll with a vote, a picture of one's own and a shared one."""
        say = self.connection
        call(say, "wa_lease_acquire", session, "a", 60)
        call(say, "wa_begin_epoch", session, 1)
        call(say, "wa_upsert_groups", session, 1, json.dumps([{"wa_group_id": g} for g in (GROUP, OTHER_GROUP)]), False)
        say.execute("update public.groups set monitor = true, admins = '{4917@s.whatsapp.net}' where true")
        rows, changes = [], []
        for place, group in enumerate((GROUP, OTHER_GROUP)):
            author = f"{session}{place}@lid"
            of: dict[str, Any] = {"chat_id": group, "sender": author, "sender_alt": None}
            rows += [
                message(f"T{place}", **of),
                message(f"D{place}", 500, **of),
                photo(f"O{place}", 700, **of),
                photo(f"S{place}", 900, **of),
                message(f"P{place}", 1100, kind="poll", **of),
            ]
            to = {"chat_id": group, "target_sender": author, "target_id": f"T{place}", "author": author, "at": at(60)}
            changes += [
                to | {"kind": "edit", "change_id": f"E{place}", "payload": {"text": "new"}},
                to | {"kind": "reaction", "change_id": f"R{place}", "payload": {"emoji": "x"}},
            ]
        members = [
            {"wa_group_id": group, "at": at(0), "what": "joined", "members": [{"member": f"{session}quiet{place}@lid"}]}
            for place, group in enumerate((GROUP, OTHER_GROUP))
        ]
        pairs = [{"lid": f"{session}quiet{place}@lid", "pn": f"49{place}@s.whatsapp.net"} for place in range(3)]
        everything: dict[str, Any] = {"messages": rows, "changes": changes, "members": members, "identities": pairs}
        call(say, "wa_commit", session, batch(1, **everything))
        for (number,) in say.execute(
            "select id from public.messages where session_id = %s and kind = 'poll' order by id", (session,)
        ).fetchall():
            say.execute(
                "insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, ts, kind, content) "
                "select session_id, group_id, 'V', chat_id, sender, ts, 'poll_vote', "
                "jsonb_build_object('about', id, 'choices', '[]'::jsonb) from public.messages where id = %s",
                (number,),
            )
        for name, number in say.execute(
            "select wa_msg_id, id from public.messages where session_id = %s and kind = 'image'", (session,)
        ).fetchall():
            sha256 = ("f" if name.startswith("S") else f"{number % 10}") * 64  # S0 and S1 are one file in both sessions
            say.execute(
                "insert into public.media (sha256, mime, bytes, storage_path) values (%s, 'image/jpeg', 1, %s) "
                "on conflict (sha256) do nothing", (sha256, f"{sha256}/original.jpg"),
            )  # fmt: skip
            say.execute(
                "update public.messages set media_id = (select id from public.media where sha256 = %s) where id = %s",
                (sha256, number),
            )
        say.execute("delete from public.messages where session_id = %s and wa_msg_id = 'D1'", (session,))
        say.execute("insert into public.runtime_flags (key) values (%s)", (f"{session}:fetch_groups_requested",))
        say.execute(
            "insert into storage.objects (bucket_id, name) select 'wa-media', storage_path from public.media "
            "on conflict do nothing"
        )

    def _user(
        self,
        of: dict[str, tuple[str, list[int] | None]],
        whole: list[str] | None = None,
        owned: list[str] | None = None,
        groups: list[int] | None = None,
    ) -> User:
        user = str(uuid4())
        self.connection.execute("insert into auth.users (id) values (%s)", (user,))
        for session, (role, only) in of.items():
            self.connection.execute(
                "insert into public.session_members (session_id, user_id, role, groups) values (%s, %s, %s, %s)",
                (session, user, role, only),
            )
        return User(user=user, sessions=list(of), whole=whole or [], owned=owned or [], groups=groups or [])

    def tables(self) -> list[str]:
        found = self.connection.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')"
        )
        return sorted(row[0] for row in found)

    def columns(self, table: str) -> list[str]:
        found = self.connection.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            (f"public.{table}",),
        )
        return [row[0] for row in found]

    def shown(self, table: str) -> str:
        return ", ".join(name for name in self.columns(table) if name not in HIDDEN[table])

    def rows(self, table: str, where: str = "true", args: dict[str, Any] | None = None) -> list[Any]:
        query = f"select to_jsonb(t)::text from (select {self.shown(table)} from public.{table} where {where}) as t"  # noqa: S608
        return sorted(self.connection.execute(query, args).fetchall())

    def seen(self, table: str, user: User) -> list[Any]:
        with acting_as(self.connection, user.user):
            return self.rows(table)

    def theirs(self, table: str, user: User) -> list[Any]:
        return self.rows(table, MINE[table], vars(user))


@pytest.fixture(scope="module")
def world(postgres: str) -> Iterator[World]:
    with database(postgres, [STAND_IN, *migration_files()]) as connection:
        connection.execute("create publication supabase_realtime")
        for _ in range(2):
            connection.execute(USERS.read_bytes())
        yield World(connection)


NAMES = ["owner", "member", "of one group", "of both", "of no group", "foreigner", "nobody"]


@pytest.mark.parametrize("name", NAMES)
def test_a_user_sees_the_rows_of_their_groups_and_no_others(world: World, name: str) -> None:
    user = world.users[name]
    assert set(MINE) == set(HIDDEN)
    for table in HIDDEN:
        assert world.seen(table, user) == world.theirs(table, user), table
        if user.owned:
            assert world.seen(table, user), f"{table} has nothing to see"


@pytest.mark.parametrize("table", HIDDEN)
def test_the_check_sees_a_policy_that_is_missing_or_lets_everybody_in(world: World, table: str) -> None:
    policies = world.connection.execute(
        "select tablename, policyname from pg_policies "
        "where schemaname = 'public' and cmd = 'SELECT' and tablename = %s",
        ("messages" if table == "poll_votes" else table,),
    ).fetchall()
    assert policies
    owner = world.users["owner"]
    for on, policy in policies:
        for change in (f"drop policy {policy} on public.{on}", f"alter policy {policy} on public.{on} using (true)"):
            with world.connection.transaction(force_rollback=True):
                world.connection.execute(change)
                assert world.seen(table, owner) != world.theirs(table, owner), change


def denied(connection: Connection, query: str, args: Any = None) -> bool:
    """True if the role has no right to this; the transaction goes on."""
    try:
        with connection.transaction():
            connection.execute(query, args)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_what_is_not_granted_is_closed_by_column(world: World) -> None:
    foreigner = world.users["owner"]
    with acting_as(world.connection, foreigner.user):
        for table in world.tables():
            closed = HIDDEN.get(table)
            for column in world.columns(table):
                expected = closed is None or column in closed
                assert denied(world.connection, f"select {column} from public.{table}") == expected, (table, column)  # noqa: S608


def test_anon_reads_nothing(world: World) -> None:
    with acting_as(world.connection, None, "anon"):
        for table in world.tables():
            for column in world.columns(table):
                assert denied(world.connection, f"select {column} from public.{table}"), (table, column)  # noqa: S608
        assert world.connection.execute("select * from storage.objects").fetchall() == []
        assert denied(world.connection, "select public.changes('ours', '0')")
        assert denied(world.connection, "select public.my_sessions()")
        assert denied(world.connection, "select public.my_search('ours', 'x')")
        assert denied(world.connection, "select public.my_coverage('ours', 'x')")


@pytest.mark.parametrize("name", NAMES)
def test_nobody_writes_but_what_an_owner_may(world: World, name: str) -> None:
    user = world.users[name]
    updatable = {("groups", "monitor"), ("runtime_flags", "key"), ("runtime_flags", "value")}
    with acting_as(world.connection, user.user):
        for table in world.tables():
            if table == "poll_votes":
                continue
            assert denied(world.connection, f"delete from public.{table}"), table  # noqa: S608
            if table != "runtime_flags":
                assert denied(world.connection, f"insert into public.{table} default values"), table
            for column in world.columns(table):
                query = f"update public.{table} set {column} = default"  # noqa: S608
                if (table, column) in updatable:
                    continue
                assert denied(world.connection, query), (table, column)
        changed = world.connection.execute("update public.groups set monitor = false returning session_id").fetchall()
        assert {row[0] for row in changed} == set(user.owned)


@pytest.mark.parametrize("name", NAMES)
def test_only_an_owner_asks_the_worker(world: World, name: str) -> None:
    user = world.users[name]
    for session in (OURS, THEIRS):
        for key in (f"{session}:wa_refresh_qr_requested", f"{session}:fetch_groups_requested"):
            with acting_as(world.connection, user.user):
                query = (
                    "insert into public.runtime_flags (key, value) values (%s, %s) "
                    "on conflict (key) do update set key = excluded.key, value = excluded.value"
                )
                assert denied(world.connection, query, (key, '{"at": 1}')) == (session not in user.owned)


def test_the_worker_s_functions_stay_its_own(world: World) -> None:
    found = world.connection.execute(
        "select oid::regprocedure::text from pg_proc "
        "where pronamespace in ('public'::regnamespace, 'wa'::regnamespace) "
        "and has_function_privilege('authenticated', oid, 'execute')"
    ).fetchall()
    assert {row[0] for row in found} == {
        "changes(text,text,integer)",
        "my_coverage(text,text,timestamp with time zone,timestamp with time zone,integer)",
        "my_search(text,text,jsonb,text,text,integer)",
        "my_sessions()",
        "wa.cursor_range(text)",
    }
    helpers = world.connection.execute(
        "select proname from pg_proc where pronamespace = 'wa_users'::regnamespace and "
        "(has_function_privilege('anon', oid, 'execute') or provolatile <> 's' or "
        """array_to_string(proconfig, ',') is distinct from 'search_path=""')"""
    )
    assert helpers.fetchall() == []


def test_policies_ask_once_for_each_query_and_not_for_each_row(world: World) -> None:
    found = world.connection.execute("select concat(qual, with_check) from pg_policies").fetchall()
    calls = [call for (text,) in found for call in re.findall(r"(\w+) (?:wa_users|auth)\.", text)]
    assert set(calls) == {"SELECT"}
    assert len(calls) == sum(len(re.findall(r"(?:wa_users|auth)\.\w+\(", text)) for (text,) in found)


@pytest.mark.parametrize("name", NAMES)
def test_a_user_s_client_signs_the_files_of_their_groups(world: World, name: str) -> None:
    user = world.users[name]
    paths = {row[0] for row in world.connection.execute(
        "select f.storage_path from public.messages as m join public.media as f on f.id = m.media_id "
        "where m.group_id = any(%s)", (user.groups,)
    ).fetchall()}  # fmt: skip
    with acting_as(world.connection, user.user):
        found = world.connection.execute("select name from storage.objects").fetchall()
        assert {row[0] for row in found} == paths
        assert world.connection.execute("delete from storage.objects").rowcount == 0
    assert len(paths) == len(user.groups) + bool(user.groups), "one of each group, and the one that they share"


def test_a_file_goes_with_the_last_message_of_the_user_that_has_it(world: World) -> None:
    shared = "f" * 64 + "/original.jpg"
    user = world.users["of one group"]
    with world.connection.transaction(force_rollback=True):
        world.connection.execute(
            "update public.messages set media_id = null where wa_msg_id = 'S0' and session_id = %s", (OURS,)
        )
        with acting_as(world.connection, user.user):
            query = "select 1 from storage.objects where name = %s"
            assert world.connection.execute(query, (shared,)).fetchall() == [], "others still have it"


def changes(world: World, name: str, since: str | None, session: str = OURS, limit: int = 100) -> Any:
    with acting_as(world.connection, world.users[name].user):
        return call(world.connection, "changes", session, since, limit)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("session", [OURS, THEIRS])
def test_the_cursor_tells_a_user_what_they_see(world: World, name: str, session: str) -> None:
    user = world.users[name]
    answer = changes(world, name, "0", session)
    told = {row["message_id"] for row in answer["changes"] if not row["deleted"]}
    expected = world.connection.execute(
        "select id from public.messages where session_id = %s and group_id = any(%s)", (session, user.groups)
    ).fetchall()
    assert told == {row[0] for row in expected}
    assert all(row["message"] for row in answer["changes"] if not row["deleted"])
    (newest,) = world.connection.execute(
        "select max(change_id)::text from public.message_changes where session_id = %s", (session,)
    ).fetchone() or (None,)
    assert answer["next"] == (newest if expected else "0")
    assert [row for row in answer["changes"] if row["deleted"]] == [] or session in user.sessions


def search(world: World, name: str, session: str, filter_: Any = None, limit: int = 100, **args: Any) -> list[int]:
    """The ids of what a user finds; every page, one after the other."""
    found: list[int] = []
    cursor = None
    while True:
        with acting_as(world.connection, world.users[name].user):
            answer = call(
                world.connection, "my_search", session, args.get("query", ""), json.dumps(filter_ or {}),
                args.get("sort", "newest"), cursor, limit,
            )  # fmt: skip
        found += [row["message_id"] for row in answer["results"]]
        cursor = answer["next"]
        if cursor is None:
            return found


@pytest.fixture(scope="module")
def searchable(world: World) -> World:
    for session in (OURS, THEIRS):
        while call(world.connection, "wa.search_fill", session, 500):
            pass
    return world


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("session", [OURS, THEIRS])
@pytest.mark.parametrize(
    ("query", "filter_", "where"),
    [
        ("", {}, "true"),
        ("", None, "true"),
        ("text", {}, "kind in ('text', 'poll')"),
        ("", {"groups": "every"}, "true"),
        ("", {"kinds": ["image"]}, "kind = 'image'"),
    ],
)
def test_a_user_finds_the_messages_of_their_groups_and_no_others(
    searchable: World, name: str, session: str, query: str, filter_: Any, where: str
) -> None:
    """Also with the ids of all groups of both sessions as the filter, and page by page."""
    if filter_ == {"groups": "every"}:
        filter_ = {"groups": list(searchable.groups.values())}
    expected = searchable.connection.execute(
        f"select id from public.messages where session_id = %s and group_id = any(%s) and {where}",  # noqa: S608
        (session, searchable.users[name].groups),
    ).fetchall()
    for limit, sort in ((100, "newest"), (2, "newest"), (2, "best")):
        found = search(searchable, name, session, filter_, limit, query=query, sort=sort)
        if query:
            assert set(found) <= {row[0] for row in expected}
            assert bool(found) == bool(expected)
        else:
            assert sorted(found) == sorted(row[0] for row in expected), (limit, sort)


def test_one_group_is_found_by_its_number_or_as_a_text_and_another_s_gives_nothing(searchable: World) -> None:
    ours, theirs = searchable.groups[OURS, GROUP], searchable.groups[THEIRS, GROUP]
    for name in ("owner", "member", "of one group"):
        one = search(searchable, name, OURS, {"groups": [ours]})
        assert one == search(searchable, name, OURS, {"groups": [str(ours), theirs]}) != []
        assert search(searchable, name, OURS, {"groups": [theirs]}) == []
    with pytest.raises(psycopg.errors.ProgramLimitExceeded), searchable.connection.transaction():
        search(searchable, "owner", OURS, {"people": ["x" * 30_000]})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("filter_", [[], [{}], [{"groups": []}], 1, "x", True])
def test_a_filter_that_is_no_object_opens_no_other_group(searchable: World, name: str, filter_: Any) -> None:
    """The mark of one's groups would not become a part of it."""
    with acting_as(searchable.connection, searchable.users[name].user):
        for limit in (1, 100):
            with pytest.raises(psycopg.errors.InvalidParameterValue), searchable.connection.transaction():
                call(searchable.connection, "my_search", OURS, "", json.dumps(filter_), "newest", None, limit)


@pytest.mark.parametrize("name", NAMES)
def test_a_user_learns_the_coverage_of_their_groups_and_of_no_others(world: World, name: str) -> None:
    for (session, group), number in world.groups.items():
        args = (session, group, None, None, 10)
        with acting_as(world.connection, world.users[name].user):
            mine = not denied(world.connection, "select public.my_coverage(%s, %s, %s, %s, %s)", args)
            assert mine == (number in world.users[name].groups)
            told = call(world.connection, "my_coverage", *args) if mine else None
        assert told is None or told == call(world.connection, "coverage", *args)
    with acting_as(world.connection, world.users[name].user):
        assert denied(world.connection, "select public.my_coverage('ours', 'nowhere@g.us')")


def test_the_cursor_of_a_quiet_group_passes_what_others_wrote(world: World) -> None:
    name = "of one group"
    first = changes(world, name, "0", limit=2)
    assert len(first["changes"]) == 2
    assert int(first["next"]) == int(first["changes"][-1]["change_id"])
    end = changes(world, name, None)["next"]
    assert changes(world, name, end) == {"changes": [], "next": end, "start_again": False}


def test_a_user_is_told_to_start_again_as_the_worker_is(world: World) -> None:
    with world.connection.transaction(force_rollback=True):
        world.connection.execute("update public.wa_sessions set oldest_cursor = 1000000 where id = %s", (OURS,))
        for name in ("owner", "of one group"):
            assert changes(world, name, "1")["start_again"]


def test_only_an_owner_sees_the_code_to_scan(world: World) -> None:
    world.connection.execute(
        "update public.wa_sessions set creds_json = 'secret', detail = %s where true",
        (json.dumps({"state": "waiting_for_scan", "say": "Scan", "qr": "2@code"}),),
    )
    for name, user in world.users.items():
        with acting_as(world.connection, user.user):
            found = call(world.connection, "my_sessions")
        assert [row["id"] for row in found] == sorted(user.sessions), name
        assert {row["id"] for row in found if "2@code" in json.dumps(row)} == set(user.owned)
        assert "secret" not in json.dumps(found)
        assert all(row["state"] == "waiting_for_scan" and row["worker_runs"] for row in found)


def test_realtime_gets_one_small_table_of_which_users_see_their_rows(world: World) -> None:
    found = world.connection.execute("select tablename from pg_publication_tables where pubname = 'supabase_realtime'")
    assert found.fetchall() == [("message_changes",)]


def test_the_cursor_tells_every_column_that_users_may_read(world: World) -> None:
    """A new column of `messages` belongs into changes() and into the grants, or here into HIDDEN."""
    row = next(row["message"] for row in changes(world, "owner", "0")["changes"] if row["message"])
    read = set(world.columns("messages")) - HIDDEN["messages"] - {"revoke_claimed_at"}
    assert set(row) - {"media", "reactions"} == read


@pytest.mark.parametrize("publication", [True, False])
def test_it_can_be_removed(postgres: str, publication: bool) -> None:
    with database(postgres, [STAND_IN, *migration_files()]) as connection:
        if publication:
            connection.execute("create publication supabase_realtime")
        before = catalogue(connection)
        for _ in range(2):
            connection.execute(USERS.read_bytes())
        assert catalogue(connection) != before
        for _ in range(2):
            connection.execute(REMOVE_USERS.read_bytes())
        assert catalogue(connection) == before
        assert connection.execute("select 1 from pg_publication_tables").fetchall() == []

"""Sessions from the outside, on a real PostgreSQL: what is refused, what a removal leaves and what it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.database import GROUP, OTHER_GROUP, digest, message, photo
from tests.integration.test_sql_races import Connection, batch, call, connect

__all__ = ["connect"]  # fixtures

SECRET = {"message_secret": "c2VjcmV0"}


@pytest.fixture
def mine(connect: Callable[[], Connection]) -> Connection:
    connection = connect()
    connection.autocommit = True
    return connection


@pytest.fixture
def name() -> str:
    return f"admin-{uuid4().hex[:10]}"


def tables_of_sessions(connection: Connection) -> set[str]:
    rows = connection.execute(
        "select c.table_name from information_schema.columns as c "
        "join information_schema.tables as t using (table_schema, table_name) "
        "where c.table_schema = 'public' and c.column_name = 'session_id' and t.table_type = 'BASE TABLE'"
    ).fetchall()
    return {row[0] for row in rows}


def left(connection: Connection, session: str) -> dict[str, int]:
    """Rows of the session by table, without tables that have none."""
    found = {}
    for table in sorted(tables_of_sessions(connection)):
        row = connection.execute(
            f"select count(*) from public.{table} where session_id = %s".encode(),  # noqa: S608 - of the catalogue
            (session,),
        ).fetchone()
        if row and row[0]:
            found[table] = row[0]
    return found


def live(connection: Connection, session: str, file: str) -> None:
    """A session that has stored something of nearly each sort, its worker gone."""
    call(connection, "wa_lease_acquire", session, "w", 60)
    call(connection, "wa_begin_epoch", session, 1)
    groups = [{"wa_group_id": GROUP, "name": "Family"}, {"wa_group_id": OTHER_GROUP, "name": "Work"}]
    call(connection, "wa_upsert_groups", session, 1, json.dumps(groups), False)
    connection.execute("update public.groups set monitor = true where session_id = %s", (session,))
    change = {"chat_id": GROUP, "target_sender": "ana@lid", "target_id": "m1", "author": "ana@lid"}
    parts: dict[str, Any] = {
        "creds": "{}",
        "keys": [{"type": "session", "id": "1", "value": "x"}],
        "messages": [message(f"m{n}", n, **SECRET) for n in range(30)] + [photo("p1"), photo("p2")],
        "changes": [
            change | {"kind": "edit", "change_id": "e1", "at": "2026-11-22T12:00:05Z", "payload": {"text": "new"}},
            change | {"kind": "reaction", "change_id": "r1", "at": "2026-11-22T12:00:05Z", "payload": {"emoji": "x"}},
            change | {"kind": "edit", "change_id": "e2", "target_id": "later", "at": "2026-11-22T12:00:05Z",
                      "payload": {"text": "new"}},
        ],
        "hashes": [digest(f"{session}{n}") for n in range(5)],
        "identities": [{"lid": "ana@lid", "pn": "4917@s.whatsapp.net"}],
        "audits": [{"event": "connect", "payload": {}}],
        "discards": {"unmonitored": 3},
        "refused": [{"item": "message", "state": "waiting", "chat_id": GROUP, "code": "X", "reason": "", "body": "{}"}],
    }  # fmt: skip
    call(connection, "wa_commit", session, batch(1, **parts))
    (job, _) = call(connection, "wa_media_claim", "w", 2, 60, session)["jobs"]
    media = {"sha256": file, "mime": "image/jpeg", "bytes": "5", "storage_path": f"{file}/original.jpg"}
    call(connection, "wa_media_done", job["id"], "w", json.dumps(media))
    call(connection, "wa_set_session", session, 1, json.dumps({"status": "connected", "wa_number": "49"}))
    call(connection, "wa_raise_flag", session, "fetch_groups_requested")
    call(connection, "wa_ask", session, "fetch_groups")
    call(connection, "wa_host_poll", "w", 0, json.dumps([{"session": session, "fence": "1", "media": 0}]))
    call(connection, "wa_lease_release", session, "w", 1)


def remove(connection: Connection, session: str, *, data: bool, limit: int = 7) -> int:
    """How many steps it took."""
    for step in range(1, 1000):
        if not call(connection, "wa_remove_session", session, data, limit)["more"]:
            return step
    raise AssertionError("it never ends")


def test_the_removal_knows_every_table_of_ours(mine: Connection) -> None:
    row = mine.execute("select prosrc from pg_proc where oid = 'public.wa_remove_session'::regproc").fetchone()
    assert row is not None
    known = set(re.findall(r"'(\w+)'", row[0]))
    assert tables_of_sessions(mine) - known == set()


OWN_TABLES = {
    "own_uuid": "session_id uuid",
    "own_text": "session_id text",
    "own_forgets": "session_id text references public.wa_sessions (id) on delete set null",
    "own_holds": "session_id text references public.wa_sessions (id), group_id bigint references public.groups (id)",
}


def test_an_apps_own_tables_keep_their_rows_unless_these_hold_the_session(
    postgres: str, mine: Connection, name: str
) -> None:
    live(mine, name, uuid4().hex * 2)
    with psycopg.connect(postgres, autocommit=True) as admin:
        try:
            for table, columns in OWN_TABLES.items():
                admin.execute(f"create table public.{table} ({columns})".encode())
                admin.execute(f"grant select, delete on public.{table} to service_role".encode())
            admin.execute("insert into public.own_uuid values (gen_random_uuid())")
            for table in ("own_text", "own_forgets"):
                admin.execute(f"insert into public.{table} values (%s)".encode(), (name,))  # noqa: S608
            admin.execute(
                "insert into public.own_holds select session_id, id from public.groups where session_id = %s", (name,)
            )
            remove(mine, name, data=True)
            rows = {
                table: admin.execute(f"select session_id::text from public.{table}".encode()).fetchall()  # noqa: S608
                for table in OWN_TABLES
            }
        finally:
            for table in OWN_TABLES:
                admin.execute(f"drop table if exists public.{table}".encode())
    assert len(rows.pop("own_uuid")) == 1
    assert rows == {"own_text": [(name,)], "own_forgets": [(None,)], "own_holds": []}


def test_a_removal_with_data_leaves_nothing_and_touches_no_other_session(mine: Connection, name: str) -> None:
    other, file = f"{name}-2", uuid4().hex * 2
    for session in (name, other):
        live(mine, session, file)
    before = left(mine, other)
    assert {"messages", "message_edits", "message_reactions", "wa_held_changes", "people", "coverage_gaps"} <= set(
        before
    )
    assert remove(mine, name, data=True) > 5
    assert left(mine, name) == {}
    assert mine.execute("select count(*) from public.wa_sessions where id = %s", (name,)).fetchone() == (0,)
    assert left(mine, other) == before
    assert remove(mine, name, data=True) == 1, "again: nothing is there, and that is no error"


def test_a_file_of_two_sessions_is_one_object_and_stays_until_both_are_removed(mine: Connection, name: str) -> None:
    other, file = f"{name}-2", uuid4().hex * 2
    for session in (name, other):
        live(mine, session, file)
    assert mine.execute("select count(*) from public.media where sha256 = %s", (file,)).fetchone() == (1,)

    def listed() -> bool:
        return file in {one["sha256"] for one in call(mine, "wa_list_media_to_delete", 10_000)["objects"]}

    remove(mine, name, data=True)
    assert not listed()
    remove(mine, other, data=True)
    assert listed()


def test_a_removal_without_data_keeps_the_archive_and_forgets_the_account(mine: Connection, name: str) -> None:
    live(mine, name, uuid4().hex * 2)
    before = left(mine, name)
    remove(mine, name, data=False)
    after = left(mine, name)
    kept = ("messages", "groups", "people", "message_edits", "message_reactions", "media_jobs", "audit_log")
    assert {table: after[table] for table in kept} == {table: before[table] for table in kept}
    assert not {"wa_session_keys", "runtime_flags", "wa_requests", "decrypted_stanzas"} & set(after)
    row = mine.execute(
        "select creds_json, wa_number, status, detail ->> 'state', settings, fence from public.wa_sessions "
        "where id = %s",
        (name,),
    ).fetchone()
    assert row is not None
    assert row[:5] == (None, None, "disconnected", "removed", {})
    assert row[5] > 1, "whoever held it is refused"
    gap = mine.execute(
        "select count(*) from public.coverage_gaps where session_id = %s and reason = 'unlinked' and to_at is null",
        (name,),
    )
    assert gap.fetchone() == (1,), "the archive says since when nothing comes"


@pytest.mark.parametrize("readd", ["wa_add_session", "wa_lease_acquire", "insert"])
def test_a_worker_that_slept_while_its_session_was_removed_and_added_again_is_refused(
    mine: Connection, name: str, readd: str
) -> None:
    slept = call(mine, "wa_lease_acquire", name, "asleep", 60)["fence"]
    call(mine, "wa_lease_release", name, "asleep", slept)
    remove(mine, name, data=True)
    if readd == "wa_add_session":
        call(mine, "wa_add_session", name, True)
    elif readd == "insert":
        mine.execute("insert into public.wa_sessions (id, wanted) values (%s, true)", (name,))
    fence = call(mine, "wa_lease_acquire", name, "w", 60)["fence"]
    assert int(fence) > int(slept)
    with pytest.raises(psycopg.Error, match="stale_fence"):
        call(mine, "wa_commit", name, batch(1))
    call(mine, "wa_begin_epoch", name, fence)
    assert call(mine, "wa_lease_acquire", f"{name}-new", "w", 60)["fence"] == "1"


def test_fences_of_removed_sessions_are_forgotten_after_a_season(mine: Connection, name: str) -> None:
    for session in (name, f"{name}-2"):
        call(mine, "wa_add_session", session, False)
    remove(mine, name, data=True)
    mine.execute(
        "update public.wa_removed_sessions set removed_at = removed_at - interval '91 days' where id = %s", (name,)
    )
    remove(mine, f"{name}-2", data=True)
    left = mine.execute("select id from public.wa_removed_sessions where id like %s", (f"{name}%",)).fetchall()
    assert left == [(f"{name}-2",)]


def test_a_session_that_is_wanted_or_held_is_not_removed(mine: Connection, name: str) -> None:
    for _ in range(2):
        added = call(mine, "wa_add_session", name, True)["added"]
    assert added is False
    with pytest.raises(psycopg.Error, match="session_wanted"):
        call(mine, "wa_remove_session", name, True, 100)
    assert call(mine, "wa_want_session", name, False) == {"found": True, "changed": True}
    assert call(mine, "wa_want_session", name, False) == {"found": True, "changed": False}
    call(mine, "wa_lease_acquire", name, "w", 60)
    with pytest.raises(psycopg.Error, match="session_held"):
        call(mine, "wa_remove_session", name, True, 100)
    assert mine.execute("select fence from public.wa_sessions where id = %s", (name,)).fetchone() == (1,)
    assert call(mine, "wa_want_session", f"{name}-none", True) == {"found": False, "changed": False}


@pytest.mark.parametrize("claimed", [True, False], ids=["a host claims it", "run takes it"])
def test_what_was_asked_long_before_a_worker_takes_the_session_is_turned_down(
    mine: Connection, name: str, claimed: bool
) -> None:
    """The session may have been wanted all the time, while no host ran."""

    def take(owner: str) -> None:
        if claimed:
            call(mine, "wa.claim_sessions", owner, "{}", 1000, 30, True, "0 s")
        else:
            call(mine, "wa_lease_acquire", name, owner, 30)

    call(mine, "wa_add_session", name, claimed)
    old, new = (int(call(mine, "wa_ask", name, what)["id"]) for what in ("disconnect", "fetch_groups"))
    mine.execute("update public.wa_requests set created_at = now() - interval '11 minutes' where id = %s", (old,))
    take("one")
    assert call(mine, "wa_request_state", name, old) == {
        "handled": True, "result": "turned down: asked too long ago", "gone": False,
    }  # fmt: skip
    assert not call(mine, "wa_request_state", name, new)["handled"]
    mine.execute("update public.wa_requests set created_at = now() - interval '11 minutes' where id = %s", (new,))
    take("one")
    assert not call(mine, "wa_request_state", name, new)["handled"], "who has the session already is to answer"


def test_settings_are_replaced_only_if_they_are_those_that_were_read(mine: Connection, name: str) -> None:
    call(mine, "wa_add_session", name, False, json.dumps({"catch_up_s": 1}))
    read = call(mine, "wa_session_settings", name)
    assert (read["found"], read["values"]) == (True, {"catch_up_s": 1})
    assert call(mine, "wa_set_settings", name, json.dumps({"catch_up_s": 2}), read["version"])["changed"]
    assert not call(mine, "wa_set_settings", name, json.dumps({"catch_up_s": 3}), read["version"])["changed"]
    assert call(mine, "wa_session_settings", name)["values"] == {"catch_up_s": 2}
    assert call(mine, "wa_session_settings", f"{name}-none") == {"found": False}


def test_the_list_tells_no_secret_and_who_serves(mine: Connection, name: str) -> None:
    secret = "s3cret-of-a-proxy"  # noqa: S105
    call(mine, "wa_add_session", name, True, json.dumps({"proxy": f"http://u:{secret}@p:1"}))
    call(mine, "wa_lease_acquire", name, "somebody:1:x", 60)
    mine.execute(
        """update public.wa_sessions set creds_json = 'the creds', detail = '{"qr": "the code"}' where id = %s""",
        (name,),
    )
    answer = call(mine, "wa_list_sessions", name[:-1], 2)
    (row,) = [row for row in answer["sessions"] if row["id"] == name]
    assert (row["wanted"], row["holder"], row["by_host"], row["has_qr"], row["has_creds"], row["has_settings"]) == (
        True, "somebody:1:x", False, True, True, True,
    )  # fmt: skip
    for told in (answer, call(mine, "wa_status", name)):
        for word in (secret, "the creds", "the code"):
            assert word not in json.dumps(told)

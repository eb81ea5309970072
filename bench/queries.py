"""What an app's queries cost: `make benchqueries`, or `python -m bench.queries [--messages 1000000]`.

Fills a PostgreSQL of its own (tests/conftest.py). For each query of docs/app-queries.md it prints the plan
and the median time of seven runs with warm caches: as the service role, as a user of all groups, and as a member of one
quiet group, under the policies of supabase/optional/users.sql (there `my_search` is the search). Then what commits of
400 messages cost with the indexes and triggers for apps, without those of the search, and without all, in turn. Prints
figures; judges nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from testkit.users import REMOVE_USERS, STAND_IN, USERS, acting_as
from tests.conftest import real_postgres

PAGE = Path(__file__).resolve().parents[1] / "docs" / "app-queries.md"
SESSION, GROUPS, MEMBERS = "bench", 50, 300
FOR_APPS = ("messages_session_ts", "messages_sender_ts", "messages_gallery")
WAYS = {
    "with all": [],
    "without the search": [
        "alter table public.messages disable trigger note_search_change",
        "alter table public.messages disable trigger note_search_end",
        "drop index public.people_words",
    ],
    "without what apps need": [
        *(f"drop index public.{name}" for name in FOR_APPS),
        "drop index public.people_words",
        "alter table public.messages disable trigger user",
    ],
}

# Steps of a plan that say nothing of how rows are found.
UNTOLD = {
    "Bitmap Heap Scan", "CTE Scan", "Limit", "Nested Loop", "ProjectSet", "Recursive Union", "Result", "Subquery Scan",
    "WorkTable Scan",
}  # fmt: skip

Connection = psycopg.Connection[Any]


def queries() -> dict[str, str]:
    """The queries of the page by their headings, their values as psycopg wants them."""
    found = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```sql\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {title: re.sub(r"(?<!:):(\w+)", r"%(\1)s", query.replace("%", "%%")) for title, query in found}


def indexes() -> list[str]:
    """The index that the page names for each query."""
    return re.findall(r"^Index `(\w+)`", PAGE.read_text(), re.MULTILINE)


# What a million rows one by one would cost most: triggers, foreign keys, and indexes that are kept up to date.
UNINDEX = """
create temporary table kept as
select i.indexname as name, i.indexdef as definition
from pg_indexes as i
where i.schemaname = 'public' and i.tablename in ('messages', 'message_search', 'message_changes')
  and not exists (select 1 from pg_constraint as c where c.conname = i.indexname);
do $$ declare v_name text; begin
  for v_name in select name from kept loop execute 'drop index public.' || quote_ident(v_name); end loop;
end $$;
set session_replication_role = replica
"""
INDEX = """
do $$ declare v_definition text; begin
  for v_definition in select definition from kept order by name loop execute v_definition; end loop;
end $$;
drop table kept;
set session_replication_role = origin
"""
# As the triggers and the poll would have written them.
DERIVED = (
    "insert into public.people (session_id, sender, push_name, named_at) "
    "select distinct on (sender) session_id, sender, push_name, ts from public.messages order by sender, ts desc",
    "insert into public.message_changes (message_id, session_id, change_id) "
    "select id, session_id, nextval('public.message_changes_number') from public.messages order by id",
    "insert into public.message_search (session_id, message_id, at, words) "
    "select session_id, id, ts, wa.search_entry('pg_catalog.simple', m) from public.messages as m",
    "update public.wa_sessions set search_done = (select max(id) from public.messages)",
)
FILLED = ("messages", "message_changes", "message_search", "people")


def fill(connection: Connection, messages: int, begin: str = "2024-01-01") -> None:
    """A session as it may look: busy groups and quiet ones, texts and pictures, quotes and albums; one each minute.

    A text has a word of its own and eight of 20,000, of which the first is in half of the messages, the tenth in 8 %,
    the hundredth in 0.8 %.
    """
    say = connection.execute
    say("select public.wa_lease_acquire(%s, 'bench', 86400)", (SESSION,))
    say("select public.wa_begin_epoch(%s, 1)", (SESSION,))
    say(
        "insert into public.groups (session_id, wa_group_id, name, monitor) "
        "select %s, n || '@g.us', 'Group ' || n, true from generate_series(1, %s) as n",
        (SESSION, GROUPS),
    )
    say(
        "insert into public.media (sha256, mime, bytes, storage_path) "
        "select md5(n::text) || md5(n::text), 'image/jpeg', 1000, n::text from generate_series(1, 1000) as n"
    )
    base = one(connection, "select nextval('public.messages_id_seq')")
    say(UNINDEX)
    say(
        """
        insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, push_name, ts, kind, text,
          media_id, media_status, quoted_id, album_id, from_me)
        select %(session)s, g.id, 'M' || n, g.wa_group_id,
          (pick.number * 200 + floor(power(random(), 2) * %(members)s)) || '@lid',
          left(md5(n %% 1000 || 'name'), 6), %(begin)s::timestamptz + n * interval '1 minute',
          case when n %% 7 = 0 then 'image' else 'text' end, md5(n::text) || ' message ' || n || words.some,
          case when n %% 7 = 0 then (select min(id) from public.media where storage_path = '1') + n %% 1000 end,
          case when n %% 7 = 0 then 'stored' end,
          case when n > 2000 and n %% 11 = 0 then %(base)s + n - 1500 - n %% 110 end,
          case when n > 2000 and n %% 21 = 0 then %(base)s + n - 1500 - n %% 210 end, n %% 13 = 0
        from generate_series(1, %(messages)s::bigint) as n
        cross join lateral (select floor(power(random(), 3) * %(groups)s + n * 0)::int + 1 as number) as pick
        cross join lateral (
          select string_agg(' ' || left(md5(floor(exp(random() * 9.9 + (n + k) * 0))::text), 7), '') as some
          from generate_series(1, 8) as k
        ) as words
        inner join public.groups as g on g.session_id = %(session)s and g.wa_group_id = pick.number || '@g.us'
        order by n
        """,
        {
            "base": base, "session": SESSION, "members": MEMBERS, "groups": GROUPS, "begin": begin,
            "messages": messages,
        },
    )  # fmt: skip
    for statement in (*DERIVED, INDEX):
        say(statement)
    for table in FILLED:
        say(f"vacuum analyze public.{table}")


def values(connection: Connection, group: int | None = None) -> dict[str, Any]:
    """For each name in the queries a value that finds something: of this group, else of the busiest."""
    row = connection.execute(
        "select m.quoted_id, m.ts, m.sender, m.group_id, m.chat_id from public.messages as m where m.group_id = "
        "coalesce(%s, (select min(id) from public.groups where session_id = %s)) and m.quoted_id is not null "
        "order by m.id limit 1 offset case when %s::bigint is null then "
        "(select count(*) / 200 from public.messages where session_id = %s) else 0 end",
        (group, SESSION, group, SESSION),
    ).fetchone()
    assert row is not None
    cursor = one(connection, "select max(change_id) - 50 from public.message_changes where session_id = %s", SESSION)
    return dict(zip(("id", "ts", "sender", "group", "chat"), row, strict=True)) | {
        "session": SESSION,
        "cursor": str(cursor),
        "frequent": word(1),
        "half_frequent": word(100),
        "rare": word(10_000),
        "beginning": word(5_000)[:4],
        "name": hashlib.md5(b"7name", usedforsecurity=False).hexdigest()[:6],
    }


@dataclass(frozen=True)
class Reader:
    """A user, the values that find something of theirs, and the columns of messages that they may read."""

    user: str
    values: dict[str, Any]
    columns: str

    def query(self, query: str) -> str:
        """The same for somebody who may not read every column."""
        return query.replace("select *", f"select {self.columns}").replace("search_messages(", "my_search(")


def readers(connection: Connection) -> tuple[Reader, Reader]:
    """A user of all groups, and a member of one of the quiet groups. The users' policies are applied."""
    connection.execute(STAND_IN.read_bytes())
    connection.execute(USERS.read_bytes())
    columns = one(
        connection,
        "select string_agg(column_name, ', ') from information_schema.column_privileges "
        "where table_schema = 'public' and table_name = 'messages' and grantee = 'authenticated'",
    )
    quiet = one(connection, "select group_id from public.messages group by 1 order by count(*) limit 1")
    return _reader(connection, columns, None), _reader(connection, columns, quiet)


def _reader(connection: Connection, columns: str, group: int | None) -> Reader:
    user = str(uuid4())
    connection.execute("insert into auth.users (id) values (%s)", (user,))
    connection.execute(
        "insert into public.session_members (session_id, user_id, groups) values (%s, %s, %s)",
        (SESSION, user, None if group is None else [group]),
    )
    return Reader(user, values(connection, group), columns)


def word(place: int) -> str:
    """The word of this place in how frequent they are, as `fill` writes it."""
    return hashlib.md5(str(place).encode(), usedforsecurity=False).hexdigest()[:7]


def one(connection: Connection, query: str, *args: object) -> Any:
    return one_of(connection, query, args)


def one_of(connection: Connection, query: str, args: Mapping[str, Any] | tuple[object, ...]) -> Any:
    row = connection.execute(query, args).fetchone()
    assert row is not None
    return row[0]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's node and all below it, as `explain (format json)` gives them."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def plan(connection: Connection, query: str, args: Mapping[str, Any]) -> str:
    """The steps of a query, the last one first; `function` for one whose steps are inside a function."""
    found = one_of(connection, f"explain (format json) {query}", args)[0]["Plan"]
    steps = [_step(node) for node in nodes(found) if node["Node Type"] not in UNTOLD]
    return ", ".join(steps) or "function"


def _step(node: dict[str, Any]) -> str:
    backwards = " backwards" if node.get("Scan Direction") == "Backward" else ""
    index = f" `{node['Index Name']}`" if "Index Name" in node else ""
    return f"{node['Node Type'].lower()}{index}{backwards}"


def median_ms(connection: Connection, query: str, args: Mapping[str, Any]) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        connection.execute(query, args).fetchall()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


@contextmanager
def changed(connection: Connection, *statements: str) -> Iterator[None]:
    """Some of it missing, inside a transaction that is rolled back."""
    with connection.transaction(force_rollback=True):
        for statement in statements:
            connection.execute(statement)
        yield


def commit_ms(connection: Connection, seq: int, size: int = 400) -> float:
    """One commit, to the end of what its triggers do."""
    rows = [
        {
            "wa_msg_id": f"C{seq}-{n}", "chat_id": f"{n % GROUPS + 1}@g.us", "sender": f"{n}@lid", "push_name": "P",
            "ts": "2026-11-22T12:00:00Z", "kind": "text", "text": f"words of {n}", "raw": {"conversation": "words"},
        }
        for n in range(size)
    ]  # fmt: skip
    batch = json.dumps({"fence": "1", "epoch": "1", "seq": str(seq), "messages": rows})
    began = time.perf_counter()
    connection.execute("select public.wa_commit(%s, %s)", (SESSION, batch))
    connection.execute("set constraints all immediate")
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    count = parser.parse_args().messages
    with real_postgres() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        began = time.monotonic()
        fill(connection, count, begin=(datetime.now(UTC) - timedelta(minutes=count)).isoformat())
        print(f"{count:,} messages filled in {time.monotonic() - began:.0f} s\n")
        args = values(connection)
        connection.execute("set search_path = public")
        print("| query | plan | ms | as a user of all groups | as a member of one |\n|---|---|---|---|---|")
        users = readers(connection)
        for title, query in queries().items():
            figures = [plan(connection, query, args), f"{median_ms(connection, query, args):.1f}"]
            for reader in users:
                with acting_as(connection, reader.user):
                    figures.append(f"{median_ms(connection, reader.query(query), reader.values):.1f}")
            print(f"| {title} | {' | '.join(figures)} |", flush=True)
        connection.execute(REMOVE_USERS.read_bytes())
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(7):
            for way, statements in WAYS.items():
                with changed(connection, *statements):
                    taken[way].append(commit_ms(connection, 1))
        print("\ncommit of 400 messages:")
        for way, times in taken.items():
            print(f"{statistics.median(times):.0f} ms {way}")


if __name__ == "__main__":
    main()

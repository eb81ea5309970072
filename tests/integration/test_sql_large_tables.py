"""What must not become slow: rows that are read, on a real PostgreSQL, and merges that are done in steps.

Rows are counted, not milliseconds: a scan of 20,000 rows is fast, one of three million never ends in time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from bench.queries import nodes
from tests.integration.database import GROUP, at, message, photo
from tests.integration.test_sql_races import Connection, batch, call, connect, session
from tests.integration.test_store_changes import change

__all__ = ["connect", "session"]  # fixtures

LID, NUMBER = "880@lid", "4988@s.whatsapp.net"
ROWS = 20_000
MERGED_AT_ONCE = 2000  # wa.write_identities


@pytest.fixture
def crowded(postgres: str, session: str) -> str:
    """A session with 20,000 messages of others; two thousand of them came last and have mentions."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        fill(connection, session, 1, ROWS - 2000, "ana@lid")
        connection.execute("analyze public.messages")
        connection.execute(
            "insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, ts, kind, mentions) "
            "select %(s)s, g.id, 'm' || n, g.wa_group_id, 'ana@lid', now(), 'text', "
            "array(select (n * 100 + i) || '@lid' from generate_series(1, 30) as i) "
            "from public.groups as g, generate_series(1, 2000) as n where g.session_id = %(s)s",
            {"s": session},
        )
        connection.execute("analyze public.messages")
    return session


def fill(connection: Connection, session: str, first: int, last: int, sender: str) -> None:
    """Texts, ten minutes apart."""
    connection.execute(
        "insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, ts, kind, text) "
        "select %(s)s, g.id, n::text, g.wa_group_id, %(who)s, '2020-01-01'::timestamptz + n * interval '10 min', "
        "'text', 'x' from public.groups as g, generate_series(%(first)s::int, %(last)s::int) as n "
        "where g.session_id = %(s)s",
        {"s": session, "who": sender, "first": first, "last": last},
    )


def rows_read(connection: Connection) -> int:
    row = connection.execute("select pg_stat_get_xact_tuples_returned('public.messages'::regclass)").fetchone()
    assert row is not None
    return int(row[0])


def test_new_people_do_not_cost_a_scan_each(connect: Callable[[], Connection], crowded: str) -> None:
    pairs = [{"lid": f"{n}@lid", "pn": f"49{n}@s.whatsapp.net"} for n in range(50)]
    mine = connect()
    before = rows_read(mine)
    call(mine, "wa_commit", crowded, batch(1, identities=pairs))
    assert rows_read(mine) - before < 1000


def test_the_status_does_not_read_all_messages(connect: Callable[[], Connection], crowded: str) -> None:
    mine = connect()
    before = rows_read(mine)
    status = call(mine, "wa_status", crowded)
    assert rows_read(mine) - before < ROWS * 3 // 4
    assert not status["messages_exact"]
    assert ROWS * 0.7 < status["messages"] < ROWS * 1.3


def test_the_newest_of_a_quiet_session_are_read_past_no_others(postgres: str, crowded: str) -> None:
    """The console's first read of all groups (`newest` in console/messages.py)."""
    quiet = f"{crowded}-quiet"
    with psycopg.connect(postgres, autocommit=True) as owner:
        call(owner, "wa_lease_acquire", quiet, "a", 60)
        call(owner, "wa_upsert_groups", quiet, 1, json.dumps([{"wa_group_id": GROUP}]), False)
        fill(owner, quiet, 1, ROWS // 10, "ana@lid")
        fill(owner, crowded, ROWS + 1, ROWS * 2, "ana@lid")
        owner.execute("analyze public.messages")
        row = owner.execute(
            "explain (analyze, format json) select * from public.messages "
            "where session_id >= %s and session_id <= %s and rendition_of is null "
            "order by session_id desc, id desc limit 61",
            (quiet, quiet),
        ).fetchone()
    assert row is not None
    reads = [node for node in nodes(row[0][0]["Plan"]) if node.get("Relation Name") == "messages"]
    assert sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in reads) == 61


def test_statistics_of_a_table_that_grew_before_a_restart_are_refreshed(postgres: str) -> None:
    """A restart loses the counts of changes. Those of an open transaction are not counted yet either."""
    with psycopg.connect(postgres) as owner:
        owner.execute("create table public.grown (words text)")
        assert "grown" not in call(owner, "wa_analyze")["analyzed"]
        owner.execute("insert into public.grown select repeat('x', 100) from generate_series(1, 2000)")
        assert "grown" in call(owner, "wa_analyze")["analyzed"]
        assert "grown" not in call(owner, "wa_analyze")["analyzed"]
        owner.rollback()


def test_a_large_merge_does_not_hold_up_its_commit(
    postgres: str, connect: Callable[[], Connection], session: str
) -> None:
    """100,000 rows took 14 s in one statement: no client waits as long, and the commit never came through."""
    many = MERGED_AT_ONCE + 500
    with psycopg.connect(postgres, autocommit=True) as owner:
        fill(owner, session, 1, many, NUMBER)
    mine = connect()
    pair = [{"lid": LID, "pn": NUMBER}]
    call(mine, "wa_commit", session, batch(1, identities=pair))
    mine.commit()
    assert counts(mine, session) == {NUMBER: many}
    call(mine, "wa_commit", session, batch(2, identities=pair, messages=[message("77", sender=LID)]))
    mine.commit()
    steps = 0
    while call(mine, "wa_prune", session, 86_400, None)["more"]:
        mine.commit()
        steps += 1
        assert steps < 10
    assert counts(mine, session) == {LID: many}, "and two copies of one message have become one"


def counts(connection: Connection, session: str) -> dict[str, int]:
    query = "select sender, count(*) from public.messages where session_id = %s group by sender"
    return dict(connection.execute(query, (session,)).fetchall())


def test_a_merge_in_steps_ends_like_one_at_once(connect: Callable[[], Connection]) -> None:
    mine = connect()
    at_once, in_steps = "t-merge-at-once", "t-merge-in-steps"
    for name in (at_once, in_steps):
        prepare(mine, name)
    call(mine, "wa.merge_identity", at_once, LID, NUMBER)
    mine.execute("insert into public.wa_merges_due (session_id, lid, pn) values (%s, %s, %s)", (in_steps, LID, NUMBER))
    for _ in range(200):
        call(mine, "wa.merge_step", in_steps, 3)
    assert mine.execute("select count(*) from public.wa_merges_due where session_id = %s", (in_steps,)).fetchone() == (
        0,
    )
    assert standing(mine, in_steps) == standing(mine, at_once)
    assert NUMBER not in {row["sender"] for row in standing(mine, at_once)["messages"]}
    assert sum(row["parent"] is not None for row in standing(mine, at_once)["messages"]) > 5


def prepare(connection: Connection, session: str) -> None:
    """One person under two addresses, in one chat: pairs, copies, quotes, mentions, reactions, an edit that waits."""
    call(connection, "wa_lease_acquire", session, "a", 60)
    call(connection, "wa_begin_epoch", session, 1)
    call(connection, "wa_upsert_groups", session, 1, json.dumps([{"wa_group_id": GROUP}]), False)
    connection.execute("update public.groups set monitor = true where session_id = %s", (session,))
    messages = []
    changes = []
    for n in range(40):
        who = NUMBER if n % 3 else LID
        make = photo if n % 2 else message
        messages.append(make(f"A{n}", n * 20, sender=who, sender_alt=None))
        if n % 7 == 0:
            messages.append(make(f"A{n}", n * 20 + 1, sender=LID if who == NUMBER else NUMBER, sender_alt=None))
        if n % 5 == 0:
            said = {"mentions": [NUMBER, LID, "x@lid"], "quoted_msg_id": f"A{n}", "quoted_sender": who}
            messages.append(message(f"B{n}", n * 20 + 5, sender="ben@lid", **said))
            changes.append(change("reaction", f"B{n}", f"R{n}", target_sender="ben@lid", author=who, at=at(n)))
            changes[-1]["payload"] = {"emoji": "x"}
            changes.append(change("quote", f"A{n}", f"B{n}", target_sender=who, author="ben@lid"))
    changes.append(change("edit", "A1", "E1", target_sender=NUMBER, author=LID, payload={"text": "new"}))
    changes.append(change("revoke", "A4", "V1", target_sender=NUMBER, author=NUMBER))
    call(connection, "wa_commit", session, batch(1, messages=messages, changes=changes))


def standing(connection: Connection, session: str) -> dict[str, Any]:
    """All that was stored, without numbers of rows."""
    found: dict[str, Any] = {}
    queries = {
        "messages": "select m.wa_msg_id, m.sender, m.sender_alt, m.text, m.media_status, m.mentions, m.quoted_sender, "
        "m.revoked_by, m.edit_msg_id, p.wa_msg_id as parent, q.wa_msg_id as quoted from public.messages as m "
        "left join public.messages as p on m.parent_id = p.id left join public.messages as q on m.quoted_id = q.id "
        "where m.session_id = %s order by m.id",
        "reactions": "select m.wa_msg_id, r.sender, r.emoji, r.at::text from public.message_reactions as r "
        "inner join public.messages as m on r.message_id = m.id where r.session_id = %s order by m.id, r.sender",
        "held": "select kind, target_sender, target_id, author from public.wa_held_changes where session_id = %s "
        "order by kind, target_id",
        "jobs": "select m.wa_msg_id from public.media_jobs as j inner join public.messages as m on j.message_id = m.id "
        "where j.session_id = %s order by m.id",
    }
    for name, query in queries.items():
        cursor = connection.execute(query, (session,))
        columns = [column.name for column in cursor.description or ()]
        found[name] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return found

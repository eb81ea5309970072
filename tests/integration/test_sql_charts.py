"""What the console's charts ask for, on a real PostgreSQL: counts by time, results of polls, and rows that are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.database import GROUP, OTHER_GROUP
from tests.integration.test_sql_large_tables import ROWS, fill, rows_read
from tests.integration.test_sql_races import Connection, call, connect, session

__all__ = ["connect", "session"]  # fixtures

HOUR = 3600


@pytest.fixture
def mine(connect: Callable[[], Connection], session: str) -> Connection:
    """With both groups."""
    connection = connect()
    groups = json.dumps([{"wa_group_id": group} for group in (GROUP, OTHER_GROUP)])
    call(connection, "wa_upsert_groups", session, 1, groups, False)
    return connection


def add(connection: Connection, session: str, group: str, hours_ago: list[float], **columns: Any) -> list[int]:
    """Messages of these ages; their ids."""
    found = []
    for number, hours in enumerate(hours_ago):
        row = connection.execute(
            "insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, ts, kind, content) "
            "select %s, g.id, %s, g.wa_group_id, %s, now() - %s, %s, %s from public.groups as g "
            "where g.session_id = %s and g.wa_group_id = %s returning id",
            (
                session,
                columns.get("name", "m") + f"{group}{number}{columns.get('sender', '')}",
                columns.get("sender", "ana@lid"),
                timedelta(hours=hours),
                columns.get("kind", "text"),
                json.dumps(columns.get("content")) if columns.get("content") else None,
                session,
                group,
            ),
        ).fetchone()
        assert row is not None
        found.append(int(row[0]))
    return found


def group_id(connection: Connection, session: str, group: str) -> int:
    row = connection.execute(
        "select id from public.groups where session_id = %s and wa_group_id = %s", (session, group)
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_messages_are_counted_by_step_and_group(mine: Connection, session: str) -> None:
    add(mine, session, GROUP, [0, 0, 1, 5, 30])
    add(mine, session, OTHER_GROUP, [1])
    one, other = (group_id(mine, session, group) for group in (GROUP, OTHER_GROUP))
    for _ in range(2):
        all_groups = call(mine, "wa_activity", session, None, HOUR, 24)
    since = datetime.fromisoformat(all_groups["since"])
    assert since.timestamp() % HOUR == 0
    assert datetime.fromisoformat(all_groups["now"]) - since < timedelta(hours=24)
    counted = [(each["group_id"], each["at"], each["count"]) for each in all_groups["counts"]]
    assert counted == [(str(one), 18, 1), (str(one), 22, 1), (str(other), 22, 1), (str(one), 23, 2)]
    assert (all_groups["total"], all_groups["counted_from"]) == (5, None)
    alone = call(mine, "wa_activity", session, other, HOUR, 24)
    assert [(each["group_id"], each["at"]) for each in alone["counts"]] == [(str(other), 22)]
    assert call(mine, "wa_activity", "somebody-else", one, HOUR, 24)["total"] == 0, "a group of another session"


def test_what_lies_outside_of_the_time_is_not_counted(mine: Connection, session: str) -> None:
    add(mine, session, GROUP, [-1, -0.0001, 24.5])
    assert call(mine, "wa_activity", session, None, HOUR, 24)["counts"] == []


def test_beyond_six_groups_the_others_are_one(mine: Connection, session: str) -> None:
    for number in range(9):
        name = f"12036390{number}@g.us"
        call(mine, "wa_upsert_groups", session, 1, json.dumps([{"wa_group_id": name}]), False)
        add(mine, session, name, [0.0] * (number + 1))
    found = {each["group_id"]: each["count"] for each in call(mine, "wa_activity", session, None, HOUR, 2)["counts"]}
    assert sorted(found.values()) == [4, 5, 6, 6, 7, 8, 9]
    assert found[None] == 1 + 2 + 3


def test_a_bound_says_where_the_count_begins(mine: Connection, session: str) -> None:
    add(mine, session, GROUP, [1, 2, 3, 4])
    found = call(mine, "wa_activity", session, None, HOUR, 24, 2)
    begins = datetime.fromisoformat(found["now"]) - datetime.fromisoformat(found["counted_from"])
    assert begins == timedelta(hours=3)
    assert call(mine, "wa_activity", session, None, HOUR, 24, 4)["counted_from"] is None


def test_events_are_counted_by_step(mine: Connection, session: str) -> None:
    for event, hours in (("connect", 3), ("disconnect", 1), ("reconnect", 1), ("reconnect", 1), ("console", 0)):
        mine.execute(
            "insert into public.audit_log (session_id, event, at) values (%s, %s, now() - %s)",
            (session, event, timedelta(hours=hours)),
        )
    for _ in range(2):
        found = call(mine, "wa_event_counts", session, HOUR, 24)
    counted = [(each["event"], each["at"], each["count"]) for each in found["counts"]]
    assert counted == [("connect", 20, 1), ("disconnect", 22, 1), ("reconnect", 22, 2)]
    assert found["counted_from"] is None
    assert call(mine, "wa_event_counts", session, HOUR, 24, 2)["counted_from"] is not None


def test_a_poll_has_the_newest_vote_of_each_person(mine: Connection, session: str) -> None:
    poll, other = add(mine, session, GROUP, [5, 5], kind="poll")
    votes = [("ana", 4, ["Fri"]), ("ana", 3, ["Sat", "Fri", "Fri"]), ("ben", 2, ["Fri"]), ("dana", 1, [])]
    for number, (who, hours, choices) in enumerate(votes):
        content = {"about": poll, "choices": choices}
        add(mine, session, GROUP, [hours], kind="poll_vote", sender=f"{who}@lid", name=f"v{number}", content=content)
    odd = {"about": poll, "choices": "Fri"}
    add(mine, session, GROUP, [0], kind="poll_vote", sender="odd@lid", name="odd", content=odd)
    for _ in range(2):
        found = call(mine, "wa_poll_results", session, json.dumps([str(poll), str(other)]))["polls"]
    assert found == [
        {
            "poll_id": str(poll),
            "voters": 2,
            "options": [{"option": "Fri", "votes": 2}, {"option": "Sat", "votes": 1}],
        },
        {"poll_id": str(other), "voters": 0, "options": []},
    ]
    assert call(mine, "wa_poll_results", "somebody-else", json.dumps([str(poll)]))["polls"][0]["voters"] == 0


def test_a_chart_reads_what_it_counts(postgres: str, connect: Callable[[], Connection], session: str) -> None:
    """A day of 144 messages among 20,000, and never more than the bound."""
    with psycopg.connect(postgres, autocommit=True) as owner:
        fill(owner, session, 1, ROWS, "ana@lid")
        owner.execute(
            "update public.messages set ts = now() - %s * interval '10 min' + (id - ("
            "select min(id) from public.messages where session_id = %s)) * interval '10 min' where session_id = %s",
            (ROWS, session, session),
        )
        owner.execute("vacuum analyze public.messages")
    mine = connect()
    group = group_id(mine, session, GROUP)
    for wanted in (None, group):
        before = rows_read(mine)
        assert 140 <= call(mine, "wa_activity", session, wanted, 600, 144)["total"] <= 145
        assert rows_read(mine) - before <= 200, wanted
        before = rows_read(mine)
        call(mine, "wa_activity", session, wanted, 21_600, 120, 1000)
        assert rows_read(mine) - before <= 1100, wanted

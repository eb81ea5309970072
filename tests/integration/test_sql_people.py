"""People: one row each, with the newest name, whatever order things come in. On a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from tests.integration.database import message
from tests.integration.test_sql_races import Connection, batch, call, connect, session

__all__ = ["connect", "session"]  # fixtures

LID, NUMBER = "ana@lid", "4917@s.whatsapp.net"
PAIR: dict[str, Any] = {"identities": [{"lid": LID, "pn": NUMBER}]}
UNDER_NUMBER: dict[str, Any] = {"messages": [message("A1", 10, sender=NUMBER, sender_alt=None, push_name="Anna")]}
UNDER_LID: dict[str, Any] = {"messages": [message("A2", 20, sender=LID, sender_alt=None, push_name="Ana")]}
OLDER: dict[str, Any] = {"messages": [message("A3", 5, sender=LID, sender_alt=None, push_name="A.")]}


def people(connection: Connection, session: str) -> list[Any]:
    return connection.execute(
        "select sender, number, push_name from public.people where session_id = %s order by sender", (session,)
    ).fetchall()


@pytest.mark.parametrize("order", list(permutations([PAIR, UNDER_NUMBER, UNDER_LID, OLDER])))
def test_a_person_has_one_row_with_the_newest_name_in_any_order(
    connect: Callable[[], Connection], session: str, order: tuple[dict[str, Any], ...]
) -> None:
    mine = connect()
    known = False
    for seq, parts in enumerate(order, 1):
        if known and parts is UNDER_NUMBER:  # the worker knows the LID by then
            parts = {"messages": [message("A1", 10, sender=LID, push_name="Anna")]}
        known = known or parts is PAIR
        call(mine, "wa_commit", session, batch(seq, **parts))
    assert people(mine, session) == [(LID, NUMBER, "Ana")]


def test_a_batch_may_hold_many_of_one_person_and_some_without_a_name(
    connect: Callable[[], Connection], session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1", push_name=None)]))
    assert people(mine, session) == [(LID, NUMBER, None)]
    rows = [message(f"B{n}", n, push_name=name) for n, name in enumerate(["a", None, "c", "b", None], 100)]
    rows[3]["ts"] = rows[0]["ts"]
    rows.append(message("C1", sender="1203630@g.us", sender_alt=None, kind="system"))
    call(mine, "wa_commit", session, batch(2, messages=rows))
    assert people(mine, session) == [(LID, NUMBER, "c")]


def test_a_number_that_has_moved_gives_its_name_to_nobody(connect: Callable[[], Connection], session: str) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, **UNDER_NUMBER))
    call(mine, "wa_commit", session, batch(2, identities=[{"lid": "", "pn": NUMBER}, {"lid": "ben@lid", "pn": NUMBER}]))
    assert people(mine, session) == [(NUMBER, NUMBER, "Anna"), ("ben@lid", NUMBER, None)]

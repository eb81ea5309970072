"""Members of groups: what is told of them, in any order, by notices and lists. On a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from typing import Any

import psycopg
import pytest

from tests.integration.database import GROUP, OTHER_GROUP, at, message
from tests.integration.test_sql_races import Connection, batch, call, connect, session

__all__ = ["connect", "session"]  # fixtures

LID, NUMBER = "ana@lid", "4917@s.whatsapp.net"


def told(what: str, seconds: float, *members: str, role: str | None = None, **more: Any) -> dict[str, Any]:
    people = [{"member": member, "role": role} for member in members]
    return {"wa_group_id": GROUP, "at": at(seconds), "what": what, "members": people, **more}


def listed(seconds: float, *members: str, role: str = "member", complete: bool = True) -> dict[str, Any]:
    return told("list", seconds, *members, role=role, complete=complete)


def write(connection: Connection, session: str, *entries: dict[str, Any]) -> Any:
    return call(connection, "wa_write_members", session, 1, json.dumps(entries))


def members(connection: Connection, session: str) -> dict[str, tuple[str, Any, Any]]:
    """Role, and the seconds at which they joined and left."""
    found = connection.execute(
        "select member, role, extract(epoch from joined_at - %(start)s)::int, "
        "extract(epoch from left_at - %(start)s)::int from public.group_members where session_id = %(session)s",
        {"start": at(0), "session": session},
    ).fetchall()
    return {member: (role, joined, left) for member, role, joined, left in found}


ADDED = told("joined", 10, "ben@lid", role="member")
PROMOTED = told("role", 20, "ben@lid", role="admin")
REMOVED = told("left", 30, "ben@lid")
BACK = told("joined", 40, "ben@lid", role="member")


@pytest.mark.parametrize("order", list(permutations([ADDED, PROMOTED, REMOVED])))
def test_the_newest_word_holds_in_whatever_order_they_come(
    connect: Callable[[], Connection], session: str, order: tuple[dict[str, Any], ...]
) -> None:
    mine = connect()
    for seq, entry in enumerate(order, 1):
        call(mine, "wa_commit", session, batch(seq, members=[entry]))
    role, joined, left = members(mine, session)["ben@lid"]
    assert (joined, left) == (10, 30)
    assert role == "admin" or order.index(REMOVED) < order.index(PROMOTED), (
        "of somebody who has left it is the last one known"
    )


def test_one_batch_may_tell_a_whole_story(connect: Callable[[], Connection], session: str) -> None:
    mine = connect()
    for _ in range(2):  # the second is a duplicate
        call(mine, "wa_commit", session, batch(1, members=[ADDED, PROMOTED, REMOVED, BACK]))
    assert members(mine, session) == {"ben@lid": ("member", 40, None)}


def test_a_whole_list_closes_those_whom_it_lacks_and_not_who_is_newer(
    connect: Callable[[], Connection], session: str
) -> None:
    mine = connect()
    write(mine, session, listed(0, "ana@lid", "ben@lid", "cleo@lid"))
    call(mine, "wa_commit", session, batch(1, members=[told("joined", 101, "dora@lid", role="member")]))
    assert write(mine, session, listed(100, "ana@lid", "ben@lid", role="admin")) == {"written": 2, "closed": 1}
    assert members(mine, session) == {
        "ana@lid": ("admin", None, None),
        "ben@lid": ("admin", None, None),
        "cleo@lid": ("member", None, 100),
        "dora@lid": ("member", 101, None),
    }


@pytest.mark.parametrize("list_", [listed(100, "ana@lid", complete=False), listed(100, complete=False)])
def test_a_list_that_is_not_whole_closes_nobody(
    connect: Callable[[], Connection], session: str, list_: dict[str, Any]
) -> None:
    mine = connect()
    write(mine, session, listed(0, "ana@lid", "ben@lid"))
    assert write(mine, session, list_)["closed"] == 0
    assert [left for _, _, left in members(mine, session).values()] == [None, None]


def test_who_was_closed_by_a_list_is_a_member_again_with_the_next_one(
    connect: Callable[[], Connection], session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, members=[ADDED]))
    write(mine, session, listed(50, "ana@lid"))
    assert members(mine, session)["ben@lid"] == ("member", 10, 50)
    write(mine, session, listed(60, "ana@lid", "ben@lid"))
    assert members(mine, session)["ben@lid"] == ("member", 10, None)


def test_a_list_that_is_older_than_a_notice_changes_nothing(connect: Callable[[], Connection], session: str) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, members=[ADDED, REMOVED]))
    write(mine, session, listed(20, "ana@lid", "ben@lid"))
    assert members(mine, session)["ben@lid"] == ("member", 10, 30)
    write(mine, session, listed(35, "ana@lid", "ben@lid", "cleo@lid"))
    call(mine, "wa_commit", session, batch(2, members=[told("joined", 5, "cleo@lid", role="member")]))
    assert members(mine, session)["cleo@lid"] == ("member", 5, None), "an older word fills in when she joined"


PAIR: dict[str, Any] = {"identities": [{"lid": LID, "pn": NUMBER}]}
BY_NUMBER: dict[str, Any] = {"members": [told("joined", 10, NUMBER, role="member")]}
BY_LID: dict[str, Any] = {"members": [told("role", 20, LID, role="admin")]}


@pytest.mark.parametrize("order", list(permutations([PAIR, BY_NUMBER, BY_LID])))
def test_a_member_has_one_row_under_the_address_of_their_messages(
    connect: Callable[[], Connection], session: str, order: tuple[dict[str, Any], ...]
) -> None:
    mine = connect()
    for seq, parts in enumerate(order, 1):
        call(mine, "wa_commit", session, batch(seq, **parts))
    call(mine, "wa_commit", session, batch(4, messages=[message("A1", sender=LID)]))
    assert members(mine, session) == {LID: ("admin", 10, None)}
    joined = mine.execute(
        "select p.number from public.group_members as k join public.people as p "
        "on p.session_id = k.session_id and p.sender = k.member where k.session_id = %s",
        (session,),
    ).fetchall()
    assert joined == [(NUMBER,)]


def test_a_number_that_has_moved_makes_nobody_a_member(connect: Callable[[], Connection], session: str) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, **BY_NUMBER))
    call(mine, "wa_commit", session, batch(2, identities=[{"lid": "", "pn": NUMBER}, {"lid": "ben@lid", "pn": NUMBER}]))
    call(mine, "wa_commit", session, batch(3, members=[told("role", 50, NUMBER, role="admin")]))
    assert members(mine, session) == {NUMBER: ("admin", 10, None)}


def test_one_list_may_name_a_person_twice_and_the_higher_role_holds(
    connect: Callable[[], Connection], session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, **PAIR))
    people = [{"member": NUMBER, "role": "superadmin"}, {"member": LID, "role": "member"}, {"member": "", "role": None}]
    write(mine, session, {"wa_group_id": GROUP, "at": at(0), "what": "list", "members": people})
    assert members(mine, session) == {LID: ("superadmin", None, None)}


def test_only_groups_that_are_switched_on_have_members_and_they_go_with_the_group(
    connect: Callable[[], Connection], session: str
) -> None:
    mine = connect()
    other = {**listed(0, "ana@lid"), "wa_group_id": OTHER_GROUP}
    call(mine, "wa_upsert_groups", session, 1, json.dumps([{"wa_group_id": OTHER_GROUP}]), False)
    assert write(mine, session, other, {**other, "wa_group_id": "unknown@g.us"}) == {"written": 0, "closed": 0}
    write(mine, session, listed(0, "ana@lid"))
    mine.execute("update public.groups set monitor = false where session_id = %s", (session,))
    assert write(mine, session, listed(10, "ben@lid")) == {"written": 0, "closed": 0}
    assert set(members(mine, session)) == {"ana@lid"}, "what was written stays"
    mine.execute("delete from public.groups where session_id = %s", (session,))
    assert members(mine, session) == {}


def test_a_large_group_is_one_statement_and_who_lost_the_lease_writes_nothing(
    connect: Callable[[], Connection], session: str
) -> None:
    mine = connect()
    everybody = [f"{n}@lid" for n in range(5_000)]
    assert write(mine, session, listed(0, *everybody)) == {"written": 5_000, "closed": 0}
    assert write(mine, session, listed(10, *everybody[:2_000])) == {"written": 2_000, "closed": 3_000}
    with pytest.raises(psycopg.ProgrammingError, match="stale_fence"):
        call(mine, "wa_write_members", session, 2, "[]")

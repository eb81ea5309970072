"""Who is in the groups (WORKER_GROUP_MEMBERS): from one query for all groups, and from the groups' notices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.phone import Group
from tests.e2e.test_groups import polled, queries
from tests.e2e.town import MEMBERS, Town, found_town

pytestmark = pytest.mark.anyio


async def members(town: Town, group: Group) -> dict[str, dict[str, Any]]:
    """The rows of a group, by the members' LIDs."""
    (row,) = await town.database.rows("groups", session_id=town.database.session, wa_group_id=group.id)
    return {row["member"]: row for row in await town.database.rows("group_members", order="member", group_id=row["id"])}


async def wait_for(town: Town, group: Group, present: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Wait until these, and no others, are members, each with this role (by LID)."""

    async def probe() -> dict[str, dict[str, Any]] | None:
        rows = await members(town, group)
        return rows if {lid: row["role"] for lid, row in rows.items() if row["left_at"] is None} == present else None

    rows: dict[str, dict[str, Any]] = await town.database.until(
        f"the members of {group.subject}", probe, tell=town.worker.child.tail
    )
    return rows


async def test_members_come_from_the_list_of_all_groups_and_from_notices_without_another_query(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    settings = {"WORKER_GROUP_MEMBERS": "true"}
    async with found_town(tmp_path, supabase, session="members", settings=settings) as town:
        lid = {name: person.lid for name, person in town.people.items()}
        creator = MEMBERS[0]
        first = {town.owner.lid: "member"} | {lid[name]: "superadmin" if name == creator else "member" for name in lid}
        for group in (town.market, town.crew):  # the one is addressed by LIDs, the other by numbers
            rows = await wait_for(town, group, first)
            assert {row["joined_at"] for row in rows.values()} == {None}, "a list does not say since when"
        assert await members(town, town.family) == {}, "it is not switched on"
        before = await queries(town)

        eve = await town.phone.person("Eve")
        fred = await town.phone.person("Fred")
        await town.phone.post("/groups/add", {"id": town.market.id, "participants": ["Eve"]})
        await town.phone.post("/groups/add", {"id": town.crew.id, "participants": ["Fred"], "by_link": True})
        await town.phone.post("/groups/admins", {"id": town.market.id, "promote": ["Eve", "Ben"]})
        await town.phone.post("/groups/admins", {"id": town.market.id, "demote": ["Eve"]})
        await town.phone.post("/groups/remove", {"id": town.market.id, "participants": ["Chika"]})
        await town.phone.post("/groups/leave", {"id": town.market.id, "who": "Dora"})
        now = first | {eve.lid: "member", lid["Ben"]: "admin"}
        rows = await wait_for(
            town, town.market, {key: role for key, role in now.items() if key not in (lid["Chika"], lid["Dora"])}
        )
        assert rows[eve.lid]["joined_at"] is not None
        assert rows[lid["Dora"]]["left_at"] is not None
        joined = await wait_for(town, town.crew, first | {fred.lid: "member"})
        assert joined[fred.lid]["joined_at"] is not None
        assert await queries(town) == before

        people = await town.database.rows("people", order="sender", session_id="members", sender=fred.lid)
        assert [row["number"] for row in people] == [fred.pn], "his number, though he never wrote"

        # A notice that never came: the next list says it.
        await town.phone.post("/groups/remove", {"id": town.crew.id, "participants": ["Dora"], "notify": False})
        await polled(town)
        await town.database.fetch_groups(tell=town.worker.child.tail)
        left = {key: role for key, role in (first | {fred.lid: "member"}).items() if key != lid["Dora"]}
        rows = await wait_for(town, town.crew, left)
        assert rows[lid["Dora"]]["left_at"] is not None


async def test_without_the_setting_no_member_is_kept(town: Town) -> None:
    await town.phone.person("Gus")
    await town.phone.post("/groups/add", {"id": town.market.id, "participants": ["Gus"]})
    await town.stored("Gus", town.market, "I have joined")
    await town.database.fetch_groups(tell=town.worker.child.tail)
    await polled(town)
    assert await members(town, town.market) == {}

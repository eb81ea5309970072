"""Groups come, go and change their names without a query; the switch beside each is the user's alone."""

from __future__ import annotations

import pytest

from testkit.database import Row
from testkit.phone import Sent
from tests.e2e.town import Town

pytestmark = pytest.mark.anyio


async def group_row(town: Town, wa_group_id: str) -> Row | None:
    rows = await town.database.rows("groups", session_id=town.database.session, wa_group_id=wa_group_id)
    return rows[0] if rows else None


async def queries(town: Town) -> int:
    return sum(item["kind"] == "query" and item["xmlns"] == "w:g2" for item in await town.phone.log())


async def test_a_new_a_renamed_and_a_left_group_are_seen_without_a_query(town: Town) -> None:
    tell = town.worker.child.tail
    before, last = await queries(town), await town.database.last_event()

    group = await town.phone.group("Chess club", ["Ana", "Ben"])
    await town.database.wait_groups([group.id], tell=tell)
    row = await group_row(town, group.id)
    assert row is not None
    assert (row["name"], row["monitor"], row["left_at"]) == ("Chess club", False, None)

    await town.database.monitor([group.id])
    await town.phone.rename(group.id, "Chess and go club")
    entry = await town.database.wait_event("group_rename", last, tell=tell)
    assert entry["payload"] == {"from": "Chess club", "to": "Chess and go club", "wa_group_id": group.id}

    await town.phone.post("/groups/leave", {"id": group.id})

    async def has_left() -> Row | None:
        row = await group_row(town, group.id)
        return row if row and row["left_at"] else None

    row = await town.database.until("groups.left_at", has_left, tell=tell)
    assert (row["name"], row["monitor"]) == ("Chess and go club", True), "the switch is as the user left it"
    assert await queries(town) == before


async def polled(town: Town) -> None:
    """Wait for the next poll's end: groups are read before flags, and a malformed flag is reported at once."""
    last = await town.database.last_event()
    flag = {"key": town.database.flag_key("wa_refresh_qr_requested"), "value": {"at": f"never, {last}"}}
    await town.database.client.table("runtime_flags").upsert(flag).execute()

    async def reported() -> bool:
        rows = await town.database.events("error")
        return any(row["id"] > last and row["payload"]["code"] == "FLAG_MALFORMED" for row in rows)

    await town.database.until("a poll", reported, tell=town.worker.child.tail)


async def test_a_switch_takes_effect_with_the_next_poll(town: Town) -> None:
    await town.database.monitor([town.family.id])
    await polled(town)
    row = await town.stored("Ana", town.family, "from now on")
    assert row["text"] == "from now on"

    await town.database.monitor([town.family.id], on=False)
    await polled(town)
    sent = await town.phone.send("Ana", town.family.id, "no longer")
    await town.phone.wait_receipts([sent])
    assert await town.database.message(sent.id) is None
    assert await town.database.message(row["wa_msg_id"]) == row, "what was stored stays"


async def test_a_group_that_passes_from_numbers_to_lids_has_one_sender_and_finds_its_copies(town: Town) -> None:
    tell = town.worker.child.tail
    group = await town.phone.group("Movers", ["Ana", "Ben"], "pn")
    await town.database.wait_groups([group.id], tell=tell)
    await town.database.monitor([group.id])
    await polled(town)
    by_number = await town.stored("Ana", group, "by number")
    late = await town.phone.send("Ana", group.id, "a bad copy at first", fault={"corrupt": True, "hold": True})

    await town.phone.post("/groups/addressing", {"id": group.id, "addressing_mode": "lid"})
    by_lid = await town.stored("Ana", group, "by LID")
    await town.phone.post("/release", {"ids": [late.id]})

    async def good() -> Row | None:
        row = await town.database.message(late.id)
        return row if row and row["text"] == "a bad copy at first" else None

    copied = await town.database.until("the good copy", good, tell=tell)
    assert {row["sender"] for row in (by_number, by_lid, copied)} == {town.people["Ana"].lid}


async def test_nobody_is_asked_for_what_would_be_discarded_and_a_switched_on_group_is_read_from_its_next_message_on(
    town: Town,
) -> None:
    members = ["Ana", "Ben", "Cleo"]
    group = await town.phone.group("Quiz night", members)
    await town.database.wait_groups([group.id], tell=town.worker.child.tail)
    sent = [await town.phone.send(members[n % 2], group.id, f"unread {n}") for n in range(100)]
    keyless = [
        await town.phone.send("Cleo", group.id, "without my key", fault={"no_skdm": True}),
        await town.phone.send("Cleo", group.id, "still without", fault={"no_skdm": True}),
        await town.phone.send("Ana", group.id, "", fault={"unavailable": True}),
    ]
    await town.phone.wait_receipts([*sent, *keyless], kinds=["receipt", "ack"])
    assert [item for item in await asked(town) if item["id"] in {one.id for one in keyless}] == []

    await town.database.monitor([group.id])
    await polled(town)
    for member in members:
        fault = {"no_skdm": True} if member == "Cleo" else None
        sent_now = await town.phone.send(member, group.id, f"{member} is read", fault=fault)
        await stored_text(town, sent_now, f"{member} is read")
    last = await town.stored("Cleo", group, "her key has come with the copy")
    assert len([item for item in await asked(town) if item["to"] == group.id]) == 1, "Cleo, once"
    assert last["kind"] == "text"


async def stored_text(town: Town, sent: Sent, text: str) -> None:
    async def probe() -> bool:
        return [row["text"] for row in await town.database.messages(wa_msg_id=sent.id)] == [text]

    await town.database.until(f"the text of {sent.id}", probe, tell=town.worker.child.tail)


async def asked(town: Town) -> list[Row]:
    """Whatever the account asked of a sender."""
    return [item for item in await town.phone.receipts() if item["kind"] == "retry"]

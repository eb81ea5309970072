"""What a row says of its message, and that there is exactly one."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import pytest

from testkit.database import seconds_between
from tests.e2e.town import Town

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)  # WhatsApp's stanzas carry whole seconds


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("market", id="lid-addressed"),
        pytest.param("crew", id="number-addressed"),
    ],
)
async def test_a_message_has_the_right_sender_utc_time_kind_text_and_group(
    town: Town, place: Literal["market", "crew"]
) -> None:
    group = getattr(town, place)
    sent = await town.phone.send("Ben", group.id, "två rader\nund 🍊")

    row = await town.row(sent)

    groups = {each["wa_group_id"]: each["id"] for each in await town.database.groups()}
    assert row["sender"] == town.people["Ben"].lid, "one canonical form, whatever the group's addressing"
    assert row["sender_alt"] == town.people["Ben"].pn
    assert row["push_name"] == "Ben"
    assert (row["kind"], row["text"]) == ("text", "två rader\nund 🍊")
    assert (row["chat_id"], row["group_id"]) == (group.id, groups[group.id])
    assert abs(seconds_between(sent.t * 1000, row["ts"])) < timedelta(milliseconds=1)
    assert abs(seconds_between(sent.sent_at_ms, row["ts"])) <= SECOND
    assert row["raw"], "a subset of the payload is kept"


async def test_a_redelivered_message_is_stored_once(town: Town) -> None:
    logins = (await town.phone.state())["logins"]
    await town.phone.fault("drop_before_read")
    sent = await town.phone.send("Ana", town.market.id, "its receipt gets lost")

    await town.phone.wait_for("logins", count=logins + 1)
    await town.phone.wait_receipts([sent])

    assert (await town.row(sent))["text"] == "its receipt gets lost"  # fails if there are two
    offline = [item for item in await town.phone.log() if item["kind"] == "offline_sent"]
    assert offline, "the server did redeliver"
    await town.database.wait_status("connected")


async def test_the_same_stanza_twice_is_stored_once(town: Town) -> None:
    sent = await town.phone.send("Chika", town.market.id, "said twice", fault={"duplicate": True})
    await town.phone.wait_receipts([sent, await town.phone.send("Chika", town.market.id, "and then this")])

    assert (await town.row(sent))["text"] == "said twice"


async def test_two_senders_who_use_the_same_message_id_give_two_rows(town: Town) -> None:
    shared = "3EB0AAAAAAAAAAAAAAAAAA"
    hers = await town.phone.send("Ana", town.market.id, "Ana's", id=shared)
    his = await town.phone.send("Ben", town.market.id, "Ben's", id=shared)
    await town.phone.wait_receipts([hers, his])

    rows = await town.database.messages(wa_msg_id=shared)

    assert {row["sender"]: row["text"] for row in rows} == {
        town.people["Ana"].lid: "Ana's",
        town.people["Ben"].lid: "Ben's",
    }


async def test_a_second_copy_under_the_same_identity_changes_nothing(town: Town) -> None:
    first_sent = await town.phone.send("Ana", town.market.id, "the original", id="3EB0BBBBBBBBBBBBBBBBBB")
    first = await town.row(first_sent)
    await town.phone.wait_receipts([first_sent])
    receipts = len(await town.phone.receipts())
    await town.phone.send("Ana", town.market.id, "an impostor's words", id=first["wa_msg_id"])
    await town.phone.wait_receipts([await town.phone.send("Ana", town.market.id, "after the copy")])
    assert len(await town.phone.receipts(receipts)) == 2, "the copy was handled, and acknowledged like any other"

    assert await town.database.message(first["wa_msg_id"]) == first


async def test_a_message_that_the_owner_writes_on_the_phone_is_stored_like_any_other(town: Town) -> None:
    row = await town.stored("me", town.crew, "written on my own phone")

    assert row["sender"] == town.owner.lid
    assert row["from_me"]
    assert (row["text"], row["kind"], row["chat_id"]) == ("written on my own phone", "text", town.crew.id)

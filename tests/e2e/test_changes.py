"""Edits, revokes, reactions, quotes, albums and other kinds, from a phone to the tables."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from testkit.database import Row
from testkit.encrypted_edits import encrypted_edit
from testkit.phone import Group, Sent
from testkit.stanzas import b64
from tests.e2e.town import Town, photo

pytestmark = pytest.mark.anyio


def now_ms() -> int:
    return int(time.time() * 1000)


def own(sent: Sent, group: Group) -> dict[str, Any]:
    return {"remoteJid": group.id, "fromMe": True, "id": sent.id}


def theirs(sent: Sent, group: Group) -> dict[str, Any]:
    return {"remoteJid": group.id, "fromMe": False, "id": sent.id, "participant": sent.participant}


def edit(key: dict[str, Any], text: str, at_ms: int | None = None) -> dict[str, Any]:
    body = {"type": 14, "key": key, "editedMessage": {"conversation": text}, "timestampMs": at_ms or now_ms()}
    return {"protocolMessage": body}


async def tell(town: Town, who: str, group: Group, message: dict[str, Any]) -> Sent:
    """Send a message about another and wait until it is durable: only then is it receipted."""
    sent = await town.phone.send(who, group.id, message=message)
    await town.phone.wait_receipts([sent])
    assert await town.database.messages(wa_msg_id=sent.id) == [], "a change is no row of its own"
    return sent


async def reactions(town: Town, row: Row) -> dict[str, str | None]:
    return {
        each["sender"]: each["emoji"] for each in await town.database.rows("message_reactions", message_id=row["id"])
    }


async def test_an_edit_changes_the_text_and_keeps_the_former_one(town: Town) -> None:
    sent = await town.phone.send("Ana", town.market.id, "two crates")
    before = await town.row(sent)
    await tell(town, "Ana", town.market, edit(own(sent, town.market), "three crates", now_ms() + 1))
    await tell(town, "Ana", town.market, edit(own(sent, town.market), "too late", now_ms() - 60_000))
    row = await town.row(sent)
    assert (row["text"], row["id"], row["ts"]) == ("three crates", before["id"], before["ts"])
    assert row["edited_at"] is not None
    former = await town.database.rows("message_edits", message_id=row["id"])
    assert sorted(each["text"] for each in former) == ["too late", "two crates"]


async def test_an_edit_that_takes_a_caption_away_is_applied(town: Town) -> None:
    sent = await town.phone.send("Ana", town.market.id, media=photo(caption="to be removed"))
    await town.row(sent)
    removal = edit(own(sent, town.market), "", now_ms() + 1)
    removal["protocolMessage"]["editedMessage"] = {"imageMessage": {}}
    await tell(town, "Ana", town.market, removal)
    row = await town.row(sent)
    assert (row["text"] or None, row["edited_at"] is not None) == (None, True)
    (former,) = await town.database.rows("message_edits", message_id=row["id"])
    assert former["text"] == "to be removed"


async def test_nobody_edits_anothers_message(town: Town) -> None:
    sent = await town.phone.send("Ana", town.market.id, "Ana's words")
    await town.row(sent)
    await tell(town, "Ben", town.market, edit(theirs(sent, town.market), "Ben's words"))
    await tell(town, "Ben", town.market, edit(own(sent, town.market), "Ben's words"))
    assert (await town.row(sent))["text"] == "Ana's words"


async def test_an_encrypted_edit_is_opened_with_the_originals_secret(town: Town) -> None:
    secret = os.urandom(32)
    original = {"conversation": "sealed", "messageContextInfo": {"messageSecret": b64(secret)}}
    sent = await town.phone.send("Chika", town.market.id, message=original)
    row = await town.row(sent)
    assert b64(secret) not in str(row)
    lid = town.people["Chika"].lid
    await tell(town, "Chika", town.market, encrypted_edit(own(sent, town.market), secret, lid, "opened", now_ms()))

    async def opened() -> bool:
        return bool((await town.row(sent))["text"] == "opened")

    await town.database.until("the edit's text", opened)


async def revoke(town: Town, who: str, sent: Sent, edit: str | None = None) -> Row:
    """Take a message back as the phone does, and return its row when that is durable."""
    body = {"from": who, "to": town.market.id, "id": sent.id} | ({} if edit is None else {"edit": edit})
    answer = await town.phone.post("/revoke", body)
    await town.phone.wait_receipts([answer["id"]])
    return await town.row(sent)


async def test_a_revoke_by_the_sender_and_by_an_admin(town: Town) -> None:
    for who in ("Ben", "Ana"):  # Ana made the group
        sent = await town.phone.send("Ben", town.market.id, f"revoked by {who}")
        await town.row(sent)
        row = await revoke(town, who, sent)
        assert row["revoked_at"] is not None
        assert row["revoked_by"] == town.people[who].lid
        assert row["text"] == f"revoked by {who}", "WORKER_REVOKE=keep"


async def test_a_revoke_by_anybody_else_changes_nothing_until_they_are_an_admin(town: Town) -> None:
    sent = await town.phone.send("Ben", town.market.id, "stays")
    await town.row(sent)
    for edit_attr in ("7", "8"):
        row = await revoke(town, "Dora", sent, edit_attr)
        assert (row["revoked_at"], row["revoke_claimed_at"], row["text"]) == (None, None, "stays")
    (counted,) = await town.database.rows("wa_discards", session_id=town.database.session, reason="revoke_by_other")
    assert counted["count"] == 2

    await town.phone.post("/groups/admins", {"id": town.market.id, "promote": ["Dora"]})
    assert (await revoke(town, "Dora", sent))["revoked_by"] == town.people["Dora"].lid
    await town.phone.post("/groups/admins", {"id": town.market.id, "demote": ["Dora"]})
    other = await town.phone.send("Ben", town.market.id, "stays too")
    await town.row(other)
    assert (await revoke(town, "Dora", other))["revoked_at"] is None


async def test_reactions_are_replaced_and_taken_back(town: Town) -> None:
    sent = await town.phone.send("Ana", town.crew.id, "who comes?")
    row = await town.row(sent)
    key = theirs(sent, town.crew)
    for who, emoji in (("Ben", "👍"), ("Ben", "🎉"), ("Chika", "❤️"), ("Chika", "")):
        message = {"reactionMessage": {"key": key, "text": emoji, "senderTimestampMs": now_ms()}}
        await tell(town, who, town.crew, message)
    assert await reactions(town, row) == {town.people["Ben"].lid: "🎉", town.people["Chika"].lid: None}


async def test_what_comes_before_its_target_waits_for_it(town: Town) -> None:
    late = "3EB0CCCCCCCCCCCCCCCCCC"
    key = {"remoteJid": town.market.id, "fromMe": True, "id": late}
    await tell(town, "Ana", town.market, edit(key, "the second version"))
    message = {
        "reactionMessage": {"key": {**key, "fromMe": False, "participant": town.people["Ana"].lid}, "text": "👀"}
    }
    await tell(town, "Ben", town.market, message)
    assert len(await town.database.rows("wa_held_changes", target_id=late)) == 2
    sent = await town.phone.send("Ana", town.market.id, "the first version", id=late)
    row = await town.row(sent)
    assert row["text"] == "the second version"
    assert await reactions(town, row) == {town.people["Ben"].lid: "👀"}
    assert await town.database.rows("wa_held_changes", target_id=late) == []


@pytest.mark.parametrize("place", ["market", "crew"])
async def test_a_quote_names_its_message_and_whom_it_mentions(town: Town, place: str) -> None:
    group: Group = getattr(town, place)
    sent = await town.phone.send("Ana", group.id, "first")
    quoted = await town.row(sent)
    ben = town.people["Ben"]
    info = {
        "stanzaId": sent.id,
        "participant": sent.participant,
        "quotedMessage": {"conversation": "first"},
        "mentionedJid": [ben.lid if group.addressing_mode == "lid" else ben.pn],
        "isForwarded": True,
        "forwardingScore": 2,
    }
    await town.stored("Ben", group, "so that his number is known")
    message = {"extendedTextMessage": {"text": "second", "contextInfo": info}}
    row = await town.row(await town.phone.send("Chika", group.id, message=message))
    assert (row["quoted_id"], row["quoted_msg_id"], row["quoted_sender"]) == (
        quoted["id"],
        sent.id,
        town.people["Ana"].lid,
    )
    assert (row["mentions"], row["mention_count"]) == ([ben.lid], 1)
    assert (row["forwarded"], row["forward_score"]) == (True, 2)


async def test_an_albums_children_find_it_in_any_order(town: Town) -> None:
    album = "3EB0DDDDDDDDDDDDDDDDDD"
    key = {"remoteJid": town.market.id, "fromMe": True, "id": album}

    def child(name: str) -> dict[str, Any]:
        association = {"associationType": "MEDIA_ALBUM", "parentMessageKey": key}
        return {"locationMessage": {"name": name}, "messageContextInfo": {"messageAssociation": association}}

    first = await town.row(await town.phone.send("Dora", town.market.id, message=child("a")))
    assert first["album_id"] is None
    sent = await town.phone.send("Dora", town.market.id, id=album, message={"albumMessage": {"expectedImageCount": 2}})
    parent = await town.row(sent)
    second = await town.row(await town.phone.send("Dora", town.market.id, message=child("b")))
    assert parent["kind"] == "album"
    assert {row["id"] for row in await town.database.messages(album_id=parent["id"])} == {first["id"], second["id"]}


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (
            {"locationMessage": {"degreesLatitude": 6.5, "degreesLongitude": 3.4, "name": "Jetty"}},
            "location",
            "Jetty\n6.500000, 3.400000",
        ),
        ({"contactMessage": {"displayName": "Emeka", "vcard": "BEGIN:VCARD\nEND:VCARD"}}, "contact", "Emeka"),
        (
            {
                "pollCreationMessageV3": {
                    "name": "When?",
                    "options": [{"optionName": "now"}],
                    "selectableOptionsCount": 1,
                }
            },
            "poll",
            "When?\nnow",
        ),
        ({"eventMessage": {"name": "Market day"}}, "event", "Market day"),
        ({"groupInviteMessage": {"groupName": "Loaders", "inviteCode": "x"}}, "group_invite", "Loaders"),
    ],
)
async def test_other_kinds_are_rows(town: Town, message: dict[str, Any], kind: str, text: str) -> None:
    row = await town.row(await town.phone.send("Ana", town.market.id, message=message))
    assert (row["kind"], row["text"], row["parent_id"]) == (kind, text, None)


async def test_a_reaction_does_not_come_between_a_text_and_its_picture(town: Town) -> None:
    sent = await town.phone.send("Dora", town.crew.id, "look at this")
    text = await town.row(sent)
    message = {"reactionMessage": {"key": own(sent, town.crew), "text": "👆", "senderTimestampMs": now_ms()}}
    await tell(town, "Dora", town.crew, message)
    picture = await town.stored_media("Dora", town.crew, photo())
    assert picture["parent_id"] == text["id"]


async def test_nothing_about_an_unmonitored_chat_is_stored(town: Town) -> None:
    sent = await town.phone.send("Ana", town.family.id, "private")
    for message in (
        edit(own(sent, town.family), "private too"),
        {"reactionMessage": {"key": own(sent, town.family), "text": "👍"}},
        {"protocolMessage": {"type": 0, "key": own(sent, town.family)}},
    ):
        await tell(town, "Ana", town.family, message)
    assert await town.database.rows("wa_held_changes", chat_id=town.family.id) == []

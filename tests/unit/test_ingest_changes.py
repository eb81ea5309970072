"""Edits, revokes and reactions become changes, not rows; what cannot be read as one stays a row."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.encrypted_edits import encrypted_edit, encrypted_event_edit, field
from testkit.stanzas import (
    ANA,
    ANA_PHONE,
    BEN,
    GROUP,
    NOW_MS,
    NOW_S,
    OTHER_GROUP,
    b64,
    ingested,
    make_file,
    make_key,
    make_stanza,
)
from worker.bridge.protocol import ResendEvent
from worker.ingest.rules.changes import MAX_EMOJI_CHARS, millisecond_time

NOW = "2026-09-21T14:13:20.000Z"
LATER = "2026-09-21T14:13:20.123Z"
OWN = {"remoteJid": GROUP, "id": "T1", "fromMe": True}
MARK = {"blank": False, "by_admin": False}
BENS = {"remoteJid": GROUP, "id": "T1", "participant": "1002:3@lid"}


def edit(key: Any = None, text: str = "new", **more: Any) -> dict[str, Any]:
    body = {"type": "MESSAGE_EDIT", "key": OWN if key is None else key, "editedMessage": {"conversation": text}}
    return {"protocolMessage": body | more}


def revoke(key: dict[str, Any]) -> dict[str, Any]:
    return {"protocolMessage": {"type": "REVOKE", "key": key}}


def react(text: str, key: dict[str, Any] = BENS, **more: Any) -> dict[str, Any]:
    return {"reactionMessage": {"key": key, "text": text, **more}}


def the_change(content: dict[str, Any], **rules: Any) -> dict[str, Any]:
    result = ingested([make_stanza(content)], **rules)
    assert result["messages"] == []
    (change,) = result["changes"]
    return change


def about(target: str, **more: Any) -> dict[str, Any]:
    named = {"chat_id": GROUP, "target_sender": target, "target_id": "T1", "author": ANA, "change_id": "3EB0AA"}
    return named | {"at": NOW} | more


@pytest.mark.parametrize(
    ("content", "expected", "why"),
    [
        (edit(), about(ANA, kind="edit", payload={"text": "new"}), "bare"),
        ({"editedMessage": {"message": edit()}}, about(ANA, kind="edit", payload={"text": "new"}), "wrapped"),
        (edit(timestampMs=str(NOW_MS + 123)), about(ANA, kind="edit", payload={"text": "new"}, at=LATER), "its time"),
        (edit(timestampMs=NOW_MS + 123), about(ANA, kind="edit", payload={"text": "new"}, at=LATER), "as a number"),
        (edit(timestampMs=NOW_MS * 2), about(ANA, kind="edit", payload={"text": "new"}), "the future is not believed"),
        (edit(BENS), about(BEN, kind="edit", payload={"text": "new"}), "the inner key; SQL refuses it"),
        (edit(text=""), about(ANA, kind="edit", payload={"text": ""}), "an empty text is a text"),
        (
            edit(editedMessage={"imageMessage": make_file(caption="c\0")}),
            about(ANA, kind="edit", payload={"text": "c\ufffd"}),
            "a caption, made safe",
        ),
        *(
            (edit(editedMessage={field: {}}), about(ANA, kind="edit", payload={"text": ""}), "a caption taken away")
            for field in ("imageMessage", "videoMessage", "ptvMessage", "documentMessage")
        ),
        (revoke(OWN), about(ANA, kind="revoke", payload=MARK), "one's own"),
        (revoke(BENS), about(BEN, kind="revoke", payload=MARK), "another's; SQL refuses it"),
        (revoke({"id": "T1"}), about(ANA, kind="revoke", payload=MARK), "nobody named"),
        (revoke({**BENS, "remoteJid": OTHER_GROUP}), about(BEN, kind="revoke", payload=MARK), "this chat"),
        (react("👍"), about(BEN, kind="reaction", payload={"emoji": "👍"}), "a reaction"),
        (react(""), about(BEN, kind="reaction", payload={"emoji": ""}), "taken back"),
        (
            react("👍", senderTimestampMs=str(NOW_MS + 123)),
            about(BEN, kind="reaction", payload={"emoji": "👍"}, at=LATER),
            "its time",
        ),
        (
            react("x" * 500),
            about(BEN, kind="reaction", payload={"emoji": "x" * MAX_EMOJI_CHARS}),
            "no novel",
        ),
    ],
)  # fmt: skip
def test_a_message_about_another_is_a_change(content: dict[str, Any], expected: dict[str, Any], why: str) -> None:
    assert the_change(content) == expected, why


def test_blanking_is_said_with_each_revoke() -> None:
    assert the_change(revoke(OWN), blank_revoked=True)["payload"] == MARK | {"blank": True}


@pytest.mark.parametrize(("edit", "by_admin"), [("8", True), ("7", False), ("", False), (None, False), ("08", False)])
def test_who_revokes_as_an_admin_says_so_in_the_stanza(edit: str | None, by_admin: bool) -> None:
    attrs = make_stanza().attrs | ({} if edit is None else {"edit": edit})
    (change,) = ingested([make_stanza(revoke(BENS), attrs=attrs)])["changes"]
    assert change["payload"] == MARK | {"by_admin": by_admin}


def test_an_encrypted_edit_is_handed_on_sealed() -> None:
    change = the_change(encrypted_edit(OWN, b"\1" * 32, ANA, "new", NOW_MS))
    assert (change["kind"], change["target_sender"], change["at"]) == ("sealed_edit", ANA, NOW)
    assert change["payload"]["forms"] == [ANA, ANA_PHONE]
    assert set(change["payload"]) == {"ciphertext", "iv", "forms"}


def test_an_encrypted_edit_of_an_event_says_that_it_is_one() -> None:
    change = the_change(encrypted_event_edit(OWN, b"\1" * 32, ANA, field(3, "Fair")))
    assert (change["kind"], change["payload"]["event"]) == ("sealed_edit", True)


@pytest.mark.parametrize(
    ("content", "kind", "why"),
    [
        (edit(editedMessage={"hologramMessage": {}}), "edit", "no text that we know"),
        (edit(editedMessage={"audioMessage": {}}), "edit", "sound has no caption"),
        (edit(editedMessage={"extendedTextMessage": {}}), "edit", "a text without a text"),
        (edit({"id": ""}), "edit", "of what?"),
        ({"protocolMessage": {"type": "MESSAGE_EDIT", "editedMessage": {"conversation": "x"}}}, "edit", "no key"),
        (react("👍", {"participant": BEN}), "reaction", "to what?"),
        ({"encReactionMessage": {"targetMessageKey": BENS}}, "reaction", "encrypted reactions are not opened"),
        (
            {"secretEncryptedMessage": {"targetMessageKey": OWN, "secretEncType": "MESSAGE_EDIT", "encIv": b64(b"1")}},
            "edit",
            "nothing to decrypt",
        ),
        ({"pollUpdateMessage": {"pollCreationMessageKey": BENS}}, "poll_vote", "a vote is a row"),
    ],
)  # fmt: skip
def test_what_is_no_change_stays_a_row(content: dict[str, Any], kind: str, why: str) -> None:
    result = ingested([make_stanza(content)])
    assert [message["kind"] for message in result["messages"]] == [kind], why
    assert result["changes"] == []


def test_a_change_that_the_phone_delivered_anew_is_one_as_well() -> None:
    event = ResendEvent(type="resend", key=make_key(), content=react("👍"), t=str(NOW_S), push_name=None)
    result = ingested(events=[event])
    assert ([change["kind"] for change in result["changes"]], result["messages"]) == (["reaction"], [])


def test_the_canonical_sender_of_a_target_in_a_group_addressed_by_number() -> None:
    phone = "49222@s.whatsapp.net"
    assert the_change(react("x", {**BENS, "participant": phone}), lids={phone: BEN})["target_sender"] == BEN
    assert the_change(react("x", {**BENS, "participant": phone}))["target_sender"] == phone


def test_a_quote_and_an_album_are_links_of_a_row() -> None:
    info = {"stanzaId": "T1", "participant": BEN}
    beside = {"messageAssociation": {"associationType": "MEDIA_ALBUM", "parentMessageKey": {**OWN, "id": "A1"}}}
    result = ingested([make_stanza({"imageMessage": make_file(contextInfo=info), "messageContextInfo": beside})])
    assert len(result["messages"]) == 1
    assert [(c["kind"], c["target_sender"], c["target_id"], c["payload"]) for c in result["changes"]] == [
        ("quote", BEN, "T1", {}),
        ("album", ANA, "A1", {}),
    ]


def test_a_better_copy_of_a_photo_is_a_row_and_a_link_to_the_first() -> None:
    beside = {
        "messageAssociation": {"associationType": "HD_IMAGE_DUAL_UPLOAD", "parentMessageKey": {**OWN, "id": "A1"}}
    }
    wrapped = {"associatedChildMessage": {"message": {"imageMessage": make_file()}}, "messageContextInfo": beside}
    result = ingested([make_stanza(wrapped)])
    assert [row["rendition"] for row in result["messages"]] == ["hd"]
    assert [(c["kind"], c["target_sender"], c["target_id"]) for c in result["changes"]] == [("rendition", ANA, "A1")]


@pytest.mark.parametrize(
    ("key", "attrs", "reason"),
    [
        (make_key(remoteJid=OTHER_GROUP), {"t": str(NOW_S)}, "unmonitored"),
        (make_key(), {"t": str(NOW_S - 3600)}, "too_old"),
    ],
)
def test_a_change_obeys_the_rules_of_messages(key: dict[str, Any], attrs: dict[str, str], reason: str) -> None:
    for content in (edit(), revoke(BENS), react("👍")):
        result = ingested([make_stanza(content, key=key, attrs=attrs)])
        assert (result["changes"], result["messages"], result["discards"]) == ([], [], {reason: 1})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (str(NOW_MS + 123), LATER),
        (0, None),
        (-5, None),
        (True, None),
        ("1e3", None),
        ("9" * 400, None),
        (10**30, None),
        (None, None),
        (NOW_MS + 60_001, None),
        (1, "1970-01-01T00:00:00.001Z"),
    ],
)
def test_a_time_in_milliseconds(value: Any, expected: str | None) -> None:
    assert millisecond_time(value, NOW_S) == expected

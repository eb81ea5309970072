"""Quotes, mentions, forwarding, albums and secrets: what is read, what is bounded, what is not believed."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.stanzas import (
    ANA,
    ANA_PHONE,
    BEN,
    GROUP,
    NOW_S,
    OTHER_GROUP,
    b64,
    ingested,
    make_file,
    make_key,
    make_stanza,
)
from worker.ingest.rules.context import (
    MAX_EXPIRATION_S,
    MAX_MENTIONS,
    Context,
    Reference,
    numbers_in,
    read_context,
)
from worker.ingest.rules.live import iso

BEN_PHONE = "49222@s.whatsapp.net"
LIDS = {BEN_PHONE: BEN}
SECRET = b64(b"\x07" * 32)


def said(context: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"extendedTextMessage": {"text": "x", "contextInfo": context}, **beside}


def read(message: dict[str, Any]) -> Context:
    return read_context(message, ANA, LIDS)


@pytest.mark.parametrize(
    ("info", "expected", "why"),
    [
        ({"stanzaId": "Q", "participant": "1002:7@lid"}, Reference(sender=BEN, wa_msg_id="Q"), "without the device"),
        ({"stanzaId": "Q", "participant": BEN_PHONE}, Reference(sender=BEN, wa_msg_id="Q"), "the LID where known"),
        ({"stanzaId": "Q", "participant": "4499@c.us"}, Reference(sender="4499@s.whatsapp.net", wa_msg_id="Q"), "else"),
        ({"stanzaId": "Q"}, None, "nobody's"),
        ({"stanzaId": "Q", "participant": GROUP}, None, "a group says nothing"),
        ({"stanzaId": "", "participant": BEN}, None, "no id"),
        ({"stanzaId": 7, "participant": BEN}, None, "no text"),
        ({"participant": BEN}, None, "nothing is quoted"),
    ],
)
def test_a_quote_is_an_identity(info: dict[str, Any], expected: Reference | None, why: str) -> None:
    assert read(said(info)).quoted == expected, why


@pytest.mark.parametrize(
    "message",
    [
        {"imageMessage": make_file(contextInfo={"stanzaId": "Q", "participant": BEN})},
        {"ephemeralMessage": {"message": said({"stanzaId": "Q", "participant": BEN})}},
        {"locationMessage": {"contextInfo": {"stanzaId": "Q", "participant": BEN}}},
    ],
    ids=["a picture", "wrapped", "a place"],
)
def test_any_content_may_quote(message: dict[str, Any]) -> None:
    assert read(message).quoted == Reference(sender=BEN, wa_msg_id="Q")


@pytest.mark.parametrize(
    "message", [{}, {"conversation": "x"}, {"extendedTextMessage": {"contextInfo": "no"}}, said({"mentionedJid": "no"})]
)
def test_without_context_there_is_none(message: dict[str, Any]) -> None:
    assert read(message) == Context()


def test_mentions_are_canonical_and_each_once() -> None:
    found = read(said({"mentionedJid": [BEN_PHONE, "1002:3@lid", None, "nonsense", ANA, BEN, {}]}))
    assert (found.mentions, found.mention_count) == ((BEN, ANA), 7)


def test_ten_thousand_mentions_are_counted_and_the_first_hundred_kept() -> None:
    found = read(said({"mentionedJid": [f"{n}@lid" for n in range(10_000)]}))
    assert found.mentions == tuple(f"{n}@lid" for n in range(MAX_MENTIONS))
    assert found.mention_count == 10_000


@pytest.mark.parametrize(
    ("info", "forwarded", "score"),
    [
        ({"isForwarded": True}, True, 0),
        ({"isForwarded": True, "forwardingScore": 127}, True, 127),
        ({"forwardingScore": 3}, True, 3),
        ({"forwardingScore": -1}, False, 0),
        ({"forwardingScore": 2**40}, True, 1_000_000),
        ({"forwardingScore": True, "isForwarded": "yes"}, False, 0),
    ],
)
def test_forwarding(info: dict[str, Any], forwarded: bool, score: int) -> None:
    found = read(said(info))
    assert (found.forwarded, found.forward_score) == (forwarded, score)


@pytest.mark.parametrize(
    ("association", "expected", "why"),
    [
        ({"associationType": "MEDIA_ALBUM", "parentMessageKey": {"id": "A", "fromMe": True}}, ANA, "the sender's own"),
        ({"associationType": 1, "parentMessageKey": {"id": "A", "participant": BEN}}, BEN, "SQL refuses a foreign one"),
        ({"associationType": "MEDIA_ALBUM", "parentMessageKey": {"id": "A"}}, ANA, "nobody named"),
        ({"associationType": "HD_VIDEO_DUAL_UPLOAD", "parentMessageKey": {"id": "A"}}, None, "no album"),
        ({"associationType": "MEDIA_ALBUM"}, None, "which?"),
        ({"associationType": "MEDIA_ALBUM", "parentMessageKey": {"id": 1}}, None, "no id"),
        ("MEDIA_ALBUM", None, "no association"),
    ],
)
def test_an_albums_child_names_its_album(association: Any, expected: str | None, why: str) -> None:
    beside = {"messageContextInfo": {"messageAssociation": association}}
    for message in (
        {"imageMessage": {}, **beside},
        {"associatedChildMessage": {"message": {"imageMessage": {}}}, **beside},
    ):
        found = read(message).album
        assert (found and found.sender) == expected, why


@pytest.mark.parametrize(
    ("kind", "rendition"),
    [
        ("HD_IMAGE_DUAL_UPLOAD", "hd"), (10, "hd"), ("HD_VIDEO_DUAL_UPLOAD", "hd"), (5, "hd"),
        ("HEVC_VIDEO_DUAL_UPLOAD", "hevc"), (19, "hevc"), ("MOTION_PHOTO", "motion"), (12, "motion"),
        ("MEDIA_ALBUM", None), ("MEDIA_POLL", None), (99, None), ([], None), (None, None),
    ],
)  # fmt: skip
def test_a_rendition_names_the_message_that_it_is_of(kind: Any, rendition: str | None) -> None:
    association = {"associationType": kind, "parentMessageKey": {"id": "A", "fromMe": True}}
    beside = {"messageContextInfo": {"messageAssociation": association}}
    found = read({"associatedChildMessage": {"message": {"imageMessage": {}}}, **beside})
    assert found.rendition == rendition
    assert (found.rendition_of and (found.rendition_of.sender, found.rendition_of.wa_msg_id)) == (
        (ANA, "A") if rendition else None
    )


def test_a_rendition_of_nothing_is_an_ordinary_message() -> None:
    beside = {"messageContextInfo": {"messageAssociation": {"associationType": 10, "parentMessageKey": {"id": 7}}}}
    found = read({"imageMessage": {}, **beside})
    assert (found.rendition, found.rendition_of) == (None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(SECRET, SECRET), (b64(b"\x07" * 31), None), ("not base64!", None), (None, None), ("A" * 5000, None)],
)
def test_a_secret_has_32_bytes(value: Any, expected: str | None) -> None:
    assert read({"conversation": "x", "messageContextInfo": {"messageSecret": value}}).secret == expected


def test_the_secret_is_no_part_of_the_rows_payload_or_of_its_repr() -> None:
    (message,) = ingested([make_stanza({"conversation": "x", "messageContextInfo": {"messageSecret": SECRET}})])[
        "messages"
    ]
    assert message["secret"] == SECRET
    assert SECRET not in str(message["raw"])
    assert SECRET not in repr(Context(secret=SECRET))


@pytest.mark.parametrize(
    ("expiration", "seconds"),
    [
        (86_400, 86_400),
        (0, None),
        (-5, None),
        ("86400", None),
        (10**9, MAX_EXPIRATION_S),
    ],
)
def test_a_disappearing_message_says_when(expiration: Any, seconds: int | None) -> None:
    (row,) = ingested([make_stanza(said({"expiration": expiration}))])["messages"]
    assert row["expires_at"] == (None if seconds is None else iso(NOW_S + seconds))


def test_columns_of_a_row_that_quotes() -> None:
    info = {"stanzaId": "Q", "participant": BEN, "mentionedJid": [BEN], "isForwarded": True, "forwardingScore": 5}
    (message,) = ingested([make_stanza(said(info))])["messages"]
    columns = ("quoted_msg_id", "quoted_sender", "mentions", "mention_count", "forwarded", "forward_score", "secret")
    assert [message[name] for name in columns] == ["Q", BEN, [BEN], 1, True, 5, None]


def test_numbers_that_must_be_looked_up_before_a_message_is_read() -> None:
    info = {"stanzaId": "Q", "participant": "491@s.whatsapp.net", "mentionedJid": ["492@c.us", BEN, 7]}
    key = {"id": "A", "participant": "493@s.whatsapp.net"}
    beside = {"messageContextInfo": {"messageAssociation": {"parentMessageKey": key}}}
    assert set(numbers_in(said(info, **beside))) == {f"49{n}@s.whatsapp.net" for n in (1, 2, 3)}
    assert list(numbers_in({"reactionMessage": {"key": {"participant": ANA_PHONE}, "text": "x"}})) == [ANA_PHONE]
    assert list(numbers_in({"protocolMessage": {"key": {"participant": ANA_PHONE}}})) == [ANA_PHONE]
    assert list(numbers_in({})) == []
    assert len(list(numbers_in(said({"mentionedJid": [ANA_PHONE] * 10_000})))) == 4 * MAX_MENTIONS


def test_a_quote_in_an_unmonitored_group_leaves_nothing() -> None:
    stanza = make_stanza(said({"stanzaId": "Q", "participant": BEN}), key=make_key(remoteJid=OTHER_GROUP))
    assert ingested([stanza])["changes"] == []

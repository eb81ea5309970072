"""Encrypted edits (`secretEncryptedMessage`), decrypted with the original message's secret.

The scheme is WhatsApp's "message secrets", as published by whatsmeow (`msgsecret.go`) and used by Baileys for poll
votes and event responses:

    key       = HKDF-SHA256(secret, no salt, info = original id ‖ its sender ‖ the edit's sender ‖ "Message Edit", 32)
    plaintext = AES-256-GCM(key, encIv, encPayload)   without additional data, unlike poll votes
    plaintext = Message { protocolMessage { editedMessage: Message, timestampMs } }

An event's edit (EVENT_EDIT) has another use in its key, and its Message contains the event's new state: all of it,
judging by its shape. None from a real phone has been seen.

Verified: key and cipher against Baileys' HKDF and AES-GCM, the fields against its WAProto. Not verified against a real
phone. Two projects on GitHub report that real phones' edits decrypt this way with the sender's LID. Which form a phone
uses in a group addressed by number is unknown, so all forms of the sender are tried: a wrong one does not
authenticate. No other decisions, no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

USE_CASE, EVENT_USE_CASE = b"Message Edit", b"Event Edit"
KEY_BYTES = 32
MAX_FORMS = 3  # LID, number, and the envelope's form: nine keys at most
MAX_DEPTH = 6
MAX_FIELDS = 1000  # per message; WAProto's largest has about a hundred, a hostile 256 KiB could have 130,000

# Field numbers of WAProto; a test compares them with Baileys' .proto.
PROTOCOL_MESSAGE, EDITED_MESSAGE, TIMESTAMP_MS = 12, 14, 15  # in Message, ProtocolMessage, ProtocolMessage
CONVERSATION = 1
EXTENDED_TEXT = 6
TEXTS = {EXTENDED_TEXT: 1, 3: 3, 9: 7, 66: 7, 7: 20}  # extendedText.text, then captions: image, video, ptv, document
WRAPPERS = (58, 53, 40)  # editedMessage, documentWithCaption, ephemeral; the Message is field 1 of each
EVENT, LOCATION = 75, 5  # in Message, EventMessage
EVENT_FIELDS = {
    2: ("isCanceled", bool), 3: ("name", str), 4: ("description", str), 6: ("joinLink", str), 7: ("startTime", int),
    8: ("endTime", int), 9: ("extraGuestsAllowed", bool), 10: ("isScheduleCall", bool),
}  # fmt: skip
LOCATION_FIELDS = {
    1: ("degreesLatitude", float), 2: ("degreesLongitude", float), 3: ("name", str), 4: ("address", str),
    5: ("url", str),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A decrypted edit. `timestamp_ms` None: it has none. `event`: the fields of an `eventMessage`, as JSON."""

    text: str
    timestamp_ms: int | None
    event: dict[str, Any] | None = None


def open_edit(
    secret: bytes, ciphertext: bytes, iv: bytes, target_id: str, forms: Iterable[str], *, event: bool = False
) -> Opened | None:
    """The edit; None if it authenticates under none of the sender's `forms`, or has neither text nor event."""
    use, read = (EVENT_USE_CASE, read_event) if event else (USE_CASE, read_edit)
    addresses = list(dict.fromkeys(forms))[:MAX_FORMS]
    pairs = sorted(product(addresses, repeat=2), key=lambda pair: pair[0] != pair[1])  # equal pairs first: one person
    for sender, editor in pairs:
        key = sealed_key(secret, target_id, sender, editor, use)
        try:
            return read(AESGCM(key).decrypt(iv, ciphertext, None))
        except (InvalidTag, ValueError):
            continue
    return None


def edit_key(secret: bytes, target_id: str, sender: str, editor: str) -> bytes:
    """The key of one edit of one message."""
    return sealed_key(secret, target_id, sender, editor, USE_CASE)


def sealed_key(secret: bytes, target_id: str, sender: str, author: str, use: bytes) -> bytes:
    """The key for content that `author` encrypts with the secret of `sender`'s message. `use`: its purpose."""
    info = target_id.encode() + sender.encode() + author.encode() + use
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def read_edit(plaintext: bytes) -> Opened | None:
    """The text and time of an encoded `Message`; None if it has no text that we know.

    Raises:
        ValueError: invalid protobuf.
    """
    protocol = _last(plaintext, PROTOCOL_MESSAGE)
    edited = _last(protocol, EDITED_MESSAGE) if isinstance(protocol, bytes) else plaintext
    stamp = _last(protocol, TIMESTAMP_MS) if isinstance(protocol, bytes) else None
    text = _text(edited, MAX_DEPTH) if isinstance(edited, bytes) else None
    return None if text is None else Opened(text=text, timestamp_ms=stamp if isinstance(stamp, int) else None)


def read_event(plaintext: bytes) -> Opened | None:
    """The event in an encoded `Message`, plain or inside an edit; None if there is none.

    Raises:
        ValueError: invalid protobuf.
    """
    protocol = _last(plaintext, PROTOCOL_MESSAGE)
    edited = _last(protocol, EDITED_MESSAGE) if isinstance(protocol, bytes) else plaintext
    stamp = _last(protocol, TIMESTAMP_MS) if isinstance(protocol, bytes) else None
    body = _last(edited, EVENT) if isinstance(edited, bytes) else None
    if not isinstance(body, bytes):
        return None
    event = _as_json(body, EVENT_FIELDS)
    place = _last(body, LOCATION)
    if isinstance(place, bytes):
        event["location"] = _as_json(place, LOCATION_FIELDS)
    return Opened(text="", timestamp_ms=stamp if isinstance(stamp, int) else None, event=event)


def _as_json(message: bytes, names: dict[int, tuple[str, type]]) -> dict[str, Any]:
    """The named fields in protobuf's JSON form; omits fields of another type."""
    found: dict[str, Any] = {}
    for number, value in protobuf_fields(message):
        name, kind = names.get(number, ("", bytes))
        if kind is float and isinstance(value, bytes) and len(value) == 8:
            found[name] = struct.unpack("<d", value)[0]
        elif kind is str and isinstance(value, bytes):
            found[name] = value.decode()
        elif kind in (int, bool) and isinstance(value, int):
            found[name] = kind(value)
    return found


def _text(message: bytes, depth: int) -> str | None:
    found = dict(protobuf_fields(message))
    said = found.get(CONVERSATION)
    if isinstance(said, bytes):
        return said.decode()
    for field, inner in TEXTS.items():
        body = found.get(field)
        if isinstance(body, bytes):
            text = _last(body, inner)
            if isinstance(text, bytes):
                return text.decode()
            return None if field == EXTENDED_TEXT else ""  # a file whose caption was removed
    for field in WRAPPERS:
        wrapped = found.get(field)
        message_in = _last(wrapped, 1) if isinstance(wrapped, bytes) else None
        if isinstance(message_in, bytes) and depth > 0:
            return _text(message_in, depth - 1)
    return None


def _last(message: bytes, number: int) -> bytes | int | None:
    """The last value of a field, which is how protobuf reads a field that is not repeated."""
    return dict(protobuf_fields(message)).get(number)


def protobuf_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field, in order.

    Raises:
        ValueError: invalid protobuf, or too many fields.
    """
    at = count = 0
    while at < len(message):
        count += 1
        if count > MAX_FIELDS:
            raise ValueError("too many fields for a WhatsApp message")
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: bytes | int
        match wire:
            case 0:
                value, at = _varint(message, at)
            case 1 | 5:
                size = 8 if wire == 1 else 4
                value, at = message[at : at + size], at + size
            case 2:
                size, at = _varint(message, at)
                value, at = message[at : at + size], at + size
            case _:
                raise ValueError("invalid protobuf: unknown wire type")
        if at > len(message):
            raise ValueError("invalid protobuf: ends within a field")
        yield number, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("invalid protobuf: ends within a varint")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("invalid protobuf: varint too long")

"""Encrypted edits as a phone makes them, by hand, so that the reader is not tested only with its own inverse."""

from __future__ import annotations

import os
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from testkit.stanzas import b64
from worker.ingest.rules.encrypted_edit import edit_key, sealed_key


def field(number: int, value: bytes | str | int) -> bytes:
    """One protobuf field."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def edit_message(text: str, timestamp_ms: int) -> bytes:
    """`Message {protocolMessage {type 14, editedMessage {conversation}, timestampMs}}`, encoded."""
    protocol = field(2, 14) + field(14, field(1, text)) + field(15, timestamp_ms)
    return field(12, protocol)


def encrypted_edit(key: dict[str, Any], secret: bytes, sender: str, text: str, timestamp_ms: int) -> dict[str, Any]:
    """The `Message` of an encrypted edit, as JSON."""
    iv = os.urandom(12)
    plaintext = edit_message(text, timestamp_ms)
    ciphertext = AESGCM(edit_key(secret, key["id"], sender, sender)).encrypt(iv, plaintext, None)
    body = {"targetMessageKey": key, "secretEncType": "MESSAGE_EDIT", "encPayload": b64(ciphertext), "encIv": b64(iv)}
    return {"secretEncryptedMessage": body}


def encrypted_event_edit(
    key: dict[str, Any], secret: bytes, sender: str, event: bytes, timestamp_ms: int | None = None
) -> dict[str, Any]:
    """The `Message` of an encrypted edit of an event, as JSON; without a time, the event is in it without a wrapper."""
    message = field(75, event)
    if timestamp_ms is not None:
        message = field(12, field(2, 14) + field(14, message) + field(15, timestamp_ms))
    sealed = sealed_content(secret, "Event Edit", (key["id"], sender), sender, message)
    return {"secretEncryptedMessage": {"targetMessageKey": key, "secretEncType": "EVENT_EDIT", **sealed}}


def sealed_content(secret: bytes, use: str, target: tuple[str, str], author: str, plaintext: bytes) -> dict[str, str]:
    """`encPayload` and `encIv` of a vote, an answer, a reaction or a comment; `target` is id and sender."""
    iv = os.urandom(12)
    key = sealed_key(secret, *target, author, use.encode())
    aad = f"{target[0]}\0{author}".encode() if use in ("Poll Vote", "Event Response") else None
    return {"encPayload": b64(AESGCM(key).encrypt(iv, plaintext, aad)), "encIv": b64(iv)}

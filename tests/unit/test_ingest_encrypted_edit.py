"""Encrypted edits: opened as Baileys would seal them, and by nobody else."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testkit.encrypted_edits import encrypted_edit, field
from testkit.processes import NODE, ROOT
from testkit.stanzas import ANA, ANA_PHONE, BEN, GROUP, NOW_MS, NOW_S, b64
from testkit.waproto import PROTO
from worker.ingest.encrypted_edits import opened_edit
from worker.ingest.rules import encrypted_edit as sealed
from worker.ingest.rules.changes import MAX_ENCRYPTED_BYTES
from worker.ingest.rules.classify import Content, classify
from worker.ingest.rules.encrypted_edit import Opened, open_edit, read_edit
from worker.ingest.rules.live import iso
from worker.store import EncryptedEdit, OpenedEdit

SECRET = b"\x05" * 32
KEY = {"remoteJid": GROUP, "id": "T1", "fromMe": True}

# Baileys' own HKDF, AES-GCM and encoder, put together as its generateMsgSecretKey and decryptPollVote do.
SEAL = """
import { proto } from 'baileys'
import { aesEncryptGCM, hkdf } from './node_modules/baileys/lib/Utils/crypto.js'
const { secret, id, sender, message, use } = JSON.parse(process.argv[1])
const info = Buffer.concat([Buffer.from(id), Buffer.from(sender), Buffer.from(sender), Buffer.from(use)])
const key = hkdf(Buffer.from(secret, 'base64'), 32, { info: info.toString('latin1') })
const iv = Buffer.alloc(12, 9)
const plain = proto.Message.encode(proto.Message.fromObject(message)).finish()
const sealed = aesEncryptGCM(plain, key, iv, Buffer.alloc(0))
console.log(JSON.stringify({ ciphertext: Buffer.from(sealed).toString('base64'), iv: iv.toString('base64') }))
"""


def seal_with_baileys(message: dict[str, Any], sender: str = ANA, use: str = "Message Edit") -> tuple[bytes, bytes]:
    given_ = {"secret": b64(SECRET), "id": "T1", "sender": sender, "message": message, "use": use}
    command = [str(NODE), "--input-type=module", "-e", SEAL, json.dumps(given_)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True, timeout=60)
    out = json.loads(done.stdout)
    return base64.b64decode(out["ciphertext"]), base64.b64decode(out["iv"])


def test_an_edit_that_baileys_sealed_is_opened() -> None:
    message = {
        "messageContextInfo": {"messageSecret": base64.b64encode(b"x" * 32).decode()},
        "protocolMessage": {
            "key": {"id": "T1", "fromMe": True},
            "type": 14,
            "editedMessage": {"extendedTextMessage": {"text": "nüű 🍊", "contextInfo": {"stanzaId": "Q"}}},
            "timestampMs": NOW_MS,
        },
    }
    ciphertext, iv = seal_with_baileys(message)
    assert open_edit(SECRET, ciphertext, iv, "T1", [ANA_PHONE, ANA]) == Opened(text="nüű 🍊", timestamp_ms=NOW_MS)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"secret": b"\x06" * 32}, "another secret"),
        ({"target_id": "T2"}, "another message"),
        ({"forms": [BEN]}, "another sender"),
        ({"forms": []}, "nobody"),
        ({"iv": b"\x01" * 12}, "another nonce"),
        ({"iv": b""}, "no nonce"),
        ({"ciphertext": b"short"}, "no tag"),
    ],
)
def test_nothing_else_opens_it(change: dict[str, Any], why: str) -> None:
    body = encrypted_edit(KEY, SECRET, ANA, "new", NOW_MS)["secretEncryptedMessage"]
    parts: dict[str, Any] = {
        "secret": SECRET,
        "ciphertext": base64.b64decode(body["encPayload"]),
        "iv": base64.b64decode(body["encIv"]),
        "target_id": "T1",
        "forms": [ANA],
    }
    assert open_edit(**parts) == Opened(text="new", timestamp_ms=NOW_MS)
    assert open_edit(**{**parts, **change}) is None, why


@pytest.mark.parametrize(
    ("message", "text", "why"),
    [
        (field(1, "plain"), "plain", "the content without its envelope"),
        (field(12, field(14, field(3, field(3, "of a picture")))), "of a picture", "a caption"),
        (field(12, field(14, field(9, field(7, "of a video")))), "of a video", "a caption"),
        (field(12, field(14, field(7, field(20, "of a document")))), "of a document", "a caption"),
        (field(12, field(14, field(58, field(1, field(1, "wrapped"))))), "wrapped", "a wrapper"),
        (field(12, field(14, field(3, b""))), "", "a picture whose caption was taken away"),
        (field(12, field(14, field(6, b""))), None, "a text without a text"),
        (field(12, field(14, field(99, "?"))), None, "a content that we do not know"),
        (field(12, field(14, 7)), None, "no message"),
        (field(12, b""), None, "nothing edited"),
        (b"", None, "nothing"),
    ],
)
def test_the_text_of_an_edit(message: bytes, text: str | None, why: str) -> None:
    found = read_edit(message)
    assert (found and found.text) == text, why


def test_wrappers_without_end_are_bounded() -> None:
    message = field(1, "deep")
    for _ in range(200):
        message = field(58, field(1, message))
    assert read_edit(message) is None


def test_an_edit_of_nothing_but_fields_costs_no_time() -> None:
    many = field(8, 1) * (MAX_ENCRYPTED_BYTES // 2)
    with pytest.raises(ValueError, match="too many fields"):
        read_edit(many)
    with pytest.raises(ValueError, match="too many fields"):
        read_edit(field(12, many + field(14, field(1, "hi"))))


@pytest.mark.parametrize(
    ("message", "name", "number"),
    [
        ("Message", "conversation", sealed.CONVERSATION),
        ("Message", "protocolMessage", sealed.PROTOCOL_MESSAGE),
        ("ProtocolMessage", "editedMessage", sealed.EDITED_MESSAGE),
        ("ProtocolMessage", "timestampMs", sealed.TIMESTAMP_MS),
        ("Message", "extendedTextMessage", 6),
        ("ExtendedTextMessage", "text", sealed.TEXTS[6]),
        ("Message", "imageMessage", 3),
        ("ImageMessage", "caption", sealed.TEXTS[3]),
        ("Message", "videoMessage", 9),
        ("VideoMessage", "caption", sealed.TEXTS[9]),
        ("Message", "ptvMessage", 66),
        ("Message", "documentMessage", 7),
        ("DocumentMessage", "caption", sealed.TEXTS[7]),
        ("Message", "editedMessage", sealed.WRAPPERS[0]),
        ("Message", "documentWithCaptionMessage", sealed.WRAPPERS[1]),
        ("Message", "ephemeralMessage", sealed.WRAPPERS[2]),
        ("FutureProofMessage", "message", 1),
        ("Message", "eventMessage", sealed.EVENT),
        ("EventMessage", "location", sealed.LOCATION),
        *[("EventMessage", name, number) for number, (name, _) in sealed.EVENT_FIELDS.items()],
        *[("LocationMessage", name, number) for number, (name, _) in sealed.LOCATION_FIELDS.items()],
    ],
)
def test_field_numbers_are_the_protos(message: str, name: str, number: int) -> None:
    assert re.search(rf"^ *(?:optional )?[\w.]+ {name} = {number};", _block(message), re.MULTILINE)


def _block(message: str) -> str:
    """The text of one message type, to the brace at its own depth."""
    found = re.search(rf"^( *)message {message} \{{\n(.*?)^\1\}}", Path(PROTO).read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[2]


def held(**changes: Any) -> EncryptedEdit:
    body = encrypted_edit(KEY, SECRET, ANA, "new\0", NOW_MS)["secretEncryptedMessage"]
    payload = {"ciphertext": body["encPayload"], "iv": body["encIv"], "forms": [ANA_PHONE]}
    secret = base64.b64encode(SECRET).decode()
    return EncryptedEdit(
        **{
            "id": 4,
            "target_id": "T1",
            "payload": payload,
            "secret": secret,
            "sender": ANA,
            "sender_alt": None,
            **changes,
        }
    )


def test_a_held_edit_is_opened_under_the_forms_that_the_row_knows_too() -> None:
    assert opened_edit(held(), NOW_S) == OpenedEdit(id=4, text="new\ufffd", at="2026-09-21T14:13:20.000Z")
    assert opened_edit(held(), NOW_S - 3600) == OpenedEdit(id=4, text="new\ufffd", at=None)
    assert opened_edit(held(sender=BEN), NOW_S) == OpenedEdit(id=4, unreadable=True)


EVENT = {
    "name": "Harvest fair",
    "description": "Bring baskets",
    "location": {"degreesLatitude": 47.5, "degreesLongitude": 7.25, "name": "Barn"},
    "startTime": NOW_S + 3600,
    "isCanceled": True,
    "hasReminder": True,
}


def opened_event(message: dict[str, Any], use: str = "Event Edit") -> OpenedEdit:
    ciphertext, iv = seal_with_baileys(message, use=use)
    payload = {"ciphertext": b64(ciphertext), "iv": b64(iv), "forms": [ANA_PHONE, ANA], "event": True}
    held = EncryptedEdit(id=1, target_id="T1", payload=payload, secret=b64(SECRET), sender=ANA, sender_alt=None)
    return opened_edit(held, float(NOW_S))


@pytest.mark.parametrize("as_edit", [True, False])
def test_an_edited_event_that_baileys_sealed_reads_like_one_that_is_sent_anew(as_edit: bool) -> None:
    message: dict[str, Any] = {"eventMessage": EVENT}
    anew = classify(message)
    assert isinstance(anew, Content)
    if as_edit:
        message = {"protocolMessage": {"type": 14, "editedMessage": message, "timestampMs": NOW_MS - 1000}}
    opened = opened_event(message)
    assert (opened.text, opened.content) == (anew.text, anew.facts)
    assert anew.facts is not None
    assert anew.facts["location"] == {"latitude": 47.5, "longitude": 7.25, "name": "Barn"}
    assert opened.at == (iso(NOW_S - 1) if as_edit else None)


@pytest.mark.parametrize(
    ("message", "use", "because"),
    [
        ({"eventMessage": EVENT}, "Message Edit", "the key of another use"),
        ({"conversation": "no event"}, "Event Edit", "there is no event in it"),
        ({"protocolMessage": {"type": 14, "editedMessage": {"conversation": "x"}}}, "Event Edit", "nor in its edit"),
    ],
)
def test_what_is_no_event_s_edit_is_unreadable(message: dict[str, Any], use: str, because: str) -> None:
    assert opened_event(message, use).unreadable, because


def test_fields_of_another_type_are_left_out() -> None:
    event = (
        field(3, 7) + field(7, "soon") + field(2, 1) + field(5, field(1, "north") + field(3, "Barn")) + field(75, b"x")
    )
    opened = sealed.read_event(field(75, event))
    assert opened is not None
    assert opened.event == {"isCanceled": True, "location": {"name": "Barn"}}

"""Votes, answers, reactions and comments: opened as Baileys opens them, and by nobody else."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testkit.encrypted_edits import field, sealed_content
from testkit.stanzas import ANA, ANA_PHONE, GROUP, ingested, make_stanza
from worker.ingest.rules.sealed_content import OpenedContent, Use, open_content
from worker.settings import default_node

ROOT = Path(__file__).parents[2]
SECRET = bytes(range(32))
BEN = "1002@lid"
YES, NO = (hashlib.sha256(word.encode()).digest() for word in ("yes", "no"))
BAILEYS = """
import { decryptPollVote, decryptEventResponse } from './node_modules/baileys/lib/Utils/process-message.js'
const [vote, answer, secret] = JSON.parse(process.argv[1])
const bytes = (text) => Buffer.from(text, 'base64')
const box = ({ encPayload, encIv }) => ({ encPayload: bytes(encPayload), encIv: bytes(encIv) })
const about = (who) => ({ [`${who}CreatorJid`]: '1002@lid', [`${who}MsgId`]: 'P1', [`${who}EncKey`]: bytes(secret) })
const opened = decryptPollVote(box(vote), { ...about('poll'), voterJid: '1001@lid' })
const response = decryptEventResponse(box(answer), { ...about('event'), responderJid: '1001@lid' })
console.log(JSON.stringify([opened.selectedOptions.map((one) => Buffer.from(one).toString('hex')), response.response]))
"""


def opened(use: Use, plaintext: bytes, **changes: Any) -> OpenedContent | None:
    sealed = sealed_content(SECRET, use, ("P1", BEN), ANA, plaintext)
    box = (base64.b64decode(sealed["encPayload"]), base64.b64decode(sealed["encIv"]))
    parts: dict[str, Any] = {
        "secret": SECRET,
        "sealed": box,
        "target": ("P1", [BEN]),
        "authors": [ANA_PHONE, ANA],
    } | changes
    return open_content(use, **parts, options=["yes", "no"])


@pytest.mark.parametrize(
    ("use", "plaintext", "content", "text", "why"),
    [
        ("Poll Vote", field(1, YES), {"choices": ["yes"]}, "yes", "one choice"),
        ("Poll Vote", field(1, NO) + field(1, YES), {"choices": ["yes", "no"]}, "yes\nno", "in the poll's order"),
        ("Poll Vote", b"", {"choices": []}, "", "taken back"),
        ("Poll Vote", field(1, b"?" * 32), {"choices": [], "unknown_choices": 1}, "", "an option that we do not know"),
        ("Event Response", field(1, 1) + field(3, 2), {"response": "going", "extra_guests": 2}, "going", "an answer"),
        ("Event Response", b"", {"response": "unknown"}, "unknown", "an empty one"),
        ("Enc Reaction", field(2, "👍"), {"emoji": "👍"}, "👍", "a reaction"),
        ("Enc Reaction", b"", {"emoji": ""}, "", "taken back"),
        ("Enc Comment", field(1, "well said"), {}, "well said", "a comment"),
    ],
)
def test_what_was_in_it(use: Use, plaintext: bytes, content: dict[str, Any], text: str, why: str) -> None:
    assert opened(use, plaintext) == OpenedContent(content=content, text=text), why


@pytest.mark.parametrize(
    "change",
    [
        {"secret": bytes(32)},
        {"target": ("P2", [BEN])},
        {"target": ("P1", ["1003@lid"])},
        {"authors": ["1003@lid"]},
        {"authors": []},
        {"sealed": (b"", bytes(12))},
    ],
    ids=["another secret", "another poll", "of another sender", "another's vote", "nobody's", "nothing"],
)
def test_what_is_not_theirs_does_not_open(change: dict[str, Any]) -> None:
    assert opened("Poll Vote", field(1, YES), **change) is None


def test_a_vote_is_not_taken_for_an_answer() -> None:
    sealed = sealed_content(SECRET, "Poll Vote", ("P1", BEN), ANA, field(1, YES))
    box = (base64.b64decode(sealed["encPayload"]), base64.b64decode(sealed["encIv"]))
    assert open_content("Event Response", SECRET, box, ("P1", [BEN]), [ANA]) is None


@pytest.mark.parametrize("plaintext", [b"\xff\xff", field(8, 1) * 2000], ids=["no protobuf", "fields without end"])
@pytest.mark.parametrize("use", ["Poll Vote", "Event Response", "Enc Reaction", "Enc Comment"])
def test_what_cannot_be_read_stays_closed(use: Use, plaintext: bytes) -> None:
    assert opened(use, plaintext) is None


def test_baileys_opens_what_we_seal() -> None:
    vote = sealed_content(SECRET, "Poll Vote", ("P1", BEN), ANA, field(1, YES))
    answer = sealed_content(SECRET, "Event Response", ("P1", BEN), ANA, field(1, 1))
    told = json.dumps([vote, answer, base64.b64encode(SECRET).decode()])
    command = [str(default_node()), "--input-type=module", "-e", BAILEYS, told]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True, timeout=60)
    choices, response = json.loads(found.stdout.splitlines()[-1])
    assert (choices, response) == ([YES.hex()], 1)


@pytest.mark.parametrize(
    ("field_name", "key_name", "use"),
    [
        ("pollUpdateMessage", "pollCreationMessageKey", "Poll Vote"),
        ("encEventResponseMessage", "eventCreationMessageKey", "Event Response"),
        ("encReactionMessage", "targetMessageKey", "Enc Reaction"),
        ("encCommentMessage", "targetMessageKey", "Enc Comment"),
    ],
)
def test_a_sealed_content_is_a_row_and_waits_for_its_secret(field_name: str, key_name: str, use: Use) -> None:
    sealed = sealed_content(SECRET, use, ("P1", BEN), ANA, b"")
    box: dict[str, Any] = {"vote": sealed} if use == "Poll Vote" else dict(sealed)
    body = {key_name: {"remoteJid": GROUP, "id": "P1", "participant": BEN}, **box}
    result = ingested([make_stanza({field_name: body})])
    (row,), (change,) = result["messages"], result["changes"]
    assert row["content"] == {"target": {"sender": BEN, "wa_msg_id": "P1"}}
    assert (change["kind"], change["target_sender"], change["target_id"]) == ("sealed_edit", BEN, "P1")
    assert change["payload"] == {
        "ciphertext": sealed["encPayload"],
        "iv": sealed["encIv"],
        "forms": [ANA, ANA_PHONE],
        "use": use,
    }


def test_a_vote_without_a_box_or_a_poll_is_a_row_alone() -> None:
    for body in ({}, {"vote": {"encPayload": "AA==", "encIv": "AA=="}}, {"vote": 7}):
        result = ingested([make_stanza({"pollUpdateMessage": body})])
        assert ([row["kind"] for row in result["messages"]], result["changes"]) == (["poll_vote"], [])

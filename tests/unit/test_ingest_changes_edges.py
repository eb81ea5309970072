"""The edges of what an edit, a revoke, a quote and a sealed edit may say; found by `make mutants`."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from testkit.stanzas import ANA, BEN, GROUP, NOW_S, b64, ingested, make_stanza
from tests.unit.test_ingest_changes import about, edit, the_change
from worker.ingest.rules.changes import MAX_ENCRYPTED_BYTES, millisecond_time
from worker.ingest.rules.live import FUTURE_TOLERANCE_S

IV = bytes(12)


def sealed(ciphertext: object, iv: object) -> dict[str, Any]:
    key = {"remoteJid": GROUP, "id": "T1", "fromMe": True}
    body = {"targetMessageKey": key, "secretEncType": "MESSAGE_EDIT", "encPayload": ciphertext, "encIv": iv}
    return {"secretEncryptedMessage": body}


def test_from_me_in_the_inner_key_is_the_writers_own_whoever_is_named_beside_it() -> None:
    key = {"remoteJid": GROUP, "id": "T1", "fromMe": True, "participant": BEN}
    assert the_change(edit(key)) == about(ANA, kind="edit", payload={"text": "new"})
    other = {**key, "fromMe": False}
    assert the_change(edit(other)) == about(BEN, kind="edit", payload={"text": "new"})


def test_a_quote_names_its_own_message_and_time() -> None:
    info = {"stanzaId": "T1", "participant": BEN}
    result = ingested([make_stanza({"extendedTextMessage": {"text": "as you say", "contextInfo": info}})])
    (quote,) = [change for change in result["changes"] if change["kind"] == "quote"]
    assert quote == about(BEN, kind="quote", payload={})


def test_a_sealed_edit_brings_its_bytes() -> None:
    change = the_change(sealed(b64(b"x" * 40), b64(IV)))
    assert base64.b64decode(change["payload"]["ciphertext"]) == b"x" * 40
    assert base64.b64decode(change["payload"]["iv"]) == IV


@pytest.mark.parametrize(
    ("ciphertext", "iv", "why"),
    [
        (None, b64(IV), "no content"),
        (b64(b"x"), None, "no iv"),
        (None, None, "neither"),
        (b64(b"x"), b64(bytes(11)), "an iv that is too short"),
        (b64(b""), b64(IV), "empty"),
        ("@@@@", b64(IV), "no base64"),
        ("eA==\n", b64(IV), "nearly base64"),
        (b64(b"x" * (MAX_ENCRYPTED_BYTES + 1)), b64(IV), "too long"),
    ],
)
def test_a_sealed_edit_that_cannot_be_one_stays_a_row(ciphertext: object, iv: object, why: str) -> None:
    result = ingested([make_stanza(sealed(ciphertext, iv))])
    assert result["changes"] == [], why
    assert [row["kind"] for row in result["messages"]] == ["edit"], why


def test_one_byte_and_the_longest_are_sealed_edits() -> None:
    for length in (1, MAX_ENCRYPTED_BYTES):
        assert the_change(sealed(b64(b"x" * length), b64(IV)))["kind"] == "sealed_edit"


@pytest.mark.parametrize(
    ("value", "known", "why"),
    [
        ((NOW_S + FUTURE_TOLERANCE_S) * 1000, True, "the last moment that is believed"),
        ((NOW_S + FUTURE_TOLERANCE_S) * 1000 + 1, False, "and the first that is not"),
        (str(NOW_S * 1000).zfill(15), True, "fifteen digits"),
        (str(NOW_S * 1000).zfill(16), False, "sixteen"),
        (1, True, "the first millisecond"),
        (0, False, "none at all"),
    ],
)
def test_a_time_in_milliseconds_has_bounds(value: object, known: bool, why: str) -> None:
    assert (millisecond_time(value, NOW_S) is not None) is known, why


def test_a_plain_text_is_no_change() -> None:
    result = ingested([make_stanza({"conversation": "hello"})])
    assert (len(result["messages"]), result["changes"]) == (1, [])

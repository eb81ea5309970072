"""`raw`: no secrets, bounded in every direction, always storable."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from worker.ingest.rules.raw import BULK_FIELDS, MAX_ITEMS, MAX_RAW_BYTES, MAX_STRING_CHARS, SECRET_FIELDS, prune


@pytest.mark.parametrize("name", sorted(SECRET_FIELDS | BULK_FIELDS))
def test_secrets_and_bulk_are_left_out_at_any_depth(name: str) -> None:
    payload = {"a": [{"b": {name: "c2VjcmV0", "kept": 1}}], name: {"x": 1}}
    assert prune(payload) == {"a": [{"b": {"kept": 1}}]}


@pytest.mark.parametrize(
    ("value", "expected", "why"),
    [
        (7, 7, "a number"),
        (True, True, "a truth"),
        (None, None, "nothing"),
        (1.5, 1.5, "a fraction"),
        (2**53 - 1, 2**53 - 1, "the largest whole number that JavaScript keeps"),
        (2**53, str(2**53), "beyond, as text"),
        (-(2**63), str(-(2**63)), "the smallest of 64 bits"),
        (math.nan, None, "JSON has no NaN"),
        (math.inf, None, "nor infinity"),
        ("a\x00\ud800", "a\ufffd\ufffd", "what Postgres refuses is replaced"),
        ((1, 2), [1, 2], "a tuple is a list"),
    ],
)
def test_values_are_storable(value: object, expected: object, why: str) -> None:
    assert prune({"v": value}) == {"v": expected}, why


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (2**64, "no 64-bit number"),
        ("x" * (MAX_STRING_CHARS + 1), "a long text, or a large thumbnail"),
        (b"bytes", "not JSON"),
        ({1, 2}, "not JSON either"),
    ],
)
def test_what_does_not_fit_is_left_out_and_marked(value: object, why: str) -> None:
    assert prune({"v": value, "w": 1}) == {"w": 1, "_trimmed": True}, why


def test_a_number_that_cannot_even_be_printed_is_left_out() -> None:
    assert prune({"v": 10**5000}) == {"_trimmed": True}


def test_ten_thousand_mentions_are_cut() -> None:
    pruned = prune({"mentionedJid": ["1001@lid"] * 10_000})
    assert len(pruned["mentionedJid"]) == MAX_ITEMS
    assert pruned["_trimmed"] is True


def test_ten_thousand_keys_are_cut() -> None:
    pruned = prune({"o": {str(n): n for n in range(10_000)}})
    assert len(pruned["o"]) == MAX_ITEMS


def test_depth_is_bounded() -> None:
    payload: dict[str, Any] = {}
    for _ in range(6_000):
        payload = {"m": payload}
    assert len(json.dumps(prune(payload))) < 400


@pytest.mark.parametrize("character", ["a", '"', "\\", "\x1f", "€", "🍊"])
def test_bytes_are_bounded_for_every_character(character: str) -> None:
    payload = {str(n): character * MAX_STRING_CHARS for n in range(100)}
    assert len(json.dumps(prune(payload)).encode()) <= MAX_RAW_BYTES
    assert len(json.dumps(prune(payload), ensure_ascii=False).encode()) <= MAX_RAW_BYTES


def test_what_comes_first_is_kept_when_the_space_is_used_up() -> None:
    pruned = prune({"first": 1, **{str(n): "x" * 4000 for n in range(20)}})
    assert pruned["first"] == 1
    assert pruned["_trimmed"] is True


def test_the_payload_itself_is_not_changed() -> None:
    payload = {"imageMessage": {"mediaKey": "AA==", "caption": "c"}}
    prune(payload)
    assert payload == {"imageMessage": {"mediaKey": "AA==", "caption": "c"}}

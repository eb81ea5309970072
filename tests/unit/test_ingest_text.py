"""Text from strangers: what is replaced, what is cut, what stays as it was."""

from __future__ import annotations

import hashlib

import pytest

from worker.text import (
    MAX_ID_CHARS,
    MAX_TEXT_BYTES,
    bounded_id,
    clean_file_name,
    clean_name,
    clean_text,
    message_text,
)


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("hello 🍊\n\tline", "hello 🍊\n\tline", "ordinary text is not touched"),
        ("a\x00b", "a\ufffdb", "Postgres refuses NUL (22P05)"),
        ("a\ud800b", "a\ufffdb", "a lone surrogate cannot be UTF-8"),
        ("\udfff\ud83d", "\ufffd\ufffd", "nor can two in the wrong order"),
        ("\u202eevil", "\u202eevil", "a text may be written from right to left"),
        ("\x1b[31m", "\x1b[31m", "control characters are the reader's affair"),
    ],
)
def test_only_what_cannot_be_stored_is_replaced(text: str, expected: str, why: str) -> None:
    assert clean_text(text) == expected, why


def test_a_text_of_five_megabytes_comes_through_whole() -> None:
    text = "ä" * 2_500_000
    assert message_text(text) == text


def test_a_longer_text_is_cut_at_a_whole_character() -> None:
    text = message_text("€" * (MAX_TEXT_BYTES // 3 + 1))
    assert text is not None
    assert len(text.encode()) <= MAX_TEXT_BYTES
    assert set(text) == {"€"}


@pytest.mark.parametrize("value", [None, 7, ["x"], {"text": "x"}])
def test_what_is_no_text_is_none(value: object) -> None:
    assert message_text(value) is None


@pytest.mark.parametrize(
    ("name", "expected", "why"),
    [
        ("Ana", "Ana", "a name"),
        ("  Ana\n", "Ana", "one line, no margins"),
        ("A\x00n\x1ba", "Ana", "no control characters"),
        ("Ana\u202e gpj", "Ana gpj", "no bidi overrides"),
        ("", None, "nothing is no name"),
        ("\u200f\u2066", None, "what is left of invisible characters"),
        ("\u200b\u200d\u2060", None, "characters without a width"),
        ("\u3164\u2800 \ufe0f", None, "fillers, which are letters and marks by their category"),
        ("أ\u200dب", "أ\u200dب", "a joiner inside a name"),
        ("👩\u200d🌾", "👩\u200d🌾", "a joined emoji"),
        ("x" * 100_000, "x" * 256, "bounded"),
        (5, None, "not a text"),
    ],
)
def test_a_name_is_one_clean_line(name: object, expected: str | None, why: str) -> None:
    assert clean_name(name) == expected, why


@pytest.mark.parametrize(
    ("name", "expected", "why"),
    [
        ("list.pdf", "list.pdf", "as it is"),
        ("../../etc/passwd", ".._.._etc_passwd", "no path can be made of it by accident"),
        ("C:\\evil.exe", "C:_evil.exe", "nor on Windows"),
        ("photo\u202egpj.exe", "photogpj.exe", "an override would show photoexe.jpg"),
        ("a\x00b\r\nc.txt", "abc.txt", "no control characters: it may end in a header"),
        ("Résumé 简历.docx", "Résumé 简历.docx", "names of the world stay"),
        ("", None, "no name"),
        ("\u200b", None, "nothing to see"),
        (None, None, "none given"),
    ],
)
def test_a_file_name_is_data_without_tricks(name: object, expected: str | None, why: str) -> None:
    assert clean_file_name(name) == expected, why


def test_a_long_file_name_keeps_its_end() -> None:
    name = clean_file_name("x" * 1_000_000 + ".pdf")
    assert name is not None
    assert (len(name), name[-4:]) == (255, ".pdf")


def test_an_ordinary_id_is_kept() -> None:
    assert bounded_id("3EB0C767D26A1D8F4E") == "3EB0C767D26A1D8F4E"
    assert bounded_id("x" * MAX_ID_CHARS) == "x" * MAX_ID_CHARS


def test_ids_that_cannot_be_stored_stay_different() -> None:
    hostile = ["x" * 5_000, "x" * 5_001, "a\x00", "a\ud800", "a\ufffd"]
    stored = [bounded_id(value) for value in hostile]
    assert len(set(stored)) == len(hostile)
    assert all(len(value) <= MAX_ID_CHARS and value.encode() for value in stored)


def test_a_long_id_ends_with_its_hash() -> None:
    assert bounded_id("y" * 200).endswith("#" + hashlib.sha256(b"y" * 200).hexdigest())

"""docs/durability.md, "What the outside answers", has a row with a test for each answer that the worker tells apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.errors import StoreError, StoreRefused, StoreUnavailable
from worker.store.client import (
    BUSY_STATUS,
    CONFLICTS,
    IN_WORDS,
    KEY_CODES,
    LASTING_CLASSES,
    STATES_IN_WORDS,
    TRANSIENT_CLASSES,
    TRANSIENT_CODES,
    judge,
    refusal,
)

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "docs" / "durability.md").read_text().split("### What the outside answers\n")[1].split("\n### ")[0]
ROWS = [tuple(cell.strip() for cell in row.split("|")[1:-1]) for row in re.findall(r"^\|.*\|$", SECTION, re.MULTILINE)]
ROWS = [row for row in ROWS if row[0] != "answer" and not row[0].startswith("---")]
CODE = re.compile(r"(?P<of>PGRST)?(?P<first>\d+) to (?:PGRST)?(?P<last>\d+)|\b(?:PGRST)?[0-9A-Z]{2,5}\b|`\w+`")


def codes(cell: str) -> set[str]:
    """What a first cell names: `401`, `PGRST302`, `08`, `stale_fence`; a range is all that is in it."""
    found = set()
    for match in CODE.finditer(cell):
        if match["first"]:
            width, of = len(match["first"]), match["of"] or ""
            found |= {f"{of}{n:0{width}}" for n in range(int(match["first"]), int(match["last"]) + 1)}
        else:
            found.add(match[0].strip("`"))
    return found


def row_of(code: str) -> tuple[str, ...]:
    """The row that names this code itself, or its SQLSTATE class."""
    rows = [row for row in ROWS if code in codes(row[0])] or [row for row in ROWS if code[:2] in codes(row[0])]
    assert rows, f"no row of docs/durability.md names {code}"
    return rows[0]


def says(row: tuple[str, ...], error: StoreError) -> None:
    """The row tells what this class of errors leads to, and names a test."""
    if isinstance(error, StoreRefused):
        assert "refusal" in row[1], row
    elif isinstance(error, StoreUnavailable):
        assert re.search(r"\boutage\b|smaller|parts", row[1], re.IGNORECASE), row
    else:
        assert "epoch" in row[1] or "lease" in row[1], row


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_each_row_names_a_test(row: tuple[str, ...]) -> None:
    assert len(row) == 3
    assert re.search(r"`test_\w+\.py`", row[2])


@pytest.mark.parametrize("code", sorted(KEY_CODES | TRANSIENT_CODES | STATES_IN_WORDS.keys() | {"42501", "57014"}))
def test_each_code_has_a_row(code: str) -> None:
    says(row_of(code), refusal("call", code, ""))


@pytest.mark.parametrize("of", sorted(TRANSIENT_CLASSES | LASTING_CLASSES))
def test_each_class_of_sqlstates_has_a_row(of: str) -> None:
    says(row_of(of), refusal("call", f"{of}001", ""))


@pytest.mark.parametrize("word", sorted(CONFLICTS))
def test_each_conflict_has_a_row(word: str) -> None:
    says(row_of(word), refusal("call", "PT409", word))


@pytest.mark.parametrize("code", ["PGRST202", "SUP", "XX000", "another PGRST code", "no code", "no answer"])
def test_other_kinds_have_a_row(code: str) -> None:
    assert any(code in row[0] for row in ROWS)


def test_each_status_has_a_row() -> None:
    every = {name for row in ROWS for name in codes(row[0])}
    others = " ".join(row[0] for row in ROWS)
    told_apart = {str(status) for status in [*BUSY_STATUS, *IN_WORDS, 200, 204, 401, 403, 404]}
    assert told_apart <= every, sorted(told_apart - every)
    for status in range(300, 600):
        assert judge(status, b"") is not None
        assert str(status) in every or f"another {status // 100}xx" in others, status

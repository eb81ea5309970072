"""What `make fleet` takes for two holders of one session."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.witness import process_of, two_holders


def change(
    fence: int, owner: str | None, *, after: str | None, ends: int | None = None, at: int = 30
) -> dict[str, Any]:
    """A change of a lease in second `at`; the one before, of `after`, would have ended in second `ends`."""
    return {
        "at": f"2026-11-27T12:00:{at:02}+00:00",
        "session_id": "one",
        "fence": fence,
        "old_fence": fence - (owner is not None and owner != after),
        "owner": owner,
        "old_owner": after,
        "ends": ends and f"2026-11-27T12:00:{ends:02}+00:00",
    }


FIRST = change(1, "a", after=None)


@pytest.mark.parametrize(
    ("leases", "says"),
    [
        ([FIRST], ""),
        ([FIRST, change(1, None, after="a", ends=40), change(2, "b", after=None)], ""),  # given back, taken
        ([FIRST, change(2, "b", after="a", ends=30)], ""),  # it had run out
        ([FIRST, change(2, "b", after="a", ends=31)], "while a held it"),
        ([FIRST, {**change(1, "b", after="a", ends=20), "old_fence": 1}], "fence 1 was given to a and to b"),
        ([FIRST, {**change(5, "b", after="a", ends=20), "old_fence": 5}], "under fence 5 after 5"),
        ([FIRST, {**change(1, "a", after="a", ends=40), "old_fence": 1}], ""),  # renewed by itself
    ],
)
def test_two_holders_are_seen(leases: list[dict[str, Any]], says: str) -> None:
    found = " ".join(two_holders(leases))
    assert says in found
    assert bool(found) is bool(says)


def test_a_holder_is_a_process() -> None:
    assert process_of("machine:with:colons:4711:ab12cd34") == 4711

"""Whatever a gateway and the database refuse of a batch: every item is stored or listed, and every key is kept."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_batch_writer import POISON, Supabase, batch_of, dislikes, message, takes_at_most, write
from worker.errors import KeyRefused, UnexpectedAnswer
from worker.ingest import batch_writer
from worker.store import retry


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(batch_writer, "PAUSE_MAX_SECONDS", 0.001)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)), st.integers(2_500, 20_000))
def test_every_item_ends_up_somewhere(count: int, disliked: set[int], broken: set[int], limit: int) -> None:
    supabase = Supabase(
        gateway=lambda body: takes_at_most(limit)(body) or dislikes(KeyRefused("HTTP 403"))(body),
        postgres=lambda item: UnexpectedAnswer("XX000") if "broken" in item["text"] else None,
    )
    good = message("GOOD")
    messages = [
        message(f"A{n}", (POISON if n in disliked else "") + ("broken" if n in broken else "")) for n in range(count)
    ]
    anyio.run(write, supabase, batch_of(good, *messages))
    listed = [name for _, name in supabase.listed]
    assert sorted(supabase.rows + [str(name) for name in listed]) == sorted(["GOOD", *(f"A{n}" for n in range(count))])
    assert sorted(str(name) for name in listed) == sorted(f"A{n}" for n in broken if n < count)
    assert supabase.keys == {"k1": "spent"}

"""When a key counts as refused: after minutes of nothing else, and never from a few answers."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from tests.unit.doubles import BOUND, until
from worker.errors import KeyRefused, StoreError, StoreRefused, StoreUnavailable
from worker.store.key import KeyWatch

REFUSED = KeyRefused("wa_x: HTTP 401", "SUPABASE_SERVICE_KEY is refused (401)")


class Supabase:
    """Answers the cheapest call with `error`, and tells the watch, as `Store` does."""

    def __init__(self, error: StoreError | None) -> None:
        self.now = 0.0
        self.error = error
        self.asked = 0
        self.told: list[str | None] = []
        self.key = KeyWatch(refused_after=180, look=0.001, ask_again=0.001, clock=lambda: self.now)

    async def ask(self) -> None:
        self.asked += 1
        await anyio.lowlevel.checkpoint()
        self.key.note(self.error)
        if self.error:
            raise self.error

    async def watched(self, until_then: Callable[[], object]) -> None:
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.key.run, self.ask, self.told.append)
                await until(until_then)
                tasks.cancel_scope.cancel()


async def test_after_minutes_of_nothing_but_refusals_the_key_counts_as_refused() -> None:
    it = Supabase(REFUSED)
    it.key.note(REFUSED)
    it.now = 181.0
    await it.watched(lambda: it.told)
    assert it.told == ["SUPABASE_SERVICE_KEY is refused (401)"]
    assert it.key.refused is not None


async def test_refusals_for_a_shorter_time_are_no_verdict() -> None:
    it = Supabase(REFUSED)
    it.key.note(REFUSED)
    it.now = 179.0
    await it.watched(lambda: it.asked > 5)
    assert it.told == []
    assert it.key.refused is None


@pytest.mark.parametrize(
    ("answer", "starts_anew"),
    [
        pytest.param(None, True, id="a good answer shows that the key is good"),
        pytest.param(StoreRefused("no", "22P05"), True, id="a refusal of Postgres' own came past the key"),
        pytest.param(StoreUnavailable("no answer"), False, id="silence says nothing about the key"),
    ],
)
async def test_any_other_answer_starts_the_time_anew(answer: StoreError | None, starts_anew: bool) -> None:
    it = Supabase(REFUSED)
    it.key.note(REFUSED)
    it.now = 170.0
    it.key.note(answer)
    it.key.note(REFUSED)
    it.now = 181.0
    await it.watched(lambda: it.asked > 5)
    assert bool(it.told) is not starts_anew


async def test_when_only_dear_calls_are_refused_the_key_is_good() -> None:
    it = Supabase(None)
    it.key.note(REFUSED)
    it.now = 200.0
    await it.watched(lambda: it.asked)
    assert it.told == []


async def test_a_key_that_is_good_again_is_told() -> None:
    it = Supabase(REFUSED)
    it.key.note(REFUSED)
    it.now = 181.0

    def mended() -> bool:
        if it.told:
            it.error = None
        return len(it.told) == 2

    await it.watched(mended)
    assert it.told[1] is None
    assert it.key.refused is None

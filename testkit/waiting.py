"""Bounded waits: a condition is checked again and again until it holds or the time is up. Never a plain sleep."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

# The first pause, and the longest: fast results are seen fast, and a long wait does not load two cores.
FIRST_SECONDS = 0.03
LONGEST_SECONDS = 0.3
GROWTH = 1.5


class TookTooLong(AssertionError):
    """The condition did not come true in time; the text says which and what was seen last."""


async def until(
    what: str,
    probe: Callable[[], Awaitable[T | None]],
    *,
    seconds: float = 20.0,
    every: float | None = None,
    tell: Callable[[], str] | None = None,
) -> T:
    """The first result of `probe` that is neither None nor False. Called with longer and longer pauses, or `every`.

    Raises:
        TookTooLong: after `seconds`, with `tell()` (a log's last lines, say) in its text.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    pause = FIRST_SECONDS
    while True:
        last = await probe()
        if last is not None and last is not False:
            return last
        if time.monotonic() > deadline:
            more = f"\n{tell()}" if tell else ""
            raise TookTooLong(f"not within {seconds:g} s: {what}{more}")
        await anyio.sleep(every or pause)
        pause = min(pause * GROWTH, LONGEST_SECONDS)

"""Bounded waits: a condition is asked for again and again until it holds or the time is up. Never a plain sleep."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

POLL_SECONDS = 0.03  # short enough to time a message, long enough not to load two cores


class TookTooLong(AssertionError):
    """The condition did not come true in time; the text says which and what was seen last."""


async def until(
    what: str,
    probe: Callable[[], Awaitable[T | None]],
    *,
    seconds: float = 20.0,
    every: float = POLL_SECONDS,
    tell: Callable[[], str] | None = None,
) -> T:
    """The first answer of `probe` that is neither None nor False.

    Raises:
        TookTooLong: after `seconds`, with `tell()` (a log's last lines, say) in its text.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        last = await probe()
        if last is not None and last is not False:
            return last
        if time.monotonic() > deadline:
            more = f"\n{tell()}" if tell else ""
            raise TookTooLong(f"not within {seconds:g} s: {what}{more}")
        await anyio.sleep(every)

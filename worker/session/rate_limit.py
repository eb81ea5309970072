"""Spreads what many sessions of one process do: one turn a second, so that no machine and no WhatsApp sees a burst."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import anyio

EVERY_SECONDS = 1.0
ALMOST = 0.9  # turns of the same session are never exactly as far apart as they are meant to be
JITTER_MAX_SECONDS = 0.5  # hosts that were started together are not in step


class RateLimiter:
    """Turns in the order in which they are asked for. Who gives up waiting leaves no gap."""

    def __init__(
        self,
        every: float = EVERY_SECONDS,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        draw: Callable[[], float] = lambda: random.uniform(0, JITTER_MAX_SECONDS),  # noqa: S311 - no secret
    ) -> None:
        self._every = every
        self._clock = clock
        self._sleep = sleep
        self._draw = draw
        self._next = clock()
        self._first = anyio.Lock()

    async def wait(self) -> None:
        """Wait for a turn. The first after a pause has it at once."""
        async with self._first:
            await self._sleep(max(0.0, self._next - self._clock()))
            self._next = self._clock() + self._every + self._draw()


class OncePerProcess:
    """Tasks that one of many sessions does for all of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: dict[str, float] = {}

    def claim_task(self, task: str, seconds: float) -> bool:
        """Whether nobody has asked for this task within almost so many seconds; who hears yes does it."""
        now = self._clock()
        if now - self._done.get(task, float("-inf")) < ALMOST * seconds:
            return False
        self._done[task] = now
        return True

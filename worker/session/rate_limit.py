"""Spreads the work of many sessions in one process, so that neither the machine nor WhatsApp sees a burst."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import anyio

EVERY_SECONDS = 1.0
ALMOST = 0.9  # a session's periodic calls are never exactly one period apart
JITTER_MAX_SECONDS = 0.5  # keeps hosts that started together out of step


class RateLimiter:
    """Lets one caller pass every `every` seconds plus jitter, first come first served. Giving up leaves no gap."""

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
        """Wait for a turn. The first call after a pause returns at once."""
        async with self._first:
            await self._sleep(max(0.0, self._next - self._clock()))
            self._next = self._clock() + self._every + self._draw()


class OncePerProcess:
    """Tasks that one session does for all sessions of the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: dict[str, float] = {}

    def claim_task(self, task: str, seconds: float) -> bool:
        """True if nobody claimed this task within (almost) the last `seconds`; the caller then does it."""
        now = self._clock()
        if now - self._done.get(task, float("-inf")) < ALMOST * seconds:
            return False
        self._done[task] = now
        return True

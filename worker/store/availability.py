"""Tracks whether the database answers, and since when it does not.

Callers report each call. When a caller has had no answer for `patience` seconds, the connection is told once. It ends
the socket with that reason, and reconnects only when the database answers.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import anyio

from worker.errors import StoreUnavailable

# Pings wait behind the gate too, and WhatsApp drops a silent client after about 30 s.
# docs/architecture.md, "The frame gate", 6
PATIENCE_SECONDS = 20.0
LOOK_SECONDS = 0.25

Source = Literal["commit", "state", "lease"]
T = TypeVar("T")


class DatabaseWatch:
    """Records which callers wait for the database, and since when."""

    def __init__(
        self,
        patience: float = PATIENCE_SECONDS,
        lease_patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience: dict[Source, float] = {"commit": patience, "state": patience, "lease": lease_patience}
        self._clock = clock
        self._since: dict[Source, float] = {}
        self.reason = ""  # why the last failed call failed, for people
        self._back = anyio.Event()

    async def observe(self, source: Source, call: Awaitable[T]) -> T:
        """Await one database call and note whether the database answered.

        Raises:
            StoreUnavailable: and whatever else the call raises.
        """
        started = self._clock()
        try:
            result = await call
        except StoreUnavailable as error:
            self.unanswered(source, started if error.sent_at is None else error.sent_at, str(error))
            raise
        except Exception:
            self.answered(source)  # a refusal is an answer too
            raise
        self.answered(source)
        return result

    def unanswered(self, source: Source, since: float, why: str) -> None:
        """A call that began at `since` (by this watch's clock) got no answer."""
        self.reason = why
        self._since.setdefault(source, since)

    def answered(self, source: Source) -> None:
        if self._since.pop(source, None) is not None and not self._since:
            self._back.set()
            self._back = anyio.Event()

    @property
    def away(self) -> bool:
        """True if at least one caller is waiting for an answer."""
        return bool(self._since)

    @property
    def gone(self) -> bool:
        """True if a caller has been without an answer for longer than its patience."""
        return any(self._clock() - since > self._patience[source] for source, since in self._since.items())

    def forget(self) -> None:
        """The database answers again: forget callers that gave up meanwhile."""
        for source in list(self._since):
            self.answered(source)

    def withdraw(self, *sources: Source) -> None:
        """Forget these callers: they ended without an answer."""
        for source in sources:
            self.answered(source)

    async def back(self) -> None:
        """Wait until every caller has an answer."""
        while self._since:
            await self._back.wait()

    async def run(self, tell: Callable[[], None]) -> None:
        """Call `tell` each time a caller's patience ends."""
        while True:
            while not self.gone:  # noqa: ASYNC110 - no event says that time has passed
                await anyio.sleep(LOOK_SECONDS)
            tell()
            await self.back()

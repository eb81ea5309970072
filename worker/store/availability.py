"""Whether the database answers, and since when it does not.

The callers report; after `patience` seconds without an answer to one of them, the connection is told, once. An outage
of the database is not a network fault: it ends the socket for a stated reason, and nothing reconnects before its end.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import anyio

from worker.errors import StoreUnavailable

PATIENCE_SECONDS = (
    20.0  # pings are frames and queue up behind the gate; WhatsApp gives up after about 30 s (DESIGN rule 6)
)
LOOK_SECONDS = 0.25

Source = Literal["commit", "state", "lease"]
T = TypeVar("T")


class DatabaseWatch:
    """Who has been waiting for the database, since when."""

    def __init__(
        self,
        patience: float = PATIENCE_SECONDS,
        lease_patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience: dict[Source, float] = {"commit": patience, "state": patience, "lease": lease_patience}
        self._clock = clock
        self._since: dict[Source, float] = {}
        self._back = anyio.Event()

    async def observe(self, source: Source, call: Awaitable[T]) -> T:
        """Await one database call and note how it ended.

        Raises:
            StoreUnavailable: as the call did, like everything else that it raises.
        """
        started = self._clock()
        try:
            result = await call
        except StoreUnavailable:
            self._since.setdefault(source, started)
            raise
        except Exception:
            self.answered(source)  # a refusal is an answer too
            raise
        self.answered(source)
        return result

    def answered(self, source: Source) -> None:
        if self._since.pop(source, None) is not None and not self._since:
            self._back.set()
            self._back = anyio.Event()

    @property
    def away(self) -> bool:
        """At least one caller is without an answer."""
        return bool(self._since)

    @property
    def gone(self) -> bool:
        """A caller has been without an answer for longer than the patience."""
        return any(self._clock() - since > self._patience[source] for source, since in self._since.items())

    def forget(self) -> None:
        """The database was seen to answer: callers that gave up meanwhile no longer count."""
        for source in list(self._since):
            self.answered(source)

    def withdraw(self, *sources: Source) -> None:
        """These callers have ended without an answer, and ask no more."""
        for source in sources:
            self.answered(source)

    async def back(self) -> None:
        """Wait until everybody has an answer."""
        while self._since:
            await self._back.wait()

    async def run(self, tell: Callable[[], None]) -> None:
        """Call `tell` each time that the patience is at its end."""
        while True:
            while not self.gone:  # noqa: ASYNC110 - no event says that time has passed
                await anyio.sleep(LOOK_SECONDS)
            tell()
            await self.back()

"""Tells whoever shows messages that some were stored. Holds no content: the reader asks the database."""

from __future__ import annotations

import anyio

from worker.bridge.protocol import Commit
from worker.store import Batch, Committed


class Arrivals:
    """Wakes its one reader after each batch that brought messages. `unmonitored` counts those of other groups."""

    def __init__(self) -> None:
        self.unmonitored = 0
        self._news = anyio.Event()

    def committed(self, commit: Commit, batch: Batch, done: Committed, seconds: float) -> None:
        """A listener of the committer."""
        unmonitored = batch.discards.get("unmonitored", 0)
        self.unmonitored += unmonitored
        if done.stored or done.upgraded or unmonitored:
            self._news.set()

    async def wait(self) -> None:
        """Return when something has come since the last call."""
        await self._news.wait()
        self._news = anyio.Event()

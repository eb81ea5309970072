"""Signals that messages were stored. Holds no content: the reader queries the database."""

from __future__ import annotations

import anyio

from worker.bridge.protocol import Commit
from worker.store import Batch, Committed


class Arrivals:
    """Wakes its one reader after each batch with messages. `unmonitored` counts messages of other groups."""

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
        """Return once something has arrived since the last call."""
        await self._news.wait()
        self._news = anyio.Event()

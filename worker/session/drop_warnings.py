"""Warns that messages were dropped because they had waited longer than WORKER_CATCH_UP_S.

A restart can drop hundreds at once, so it logs their sum, at most once a minute.
"""

from __future__ import annotations

import anyio
from loguru import logger

from worker.bridge.protocol import Commit
from worker.store import Batch, Committed

GATHER_SECONDS = 3.0  # waiting messages arrive in a burst
QUIET_SECONDS = 60.0


class DropWarnings:
    """Counts the messages that had waited too long, batch by batch; `run` logs the count."""

    def __init__(self, catch_up_s: int, *, gather: float = GATHER_SECONDS, quiet: float = QUIET_SECONDS) -> None:
        self._catch_up_s = catch_up_s
        self._gather = gather
        self._quiet = quiet
        self._count = 0
        self._news = anyio.Event()

    def committed(self, commit: Commit, batch: Batch, done: Committed, seconds: float) -> None:
        """A listener of the committer."""
        dropped = batch.discards.get("waited_too_long", 0)
        if dropped:
            self._count += dropped
            self._news.set()

    async def run(self) -> None:
        """Warn until cancelled, then log what is left."""
        try:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                await anyio.sleep(self._gather)
                self._say()
                await anyio.sleep(self._quiet)
        finally:
            self._say()

    def _say(self) -> None:
        count, self._count = self._count, 0
        if not count:
            return
        logger.warning(
            "{} dropped: {} waited with WhatsApp longer than WORKER_CATCH_UP_S ({}); 86400 keeps those of a day",
            "1 message" if count == 1 else f"{count:,} messages",
            "it" if count == 1 else "they",
            self._catch_up_s,
        )

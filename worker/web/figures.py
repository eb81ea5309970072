"""Polls the database's figures for /metrics. Checks that no confirmed batch is missing and that the bucket answers."""

from __future__ import annotations

import time

import anyio
from loguru import logger

from worker.errors import StoreRefused, StoreUnavailable
from worker.store import Store
from worker.store.console import Figures
from worker.web.health import Health, SessionHealth

FRESH_SECONDS = 10.0  # however many scrapers; Prometheus scrapes every 15 s
CHECK_EVERY_SECONDS = 300.0  # when nobody scrapes
BUCKET_AGAIN_SECONDS = 15.0  # while it does not answer
READ_SECONDS = 3.0  # a scraper waits ten seconds


class FiguresPoller:
    """Keeps `Metrics.database` current for one session."""

    def __init__(self, store: Store, session: str, health: SessionHealth, every: float = CHECK_EVERY_SECONDS) -> None:
        self._store = store
        self._session = session
        self._health = health
        self._every = every

    async def run(self) -> None:
        """Poll until cancelled, through outages."""
        while True:
            await self._ask_and_recover()
            await anyio.sleep(self._every)

    async def refresh(self) -> None:
        """Read the figures again if they are old. For a scrape; if it takes long, the scrape shows the old ones."""
        at = self._health.metrics.database_at
        if at is None or time.monotonic() - at > FRESH_SECONDS:
            with anyio.move_on_after(READ_SECONDS):
                await self._ask_and_recover()

    async def _ask_and_recover(self) -> None:
        try:
            await self.ask()
        except (StoreUnavailable, StoreRefused) as error:
            logger.debug("no figures: {}", error)

    async def ask(self) -> None:
        """Read the figures once."""
        metrics = self._health.metrics
        answered = metrics.answered  # before the query: a batch confirmed meanwhile must not count as missing
        figures = await self._store.console.figures(self._session)
        metrics.database, metrics.database_at = figures, time.monotonic()
        missing = unbacked(answered, figures)
        if missing:
            logger.error("the database lacks {} batches that it had confirmed; was it restored from a backup?", missing)
        metrics.unbacked = max(metrics.unbacked, missing)


class BucketWatch:
    """Keeps `Health.bucket_trouble` current."""

    def __init__(self, store: Store, health: Health) -> None:
        self._store = store
        self._health = health

    async def run(self) -> None:
        """Check until cancelled: every five minutes, more often while there is trouble."""
        while True:
            await anyio.sleep(BUCKET_AGAIN_SECONDS if self._health.bucket_trouble else CHECK_EVERY_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Check that the bucket answers; create it if it is missing."""
        try:
            await self._store.bucket.ensure()
        except (StoreUnavailable, StoreRefused) as error:
            self._health.bucket_trouble = f"does not answer ({error})"
        else:
            self._health.bucket_trouble = None


def unbacked(answered: tuple[int, int] | None, figures: Figures) -> int:
    """How many batches were confirmed to the sidecar but are missing from the database.

    `answered`: the last (epoch, seq) confirmed, which released the receipts. The session's row has the last one
    committed. If its epoch is newer, the two cannot be compared: 0.
    """
    if answered is None:
        return 0
    epoch, seq = answered
    if figures.epoch is None or figures.epoch < epoch:
        return seq
    if figures.epoch > epoch:
        return 0
    return max(0, seq - (figures.seq or 0))

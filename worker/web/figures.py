"""What the database alone knows, asked for at a slow pace; and whether it has what it once confirmed."""

from __future__ import annotations

import time

import anyio
from loguru import logger

from worker.errors import StoreRefused, StoreUnavailable
from worker.store import Store
from worker.store.console import Figures
from worker.web.health import Health

ASK_EVERY_SECONDS = 15.0  # Prometheus' usual pace; some indexed counts


class FiguresPoller:
    """Keeps `Metrics.database`, and what is known of the bucket, fresh for one session."""

    def __init__(self, store: Store, session: str, health: Health, every: float = ASK_EVERY_SECONDS) -> None:
        self._store = store
        self._session = session
        self._health = health
        self._every = every

    async def run(self) -> None:
        """Ask for ever; a database that is away is asked again."""
        while True:
            try:
                await self.ask()
            except (StoreUnavailable, StoreRefused) as error:
                logger.debug("no figures: {}", error)
            await self.look_at_bucket()
            await anyio.sleep(self._every)

    async def ask(self) -> None:
        """Once."""
        metrics = self._health.metrics
        answered = metrics.answered  # before the question: what is confirmed meanwhile does not count against it
        figures = await self._store.console.figures(self._session)
        metrics.database, metrics.database_at = figures, time.monotonic()
        missing = unbacked(answered, figures)
        if missing:
            logger.error("the database lacks {} batches that it had confirmed; was it restored from a backup?", missing)
        metrics.unbacked = max(metrics.unbacked, missing)

    async def look_at_bucket(self) -> None:
        """Whether it answers; one that is missing is made."""
        try:
            await self._store.bucket.ensure()
        except (StoreUnavailable, StoreRefused) as error:
            self._health.bucket_trouble = f"does not answer ({error})"
        else:
            self._health.bucket_trouble = None


def unbacked(answered: tuple[int, int] | None, figures: Figures) -> int:
    """Batches for which WhatsApp was allowed to be told "received", and which the database does not have.

    `answered` is the last (epoch, number) that the sidecar was told is durable; that opened the gate for the receipts.
    The session's row says itself how far it is. A newer epoch is another connection's account: nothing can be said.
    """
    if answered is None:
        return 0
    epoch, seq = answered
    if figures.epoch is None or figures.epoch < epoch:
        return seq
    if figures.epoch > epoch:
        return 0
    return max(0, seq - (figures.seq or 0))

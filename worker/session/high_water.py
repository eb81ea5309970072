"""The high-water mark: the time up to which everything that WhatsApp had is durable (docs/coverage.md)."""

from __future__ import annotations

from datetime import UTC, datetime

from worker.bridge.protocol import Pong
from worker.ingest.rules.live import clock_at

# A message sent this shortly before may still be on its way inside WhatsApp. Its login gives full seconds only.
ON_ITS_WAY_MS = 5_000.0


class HighWater:
    """The sidecar's latest mark. `value`: the connection (epoch) and the time by WhatsApp's clock.

    A mark of an older connection does no harm: the database refuses it.
    """

    def __init__(self) -> None:
        self.value: tuple[int, datetime] | None = None

    def take(self, pong: Pong) -> None:
        """Note the sidecar's current mark. An impossible time counts as no mark."""
        told = pong.complete
        seconds = None if told is None else clock_at(told.to_ms, -ON_ITS_WAY_MS)
        self.value = None
        if told is not None and seconds is not None:
            self.value = told.epoch, datetime.fromtimestamp(seconds, UTC)

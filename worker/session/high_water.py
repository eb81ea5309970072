"""The high-water mark: up to which time everything that WhatsApp had is durable (docs/coverage.md)."""

from __future__ import annotations

from datetime import UTC, datetime

from worker.bridge.protocol import Pong
from worker.ingest.rules.live import clock_at

# What was sent so shortly before may still have been on its way through WhatsApp. Its login tells full seconds only.
ON_ITS_WAY_MS = 5_000.0


class HighWater:
    """What the sidecar told last; `value` is its connection (epoch) and the time, by WhatsApp's clock.

    One of an older connection does no harm: the database refuses it.
    """

    def __init__(self) -> None:
        self.value: tuple[int, datetime] | None = None

    def take(self, pong: Pong) -> None:
        """Note what the sidecar says now. A time that makes no sense is none."""
        told = pong.complete
        seconds = None if told is None else clock_at(told.to_ms, -ON_ITS_WAY_MS)
        self.value = None
        if told is not None and seconds is not None:
            self.value = told.epoch, datetime.fromtimestamp(seconds, UTC)

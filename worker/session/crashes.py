"""How soon a sidecar that ended is started again. A pure rule: no hot loop, whatever ends it."""

from __future__ import annotations

from worker.session.backoff import next_delay

LIVED_SECONDS = 60.0  # one that lived this long ended for a new reason
LOOP_AFTER = 6  # so many in a row are a loop, and a person should look
LOOP_SECONDS = 300.0


class Crashes:
    """Counts ends of the sidecar in a row."""

    def __init__(self, base: float, cap: float) -> None:
        self._base = base
        self._cap = cap
        self.in_a_row = 0

    @property
    def looping(self) -> bool:
        return self.in_a_row >= LOOP_AFTER

    def note(self, lived_seconds: float, jitter: float) -> float:
        """Seconds to wait before the next start, after one that lived so long."""
        self.in_a_row = 1 if lived_seconds >= LIVED_SECONDS else self.in_a_row + 1
        if self.looping:
            return LOOP_SECONDS + jitter
        return next_delay(self.in_a_row - 1, jitter, self._base, self._cap)

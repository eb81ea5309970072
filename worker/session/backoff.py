"""How long to wait before the next attempt. Pure: the caller draws the jitter."""

from __future__ import annotations

JITTER_MAX_SECONDS = 0.5  # docs/contract.md §5
LIVED_SECONDS = 60.0  # a sidecar that ran this long resets the count
LOOP_AFTER = 6  # crashes in a row that need a person
LOOP_SECONDS = 300.0
_EXPONENT_MAX = 62  # the cap applies long before; a larger one would overflow a float


def next_delay(attempt: int, jitter: float, base: float, cap: float) -> float:
    """Seconds to wait before reconnect number `attempt`, counted from 0.

    `min(cap, base * 2**attempt) + jitter`; `jitter` is 0 to 0.5 s, drawn by the caller.
    Source: docs/contract.md §5, Reconnect.

    Raises:
        ValueError: if `attempt` is negative.
    """
    if attempt < 0:
        raise ValueError(f"attempt must be 0 or more, not {attempt}")
    return min(cap, base * 2.0 ** min(attempt, _EXPONENT_MAX)) + jitter


class Crashes:
    """Counts crashes of the sidecar in a row."""

    def __init__(self, base: float, cap: float) -> None:
        self._base = base
        self._cap = cap
        self.in_a_row = 0

    @property
    def looping(self) -> bool:
        return self.in_a_row >= LOOP_AFTER

    def note(self, lived_seconds: float, jitter: float) -> float:
        """Count one crash. Returns the seconds to wait before the next start. `lived_seconds`: its run time.

        The first crash after a long run causes no wait: it says nothing about the next start.
        """
        self.in_a_row = 1 if lived_seconds >= LIVED_SECONDS else self.in_a_row + 1
        if self.looping:
            return LOOP_SECONDS + jitter
        if self.in_a_row == 1:
            return 0.0
        return next_delay(self.in_a_row - 2, jitter, self._base, self._cap)

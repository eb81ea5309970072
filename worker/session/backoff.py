"""How long to wait before the next attempt. A pure rule: the caller draws the jitter."""

from __future__ import annotations

JITTER_MAX_SECONDS = 0.5  # contract §5
_EXPONENT_MAX = 62  # beyond it only the cap speaks, and a float would overflow


def next_delay(attempt: int, jitter: float, base: float, cap: float) -> float:
    """Seconds to wait before reconnect number `attempt`, counted from 0.

    `min(cap, base * 2**attempt) + jitter`; `jitter` is 0 to 0.5 s, drawn by the caller.
    Source: contract §5, Reconnect.

    Raises:
        ValueError: if `attempt` is negative.
    """
    if attempt < 0:
        raise ValueError("attempts are counted from 0")
    return min(cap, base * 2.0 ** min(attempt, _EXPONENT_MAX)) + jitter

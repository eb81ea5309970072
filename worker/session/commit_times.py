"""Durations of the newest commits, for the session's row, because the console only reads the database."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from worker.bridge.protocol import Commit
from worker.store import Batch, Committed
from worker.times import iso_utc

N = TypeVar("N", int, float)

KEPT = 100  # commits; each session of a host has such a list
KEPT_SECONDS = 3600.0
STORE_EVERY_SECONDS = 60.0  # write to the database at most this often, and only after a new commit


class CommitTimes:
    """Collects commit durations. Times are Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._taken: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._stored_at = 0.0
        self._is_new = False

    def committed(self, _commit: Commit, _batch: Batch, _done: Committed, seconds: float) -> None:
        self._taken.append((self._clock(), seconds))
        self._is_new = True

    def figures_to_store(self, now: float) -> Mapping[str, Any] | None:
        """`{from, to, count, p50_ms, p95_ms, max_ms}` of the newest commits of an hour; None without a new one."""
        if not self._is_new or now - self._stored_at < STORE_EVERY_SECONDS:
            return None
        self._stored_at, self._is_new = now, False
        lately = [(at, seconds) for at, seconds in self._taken if now - at < KEPT_SECONDS]
        if not lately:
            return None
        taken = sorted(round(seconds * 1000) for _, seconds in lately)
        return {
            "from": _iso(lately[0][0]),
            "to": _iso(lately[-1][0]),
            "count": len(taken),
            "p50_ms": quantile(taken, 50),
            "p95_ms": quantile(taken, 95),
            "max_ms": taken[-1],
        }


def quantile(ordered: Sequence[N], percent: int) -> N:
    """The smallest of these values that at least so many percent of them do not exceed."""
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


def _iso(at: float) -> str:
    return iso_utc(datetime.fromtimestamp(at, UTC), "seconds")

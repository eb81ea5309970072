"""Log limits: for equal lines (`Repeats`), for one noisy source (`LineBudget`), for each session (`Budgets`)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

REPEAT_SECONDS = 60.0
REPEATS_WRITTEN = 5  # per line and period: enough to see that it repeats
LINES_REMEMBERED = 1000
SESSIONS_REMEMBERED = 1000
LINES_PER_SECOND = 200.0  # more than a person can read
LINES_AT_ONCE = 500.0  # the burst of a start at level trace


@dataclass
class _Line:
    since: float
    written: int = 0
    left_out: int = 0


class Repeats:
    """Passes REPEATS_WRITTEN equal lines per REPEAT_SECONDS. The next one after that reports the suppressed count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: OrderedDict[Hashable, _Line] = OrderedDict()

    def take(self, line: Hashable) -> dict[str, int] | None:
        """Extra fields for the line, usually empty; None: suppress it."""
        now = self._clock()
        known = self._lines.get(line)
        told: dict[str, int] = {}
        if known is None or now - known.since >= REPEAT_SECONDS:
            if known and known.left_out:
                told["left_out"] = known.left_out
            known = self._lines[line] = _Line(since=now)
            self._lines.move_to_end(line)
            if len(self._lines) > LINES_REMEMBERED:
                self._lines.popitem(last=False)
        if known.written == REPEATS_WRITTEN:
            known.left_out += 1
            return None
        known.written += 1
        if known.written == REPEATS_WRITTEN:
            told["more_in_s"] = round(REPEAT_SECONDS - (now - known.since))
        return told


class LineBudget:
    """A token bucket: bursts of LINES_AT_ONCE lines, then LINES_PER_SECOND."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = LINES_AT_ONCE
        self._at = clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(LINES_AT_ONCE, self._left + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Budgets:
    """One `LineBudget` per session, so that a session that floods the log does not silence the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[Hashable, tuple[LineBudget, list[int]]] = OrderedDict()

    def take(self, session: Hashable) -> dict[str, int] | None:
        """Extra fields for the line, usually empty; None: suppress it."""
        allowance, left_out = self._sessions.setdefault(session, (LineBudget(self._clock), [0]))
        self._sessions.move_to_end(session)
        if len(self._sessions) > SESSIONS_REMEMBERED:
            self._sessions.popitem(last=False)
        if not allowance.take():
            left_out[0] += 1
            return None
        told, left_out[0] = left_out[0], 0
        return {"too_many_left_out": told} if told else {}

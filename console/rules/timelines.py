"""Coverage as a timeline: where the archive is complete, and its gaps. Drawn by `html/timeline.html`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

WIDTH = 1000.0
WIDTH_MIN = 3.0  # of a gap: a moment without one of two messages must be seen
SHORTEST = timedelta(days=1)
MARGIN = 0.05  # of the time shown, before its first event

Look = Literal["off", "open", "lost"]

# off: switched off, or not recorded. open: may still arrive. lost: will not.
LOOKS: dict[str, Look] = {
    "not_monitored": "off",
    "unlinked": "off",
    "left": "off",
    "not_recorded": "off",
    "deleted": "off",
    "away": "open",
    "not_connected": "open",
    "backlog": "open",
    "waiting": "open",
    "undecryptable": "open",
    "waited_too_long": "lost",
    "too_old": "lost",
    "refused": "lost",
    "lost": "lost",
}
_ORDER: tuple[Look, ...] = ("off", "open", "lost")  # drawn in this order, lost on top


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One gap on the line."""

    x: float
    width: float
    look: Look
    gap: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A timeline from `start` to `end`. `more`: number of gaps that are not drawn."""

    start: datetime
    end: datetime
    marks: tuple[Mark, ...]
    more: int


def make_timeline(coverage: Mapping[str, Any], start: datetime, end: datetime) -> Timeline:
    """The gaps of one group's coverage between two times."""
    gaps: Sequence[Mapping[str, Any]] = coverage["gaps"]
    marks = [mark for gap in gaps if (mark := _mark(gap, start, end))]
    marks.sort(key=lambda mark: _ORDER.index(mark.look))
    return Timeline(start=start, end=end, marks=tuple(marks), more=int(coverage["gap_count"]) - len(gaps))


def first_event(gaps: Iterable[Mapping[str, Any]], end: datetime) -> datetime:
    """The start of a timeline that shows all these gaps, with a margin; at least a day ago."""
    times = [datetime.fromisoformat(gap[name]) for gap in gaps for name in ("from", "to") if gap[name]]
    shown = max(SHORTEST, end - min(times, default=end))
    return end - shown * (1 + MARGIN)


def _mark(gap: Mapping[str, Any], start: datetime, end: datetime) -> Mark | None:
    first = datetime.fromisoformat(gap["from"]) if gap["from"] else start
    last = datetime.fromisoformat(gap["to"]) if gap["to"] else end
    if last < start or first > end:
        return None
    left, right = _place(max(first, start), start, end), _place(min(last, end), start, end)
    width = max(WIDTH_MIN, right - left)
    look = LOOKS.get(gap["reason"], "lost")
    return Mark(x=round(min(left, WIDTH - width), 1), width=round(width, 1), look=look, gap=gap)


def _place(at: datetime, start: datetime, end: datetime) -> float:
    return WIDTH * ((at - start) / (end - start))

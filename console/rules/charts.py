"""Stacked bar charts over time: turns counts into rectangles. Drawn by `html/chart.html`.

Units: horizontally the distance between bars, vertically a hundredth of the chart's height.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

HEIGHT = 100.0
COLOURS = (4, 0, 5, 2, 6, 1)  # classes of the style sheet, ordered so that neighbours differ most
REST = "rest"  # the class of series without their own colour


@dataclass(frozen=True, kw_only=True)
class Span:
    """A time span for charts; its last step ends now."""

    name: str
    step_seconds: int
    steps: int


SPANS = (
    Span(name="day", step_seconds=600, steps=144),
    Span(name="month", step_seconds=6 * 3600, steps=120),
)


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series of one colour. `name` None: the rest."""

    name: str | None
    look: str
    total: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One rectangle. `y`: its upper edge."""

    x: int
    y: float
    height: float
    look: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table: the step's start, the counts of all series, their sum."""

    at: datetime
    counts: tuple[int, ...]
    total: int


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart, and the same data as a table without empty rows, newest first."""

    span: Span
    since: datetime
    until: datetime
    series: tuple[Series, ...]
    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    total: int
    highest: int
    counted_from: str | None

    @property
    def highest_a_minute(self) -> float:
        return self.highest * 60 / self.span.step_seconds


def span_of(name: str | None) -> Span:
    """The span with this name, else the first."""
    return next((span for span in SPANS if span.name == name), SPANS[0])


def make_chart(
    answer: Mapping[str, Any], span: Span, key: str, name: Callable[[Any], str | None], fixed: Sequence[Any] = ()
) -> Chart:
    """A chart from `wa_activity` or `wa_event_counts`. `key`: field that identifies a series; `name`: its name.

    The largest series comes first, at the bottom; the one whose `name` is None comes last. Keys in `fixed` come
    before, in this order, and have the same colour in each chart.
    """
    counts: dict[Any, dict[int, int]] = {}
    for each in answer["counts"]:
        if 0 <= each["at"] < span.steps:
            counts.setdefault(each[key], {})[each["at"]] = int(each["count"])
    by_size = sorted(counts, key=lambda one: (name(one) is None, -sum(counts[one].values()), str(one)))
    places = {one: place for place, one in enumerate([*fixed, *(one for one in by_size if one not in fixed)])}
    keys = [one for one in places if one in counts]
    series = tuple(
        Series(name=name(one), look=_look(name(one), places[one]), total=sum(counts[one].values())) for one in keys
    )
    since = datetime.fromisoformat(answer["since"])
    step = timedelta(seconds=span.step_seconds)
    columns = [(at, [counts[one].get(at, 0) for one in keys]) for at in range(span.steps)]
    highest = max((sum(column) for _, column in columns), default=0)
    return Chart(
        span=span,
        since=since,
        until=since + span.steps * step,
        series=series,
        bars=tuple(bar for at, column in columns for bar in _stack(at, column, series, highest)),
        lines=tuple(
            Line(at=since + at * step, counts=tuple(column), total=sum(column))
            for at, column in reversed(columns)
            if any(column)
        ),
        total=sum(each.total for each in series),
        highest=highest,
        counted_from=answer["counted_from"],
    )


def _look(name: str | None, place: int) -> str:
    return f"c{COLOURS[place]}" if name is not None and place < len(COLOURS) else REST


def _stack(at: int, column: Sequence[int], series: Sequence[Series], highest: int) -> list[Bar]:
    bars: list[Bar] = []
    top = HEIGHT
    for count, each in zip(column, series, strict=True):
        if count:
            height = HEIGHT * count / highest
            top -= height
            bars.append(Bar(x=at, y=round(max(0.0, top), 2), height=round(height, 2), look=each.look))
    return bars

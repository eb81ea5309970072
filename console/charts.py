"""Data for charts and timelines. The database aggregates it; no messages are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from console.database import Database, Row
from console.rules.charts import Chart, Span, make_chart
from console.rules.timelines import Timeline, first_event, make_timeline
from worker.store.console import holes, open_gap

EVENTS = ("connect", "error", "reconnect", "disconnect")  # of the chart of connections, from its bottom


@dataclass(frozen=True, kw_only=True)
class Covered:
    """One group's archive in words and as a timeline. `present`: the ongoing gap."""

    group: Mapping[str, Any]
    coverage: Row
    present: Row | None
    timeline: Timeline

    @property
    def holes(self) -> int:
        return holes(self.coverage)


async def activity(
    database: Database, session: str, group: int | None, span: Span, names: Mapping[int, str] | None = None
) -> Chart:
    """Messages of one group, or of the busiest groups and all others. `names`: known names of groups."""
    found = await database.ask(lambda store: store.console.activity(session, group, span.step_seconds, span.steps))
    known = await _names_in(database, session, found["counts"]) if names is None else names

    def name(one: str | None) -> str | None:
        return None if one is None else known.get(int(one)) or f"~{one}"

    return make_chart(found, span, "group_id", name)


async def _names_in(database: Database, session: str, counts: Iterable[Row]) -> dict[int, str]:
    wanted = sorted({int(each["group_id"]) for each in counts if each["group_id"] is not None})
    if not wanted:
        return {}
    rows = await database.read(
        "groups",
        lambda c: c.table("groups").select("id,name,wa_group_id").eq("session_id", session).in_("id", wanted),
    )
    return {row["id"]: row["name"] or row["wa_group_id"] for row in rows}


async def connections(database: Database, session: str, span: Span) -> Chart:
    """Connects, disconnects, attempts and errors. Each series is named after its event."""
    found = await database.ask(lambda store: store.console.event_counts(session, span.step_seconds, span.steps))
    return make_chart(found, span, "event", str, EVENTS)


def covered(group: Mapping[str, Any], coverage: Row, now: datetime, shown: timedelta | None = None) -> Covered:
    """The coverage of a group. `shown`: how much of the past; None: as much as its gaps need."""
    gaps: Sequence[Row] = coverage["gaps"]
    start = first_event(gaps, now) if shown is None else now - shown
    timeline = make_timeline(coverage, start, now)
    return Covered(group=group, coverage=coverage, present=open_gap(gaps, now), timeline=timeline)

"""Figures that a worker stores in its session's `detail`. Invalid shapes count as missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CommitFigures:
    """Durations of the newest commits of an hour, in milliseconds."""

    count: int
    since: str
    until: str
    half: int
    most: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class WorkerFigures:
    """When something last arrived from WhatsApp and from a group, and commit durations. None: unknown."""

    anything: str | None
    group: str | None
    commits: CommitFigures | None


def worker_figures(row: Mapping[str, Any] | None) -> WorkerFigures:
    detail = (row or {}).get("detail") or {}
    heard = detail.get("heard")
    heard = heard if isinstance(heard, Mapping) else {}
    return WorkerFigures(
        anything=_time(heard.get("any")), group=_time(heard.get("group")), commits=_commits(detail.get("commits"))
    )


def _commits(given: object) -> CommitFigures | None:
    if not isinstance(given, Mapping):
        return None
    since, until = _time(given.get("from")), _time(given.get("to"))
    given_figures = (given.get(name) for name in ("count", "p50_ms", "p95_ms", "max_ms"))
    figures = [figure for figure in given_figures if type(figure) is int]
    if since is None or until is None or len(figures) != 4:
        return None
    count, half, most, longest = figures
    return CommitFigures(count=count, since=since, until=until, half=half, most=most, longest=longest)


def _time(given: object) -> str | None:
    try:
        return given if isinstance(given, str) and datetime.fromisoformat(given).tzinfo else None
    except ValueError:
        return None

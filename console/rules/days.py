"""Days in a viewer's time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

OFFSET_MINUTES_MAX = 14 * 60


def day_begins(day: str, offset: int) -> datetime:
    """The start of a day like `2026-11-26`, in UTC. `offset`: minutes that the viewer's clock is behind UTC.

    Raises:
        ValueError: there is no such day.
    """
    zone = timezone(-timedelta(minutes=max(-OFFSET_MINUTES_MAX, min(OFFSET_MINUTES_MAX, offset))))
    try:
        return datetime.fromisoformat(day).replace(tzinfo=zone).astimezone(UTC)
    except OverflowError as outside:
        raise ValueError(day) from outside

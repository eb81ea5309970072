"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal


def iso_utc(at: datetime, timespec: Literal["seconds", "milliseconds"] = "milliseconds") -> str:
    """ISO 8601 in UTC, with a `Z`."""
    return at.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")

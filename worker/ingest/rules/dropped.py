"""The times of groups for which a batch dropped messages because they came too late. Pure.

The database records them as gaps of the coverage (supabase/schemas/coverage.sql, wa.write_dropped).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from worker.ingest.rules.live import iso
from worker.ingest.rules.normalise import Discard


class Dropped(TypedDict):
    """A run of messages of one group dropped for one reason, with nothing stored between them. ISO times."""

    chat_id: str
    reason: str
    from_at: str
    to_at: str
    count: int


def dropped_times(discards: Iterable[Discard], messages: Sequence[dict[str, Any]]) -> list[Dropped]:
    """Runs in order of group and time. A stored message of the group ends a run."""
    sent: dict[tuple[str, str], list[float]] = {}
    for discard in discards:
        if discard.chat_id is not None and discard.sent_s is not None:
            sent.setdefault((discard.chat_id, discard.reason), []).append(discard.sent_s)
    runs: list[Dropped] = []
    for (chat_id, reason), times in sorted(sent.items()):
        stored = [message["ts"] for message in messages if message["chat_id"] == chat_id]
        run: Dropped | None = None
        for at in map(iso, sorted(times)):
            if run is None or any(run["to_at"] < ts < at for ts in stored):
                run = Dropped(chat_id=chat_id, reason=reason, from_at=at, to_at=at, count=0)
                runs.append(run)
            run["to_at"] = at
            run["count"] += 1
    return runs

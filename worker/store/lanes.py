"""Which database calls share connections. Each lane has its own: many calls of one sort hold up none of another.

A call that waits for its turn in a lane has not been sent. Its time-out has not begun, and the wait is not the
database's silence.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from worker.errors import StoreUnavailable

LANE_CONNECTIONS = 4
COMMIT, POLL, READ, OTHER = "commit", "poll", "read", "other"
CONNECTIONS = 4 * LANE_CONNECTIONS
LANES = {
    **dict.fromkeys(("wa_commit", "wa_commit_part", "wa_put_piece", "wa_commit_pieces", "wa_get_identities"), COMMIT),
    **dict.fromkeys(
        (
            "wa_begin_epoch",
            "wa_host_poll",
            "wa_lease_acquire",
            "wa_lease_release",
            "wa_load_state",
            "wa_monitored_groups",
            "wa_pending_flags",
            "wa_schema_version",
            "wa_set_session",
        ),
        POLL,
    ),
    **dict.fromkeys(("wa_get_keys", "wa_known_stanzas"), READ),
}


class Lanes:
    """Lets `LANE_CONNECTIONS` calls of each lane go at once."""

    def __init__(self) -> None:
        self._free = {lane: anyio.Semaphore(LANE_CONNECTIONS) for lane in (COMMIT, POLL, READ, OTHER)}

    @asynccontextmanager
    async def turn(self, function: str) -> AsyncIterator[None]:
        """Wait for a connection for this SQL function. Errors learn when the call was sent."""
        async with self._free[LANES.get(function, OTHER)]:
            sent_at = time.monotonic()
            try:
                yield
            except StoreUnavailable as error:
                error.sent_at = sent_at
                raise

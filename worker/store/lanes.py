"""Which database calls share connections. Each lane has its own: many calls of one sort hold up none of another.

A call that waits for its turn in a lane has not been sent. Its time-out has not begun, and the wait is not the
database's silence. Where many sessions share the lanes, one of them has a few calls in each: those that hang, or a
burst, hold up nobody else.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from weakref import WeakValueDictionary

import anyio

from worker.errors import StoreUnavailable

LANE_CONNECTIONS = 4
SESSIONS_A_CONNECTION = 8  # of a host: one more connection in each lane for so many sessions
SHARE = 2  # calls of one session at once in a lane that it shares
COMMIT, LEASES, POLL, READ, OTHER = "commit", "leases", "poll", "read", "other"
LANES = {
    **dict.fromkeys(("wa_commit", "wa_commit_part", "wa_put_piece", "wa_commit_pieces", "wa_get_identities"), COMMIT),
    **dict.fromkeys(
        (
            "wa_begin_epoch",
            "wa_host_leave",
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
    "wa_host_poll": LEASES,  # all leases of the process run out while it waits
    **dict.fromkeys(("wa_get_keys", "wa_known_stanzas"), READ),
}


class Lanes:
    """Lets a few calls of each lane go at once: `LANE_CONNECTIONS`, and more for many `sessions`."""

    def __init__(self, sessions: int = 1) -> None:
        width = LANE_CONNECTIONS + sessions // SESSIONS_A_CONNECTION
        self._share = width if sessions == 1 else SHARE
        self._free = {lane: anyio.Semaphore(width) for lane in (COMMIT, LEASES, POLL, READ, OTHER)}
        self.connections = len(self._free) * width
        self._own: WeakValueDictionary[tuple[str, str], anyio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, function: str, session: str | None = None) -> AsyncIterator[None]:
        """Wait for a connection for this SQL function. Errors learn when the call was sent."""
        lane = LANES.get(function, OTHER)
        async with self._budget(lane, session), self._free[lane]:
            sent_at = time.monotonic()
            try:
                yield
            except StoreUnavailable as error:
                error.sent_at = sent_at
                raise

    def _budget(self, lane: str, session: str | None) -> AbstractAsyncContextManager[object]:
        """The session's own turn in a lane. It lives as long as somebody waits for it or has it."""
        if session is None:
            return nullcontext()
        own = self._own.get((lane, session)) or anyio.Semaphore(self._share)
        self._own[lane, session] = own
        return own

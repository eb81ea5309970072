"""Lanes: groups of database calls that share connections, so that a burst of one kind does not delay another.

A call waiting in its lane has not been sent: its time-out has not started, and the wait does not count as silence of
the database. When many sessions share the lanes, each gets only a few calls per lane, so one session's hanging calls
do not block the others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from weakref import WeakValueDictionary

import anyio

from worker.errors import StoreUnavailable

LANE_CONNECTIONS = 4
SESSIONS_A_CONNECTION = 8  # a host gets one more connection per lane for this many sessions
SHARE = 2  # concurrent calls of one session in a shared lane
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
            "wa_schema_version",
            "wa_set_session",
        ),
        POLL,
    ),
    "wa_host_poll": LEASES,  # must not wait: it renews all leases of the process
    **dict.fromkeys(("wa_get_keys", "wa_known_stanzas"), READ),
}


class Lanes:
    """Limits the concurrent calls of each lane: `LANE_CONNECTIONS`, more for many `sessions`."""

    def __init__(self, sessions: int = 1) -> None:
        width = LANE_CONNECTIONS + sessions // SESSIONS_A_CONNECTION
        self._share = width if sessions == 1 else SHARE
        self._free = {lane: anyio.Semaphore(width) for lane in (COMMIT, LEASES, POLL, READ, OTHER)}
        self.connections = len(self._free) * width
        self._own: WeakValueDictionary[tuple[str, str], anyio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, function: str, session: str | None = None) -> AsyncIterator[None]:
        """Wait for a connection for this SQL function. Sets `sent_at` on errors."""
        lane = LANES.get(function, OTHER)
        async with self._budget(lane, session), self._free[lane]:
            sent_at = time.monotonic()
            try:
                yield
            except StoreUnavailable as error:
                error.sent_at = sent_at
                raise

    def _budget(self, lane: str, session: str | None) -> AbstractAsyncContextManager[object]:
        """The session's own limit in a lane. Exists only while somebody waits for it or holds it."""
        if session is None:
            return nullcontext()
        own = self._own.get((lane, session)) or anyio.Semaphore(self._share)
        self._own[lane, session] = own
        return own

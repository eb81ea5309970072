"""The lease: only one worker at a time serves a session.

`acquire` waits while another worker holds it; the poll renews it (worker/session/host_poll.py). Correctness comes from
the fence, which the database checks on every write; the lease only keeps two workers from logging in at once.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
from loguru import logger

from worker.errors import StoreRefused, StoreUnavailable, UnexpectedAnswer
from worker.store import Lease, Store
from worker.store.availability import PATIENCE_SECONDS

ASK_AGAIN_SECONDS = 1.0  # how soon a waiting worker notices a released lease
RENEWED_AFTER = 1 / 3  # of its duration, by the poll
RESERVE = 1 / 10  # of its duration: time to end the socket before the lease runs out


@dataclass(frozen=True, kw_only=True)
class PollTiming:
    """How often to poll and how long to wait for an answer, in seconds.

    After an answered poll, the lease runs for at least two thirds of its duration.
    """

    poll: float
    lease: float

    @property
    def interval(self) -> float:
        return min(self.poll, self.lease * RENEWED_AFTER)

    @property
    def retry_interval(self) -> float:
        """Pause after a failed poll."""
        return min(self.interval, ASK_AGAIN_SECONDS)

    @property
    def patience(self) -> float:
        """How long polls may fail before the socket must end, counted from the first failure."""
        left = self.lease * (1 - RENEWED_AFTER - RESERVE) - self.interval
        return min(PATIENCE_SECONDS, self.lease / 2, left)

    @property
    def call_timeout(self) -> float:
        """Time limit of one poll. Half the patience: one hanging poll proves nothing."""
        return self.patience / 2


def make_owner() -> str:
    """A unique name for this process; tells people where it runs."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


async def acquire(
    store: Store,
    session: str,
    owner: str,
    seconds: float,
    waiting: Callable[[str], None],
    dead: Callable[[str], bool] = lambda holder: False,
) -> Lease:
    """Wait for the lease, or take over from a holder that is provably `dead`. Calls `waiting` once per new reason."""
    said = ""
    while True:
        try:
            lease = await store.lease_acquire(session, owner, seconds)
        except (StoreRefused, UnexpectedAnswer) as odd:
            reason = f"Supabase answers oddly ({odd}); waiting"
        except StoreUnavailable:
            reason = "Supabase does not answer yet; waiting for it"
        else:
            if lease.acquired:
                return lease
            if dead(lease.holder):
                logger.info("the worker that held the lease ({}) has died; taking over", _place(lease.holder))
                await _release_for(store, session, lease)
                continue
            reason = f"another worker ({_place(lease.holder)}) serves this session; waiting until it stops"
        if reason != said:
            waiting(reason)
            said = reason
        await anyio.sleep(min(ASK_AGAIN_SECONDS, seconds * RENEWED_AFTER))


async def _release_for(store: Store, session: str, lease: Lease) -> None:
    """Release a dead holder's lease. If that fails, it runs out by itself: the proof is used up."""
    with suppress(StoreUnavailable, StoreRefused):
        await store.lease_release(session, lease.holder, lease.fence)


def _place(holder: str | None) -> str:
    return (holder or "unknown").rsplit(":", 1)[0]

"""The lease: one worker at a time serves a session.

Acquires it, waits while another worker holds it, renews it, and raises when it is lost. The database checks the fence
that comes with it; the lease only keeps two workers from logging in at once.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress

import anyio
from loguru import logger

from worker.errors import OddAnswer, StaleFence, StoreRefused, StoreUnavailable
from worker.store import Lease, Store
from worker.store.availability import DatabaseWatch

ASK_AGAIN_SECONDS = 1.0  # how soon a waiting worker notices that the lease was given back
RENEWALS_PER_LEASE = 3  # two renewals may fail before it runs out


def make_owner() -> str:
    """A unique name for this process that tells people where it runs."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


async def acquire(
    store: Store,
    session: str,
    owner: str,
    seconds: float,
    waiting: Callable[[str], None],
    dead: Callable[[str], bool] = lambda holder: False,
) -> Lease:
    """Wait for the lease, or take that of a holder who is proven `dead`. `waiting` is told once for each reason."""
    said = ""
    while True:
        try:
            lease = await store.lease_acquire(session, owner, seconds)
        except (StoreRefused, OddAnswer) as odd:
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
        await anyio.sleep(min(ASK_AGAIN_SECONDS, seconds / RENEWALS_PER_LEASE))


async def _release_for(store: Store, session: str, lease: Lease) -> None:
    """Give back a dead holder's lease. If that fails, it runs out by itself: the proof is used up."""
    with suppress(StoreUnavailable, StoreRefused):
        await store.lease_release(session, lease.holder, lease.fence)


async def keep(store: Store, session: str, owner: str, seconds: float, fence: int, watch: DatabaseWatch) -> None:
    """Renew until cancelled, and report each call to `watch`.

    Raises:
        StaleFence: another worker took it.
    """
    while True:
        await anyio.sleep(seconds / RENEWALS_PER_LEASE)
        try:
            lease = await watch.observe("lease", _renew(store, session, owner, seconds))
        except StoreUnavailable:
            continue
        except StoreRefused as refused:  # if it stays so, the lease runs out, and the commits know
            logger.warning("the lease could not be renewed ({})", refused)
            continue
        if not lease.acquired or lease.fence != fence:
            logger.warning("the lease went to another worker ({})", _place(lease.holder))
            raise StaleFence("another worker took the lease")


async def _renew(store: Store, session: str, owner: str, seconds: float) -> Lease:
    """One renewal, ended before the lease can run out."""
    with anyio.move_on_after(seconds / RENEWALS_PER_LEASE):
        return await store.lease_acquire(session, owner, seconds)
    raise StoreUnavailable("the lease could not be renewed in time")


def _place(holder: str | None) -> str:
    return (holder or "unknown").rsplit(":", 1)[0]

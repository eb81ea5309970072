"""What the database has for a session, as the poll would bring it; for tests that have no worker."""

from __future__ import annotations

from worker.store import Flag, Store
from worker.store.host_poll import parse_flag


async def monitored_groups(store: Store, session: str) -> frozenset[str]:
    return frozenset((await store._call("wa_monitored_groups", {"p_session": session}))["groups"])


async def pending_flags(store: Store, session: str) -> list[Flag]:
    rows = (await store._call("wa_pending_flags", {"p_session": session}))["flags"]
    return [parse_flag(row) for row in rows]

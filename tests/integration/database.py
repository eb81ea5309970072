"""Short hands for tests of the database: rows as the worker sends them, a session that is ready to commit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.store import Batch, GroupChange, Store

GROUP = "1203630@g.us"
OTHER_GROUP = "1203631@g.us"
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def message(wa_msg_id: str, seconds: float = 0.0, **columns: Any) -> dict[str, Any]:
    """A text message of Ana's; any column may be given."""
    row = {
        "wa_msg_id": wa_msg_id,
        "chat_id": GROUP,
        "sender": "ana@lid",
        "sender_alt": "4917@s.whatsapp.net",
        "push_name": "Ana",
        "from_me": False,
        "ts": at(seconds),
        "received_at": at(seconds + 1),
        "kind": "text",
        "text": f"text of {wa_msg_id}",
        "raw": {"conversation": wa_msg_id},
        "pending": False,
        "media": None,
        "media_status": None,
    }
    return row | columns


def photo(wa_msg_id: str, seconds: float = 0.0, **columns: Any) -> dict[str, Any]:
    media = {"kind": "image", "mime": "image/jpeg", "file_name": "a.jpg", "descriptor": {"media_key": "c2VjcmV0"}}
    return message(wa_msg_id, seconds, kind="image", text=None, media=media, media_status="pending", **columns)


def stub(wa_msg_id: str, seconds: float = 0.0, **columns: Any) -> dict[str, Any]:
    return message(wa_msg_id, seconds, kind="undecryptable", text=None, pending=True, **columns)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Writer:
    """The holder of a session's lease, in an epoch of its own; counts its batches."""

    store: Store
    session: str
    fence: int
    epoch: int
    seq: int = field(default=0)

    def batch(self, **parts: Any) -> Batch:
        """The next batch; sent again, it is the same one."""
        self.seq += 1
        return Batch(fence=self.fence, epoch=self.epoch, seq=self.seq, **parts)

    async def commit(self, **parts: Any) -> Any:
        return await self.store.commit(self.session, self.batch(**parts))


async def writer(store: Store, session: str, monitored: Iterable[str] = (GROUP,)) -> Writer:
    """A session with two groups, of which `monitored` are switched on."""
    lease = await store.lease_acquire(session, "worker-1", 60)
    groups = [GroupChange(wa_group_id=GROUP, name="Family"), GroupChange(wa_group_id=OTHER_GROUP, name="Work")]
    await store.upsert_groups(session, lease.fence, groups, complete=False)
    for group in monitored:
        await switch(store, session, group, True)
    return Writer(store, session, lease.fence, await store.begin_epoch(session, lease.fence))


async def switch(store: Store, session: str, group: str, on: bool) -> None:
    """What the web app does."""
    query = table(store, "groups").update({"monitor": on})
    await query.eq("session_id", session).eq("wa_group_id", group).execute()


async def rows(store: Store, name: str, session: str, order: str = "id") -> list[dict[str, Any]]:
    found: Any = await table(store, name).select("*").eq("session_id", session).order(order).execute()
    return list(found.data)


def table(store: Store, name: str) -> Any:
    """Tests look at tables directly; the worker never does."""
    return store._database.table(name)

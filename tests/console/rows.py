"""Messages with files, as a worker would have stored them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.integration.database import GROUP, Writer, message
from worker.session.report import View
from worker.store import MediaFile, Store


def recent(wa_msg_id: str, age_seconds: float = 60.0, **columns: Any) -> dict[str, Any]:
    at = (datetime.now(UTC) - timedelta(seconds=age_seconds)).isoformat()
    return message(wa_msg_id, **{"ts": at, "received_at": at, **columns})


def dropped(age_seconds: float = 3600.0, reason: str = "too_old", count: int = 3) -> dict[str, Any]:
    """A minute of which these messages are missing."""
    begins = datetime.now(UTC) - timedelta(seconds=age_seconds)
    ends = begins + timedelta(minutes=1)
    gap = {"from_at": begins.isoformat(), "to_at": ends.isoformat(), "count": count}
    return {"chat_id": GROUP, "reason": reason, **gap}


def vote(poll: int, who: str, *choices: str, age_seconds: float = 30.0) -> dict[str, Any]:
    """An opened vote for these options of the poll with this row's id."""
    content = {"about": poll, "choices": list(choices)}
    row = recent(f"v-{who}", age_seconds, kind="poll_vote", text="\n".join(choices) or None, content=content)
    return row | {"sender": f"{who}@lid", "sender_alt": None, "push_name": who.title()}


def with_file(wa_msg_id: str, kind: str, name: str | None = None, age_seconds: float = 60.0) -> dict[str, Any]:
    media = {"kind": kind, "mime": "?", "file_name": name, "descriptor": {"url": "x"}}
    return recent(wa_msg_id, age_seconds, kind=kind, text=None, media=media, media_status="pending")


async def store_file(store: Store, held: Writer, content: bytes, mime: str, extension: str) -> None:
    """Put a file behind the one message that waits for one."""
    (job,) = (await store.media_claim("tests", 10, 60.0, held.session)).jobs
    sha256 = hashlib.sha256(content + held.session.encode()).hexdigest()
    path = f"{sha256}/original.{extension}"
    await store.bucket.upload(path, content, mime)
    file = MediaFile(sha256=sha256, mime=mime, bytes=len(content), storage_path=path)
    await store.media_done(job.id, "tests", file)


async def show(store: Store, held: Writer, **view: Any) -> None:
    """The session's state as the worker writes it."""
    await store.set_session(held.session, held.fence, View(**view).patch({}), [])


async def connected(store: Store, held: Writer, name: str = "Olga") -> None:
    await show(store, held, status="connected", state="connected", say="ok", wa_name=name, wa_number="491511234567")


async def ids(store: Store, session: str) -> dict[str, int]:
    """Row ids of messages by WhatsApp's id."""
    found: Any = await store._database.table("messages").select("id,wa_msg_id").eq("session_id", session).execute()
    return {row["wa_msg_id"]: row["id"] for row in found.data}

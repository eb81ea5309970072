"""Reads the audit log of a session: all of it, one event, one person, some days; page by page.

Each of these follows an index (`supabase/schemas/audit.sql`), however long the log is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from postgrest import AsyncPostgrestClient
from starlette.datastructures import QueryParams

from console.access.logins import clean_who
from console.database import beyond
from console.rules.days import day_begins
from console.viewer import number

PAGE = 50
WHO = "payload->>who"
WORDS = ("true", "false", "null")  # as the value of `eq`, the embedded Supabase reads them as no text
# Every event that the worker, its SQL functions and this console write.
EVENTS = (
    "connect",
    "disconnect",
    "reconnect",
    "qr_generated",
    "pairing_code_generated",
    "passkey_requested",
    "passkey_compared",
    "discovery",
    "group_rename",
    "ingest",
    "revoke_by_other",
    "error",
    "console",
)


@dataclass(frozen=True, kw_only=True)
class Older:
    """The end of a page in order of time: only what comes before this row, newest first."""

    at: str
    id: int

    def narrow(self, query: Any, column: str = "id") -> Any:
        return beyond(query, ("at", self.at), (column, self.id), "lt")


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """Which entries to show. `who`: only what this person did in the console. Days are the viewer's."""

    event: str = ""
    who: str = ""
    since: str = ""
    until: str = ""
    offset: int = 0
    begins: str | None = None  # of the first day
    ends: str | None = None  # of the last day
    older: Older | None = None

    def narrow(self, client: AsyncPostgrestClient, session: str) -> Any:
        """The newest of them. By time first: that has an index, which ids do not have for one session."""
        query: Any = client.table("audit_log").select("id,at,event,payload").eq("session_id", session)
        if self.event:
            query = query.eq("event", self.event)
        if self.who:
            query = query.eq("event", "console")
            is_word = self.who.lower() in WORDS
            query = query.like(WHO, self.who) if is_word else query.eq(WHO, self.who)
        if self.begins:
            query = query.gte("at", self.begins)
        if self.ends:
            query = query.lt("at", self.ends)
        if self.older:
            query = self.older.narrow(query)
        return query.order("at", desc=True).order("id", desc=True).limit(PAGE)

    def link(self, **more: object) -> dict[str, object]:
        """The parameters of a page with this filter."""
        chosen = {"event": self.event, "who": self.who, "since": self.since, "date": self.until, "offset": self.offset}
        return {**chosen, **more}


def log_filter(params: QueryParams) -> LogFilter:
    """From an address. What makes no sense is left out."""
    event, offset = params.get("event", ""), number(params.get("offset")) or 0
    since, begins = _day(params.get("since", ""), offset)
    until, ends = _day(params.get("date", ""), offset, days=1)
    return LogFilter(
        event=event if event in EVENTS else "",
        who=clean_who(params.get("who", "")),
        since=since,
        until=until,
        offset=offset,
        begins=begins,
        ends=ends,
        older=older(params.get("until"), params.get("before")),
    )


def older(at: str | None, id_: str | None) -> Older | None:
    """The end of the page before, from an address; None: the first page."""
    before = number(id_)
    with suppress(ValueError, OverflowError):
        if before is not None:
            return Older(at=datetime.fromisoformat(at or "").astimezone(UTC).isoformat(), id=before)
    return None


def _day(day: str, offset: int, days: int = 0) -> tuple[str, str | None]:
    """A day, and its start or, with `days`, that of a later one; nothing if there is no such day."""
    with suppress(ValueError, OverflowError):
        return day, (day_begins(day, offset) + timedelta(days=days)).isoformat()
    return "", None

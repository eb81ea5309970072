"""The health page: what works, what waits, what was lost and why, and what to do about it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from postgrest import AsyncPostgrestClient
from starlette.requests import Request
from starlette.responses import Response

from console.charts import activity, connections
from console.context import context_of
from console.disk import measure
from console.parallel import parallel_reads
from console.rules.charts import SPANS, span_of
from console.rules.days import day_begins
from console.rules.worker_figures import worker_figures
from console.viewer import go_to, number

AUDITS = 50
REFUSED = 20
RETRIED = ["failed", "expired", "corrupt"]
EVENTS = [
    "connect",
    "disconnect",
    "reconnect",
    "qr_generated",
    "discovery",
    "group_rename",
    "ingest",
    "error",
    "console",
]


async def page(request: Request) -> Response:
    context = context_of(request)
    span = span_of(request.query_params.get("span"))
    log_filter = _log_filter(request)
    session, read = context.session, context.database.read

    def refused(client: AsyncPostgrestClient) -> Any:
        query: Any = client.table("wa_refused_stanzas").select("id,at,item,state,code,reason")
        return query.eq("session_id", session).order("id", desc=True).limit(REFUSED)

    async with parallel_reads() as reads:
        status = reads.start(context.database.ask(lambda store: store.status(session)))
        figures = reads.start(context.database.ask(lambda store: store.console.figures(session)))
        log = reads.start(read("audit", lambda client: log_filter.narrow(client, session)))
        listed = reads.start(read("refused", refused))
        lost = reads.start(context.database.count("lost", lambda client: _lost(client, session)))
        disk = reads.start(measure(None if context.town else context.console.folder))
        messages = reads.start(activity(context.database, session, None, span))
        ends = reads.start(connections(context.database, session, span))
        situation = reads.start(context.situation())
    values = {
        "status": status.value,
        "figures": figures.value,
        "lost": lost.value,
        "disk": disk.value,
        "chart": messages.value,
        "connections": ends.value,
        "span": span,
        "spans": SPANS,
        "log": log.value,
        "refused": listed.value,
        "filter": log_filter,
        "events": EVENTS,
        "more": len(log.value) == AUDITS,
        "reported": worker_figures(status.value["session"]),
    }
    return await context.show("health.html", values, situation=situation.value)


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """Which audit entries to show: of one event, up to a day, and after `older`, only those before that entry."""

    event: str = ""
    date: str = ""
    offset: int = 0
    ends: str | None = None  # of that day
    older: tuple[str, int] | None = None  # time and id

    def narrow(self, client: AsyncPostgrestClient, session: str) -> Any:
        """The newest of them. By time first: that has an index, which ids do not have for one session."""
        query: Any = client.table("audit_log").select("id,at,event,payload").eq("session_id", session)
        if self.event:
            query = query.eq("event", self.event)
        if self.ends:
            query = query.lt("at", self.ends)
        if self.older:
            at, id_ = self.older
            query = query.lte("at", at).or_(f'at.lt."{at}",and(at.eq."{at}",id.lt.{id_})')
        return query.order("at", desc=True).order("id", desc=True).limit(AUDITS)


def _log_filter(request: Request) -> LogFilter:
    """From the address. What makes no sense is left out."""
    params = request.query_params
    event = params.get("event", "")
    found = LogFilter(event=event if event in EVENTS else "", offset=number(params.get("offset")) or 0)
    with suppress(ValueError, OverflowError):
        ends = day_begins(params.get("date", ""), found.offset) + timedelta(days=1)
        found = replace(found, date=params["date"], ends=ends.isoformat())
    before = number(params.get("before"))
    with suppress(ValueError, OverflowError):
        if before is not None:
            at = datetime.fromisoformat(params.get("until", "")).astimezone(UTC)
            found = replace(found, older=(at.isoformat(), before))
    return found


async def retry(request: Request) -> Response:
    """Retry failed files."""
    context = context_of(request)
    await context.act("media_retry")
    await context.database.ask(lambda store: store.console.media_requeue(context.session, RETRIED))
    return go_to(f"{context.base}/health", did="retry")


def _lost(client: Any, session: str) -> Any:
    """Messages that never became readable."""
    query = client.table("messages").select("id", count="exact", head=True).eq("session_id", session)
    return query.eq("kind", "undecryptable").not_.is_("lost_at", "null")

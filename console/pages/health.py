"""The health page: what works, what waits, what was lost and why, and what to do about it."""

from __future__ import annotations

from typing import Any

from postgrest import AsyncPostgrestClient
from starlette.requests import Request
from starlette.responses import Response

from console.charts import activity, connections
from console.context import context_of
from console.disk import measure
from console.parallel import parallel_reads
from console.rules.charts import SPANS, span_of
from console.rules.worker_figures import worker_figures
from console.viewer import go_to

AUDITS = 50
REFUSED = 20
RETRIED = ["failed", "expired", "corrupt"]
EVENTS_MAX_CHARS = 64


async def page(request: Request) -> Response:
    context = context_of(request)
    span = span_of(request.query_params.get("span"))
    event = request.query_params.get("event", "")[:EVENTS_MAX_CHARS]
    before = request.query_params.get("before", "")
    session, read = context.session, context.database.read

    def audits(client: AsyncPostgrestClient) -> Any:
        query: Any = client.table("audit_log").select("id,at,event,payload").eq("session_id", session)
        query = query.eq("event", event) if event else query
        query = query.lt("id", int(before)) if before.isdigit() and len(before) < 19 else query
        return query.order("id", desc=True).limit(AUDITS)

    def refused(client: AsyncPostgrestClient) -> Any:
        query: Any = client.table("wa_refused_stanzas").select("id,at,item,state,code,reason")
        return query.eq("session_id", session).order("id", desc=True).limit(REFUSED)

    async with parallel_reads() as reads:
        status = reads.start(context.database.ask(lambda store: store.status(session)))
        figures = reads.start(context.database.ask(lambda store: store.console.figures(session)))
        log = reads.start(read("audit", audits))
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
        "event": event,
        "more": len(log.value) == AUDITS,
        "reported": worker_figures(status.value["session"]),
    }
    return await context.show("health.html", values, situation=situation.value)


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

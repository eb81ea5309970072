"""Health: what works, what waits, what was lost and why, and what to do about it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from supabase import AsyncClient

from console.charts import activity, connections
from console.disk import measure
from console.here import here
from console.rules.charts import SPANS, span_of
from console.viewer import go_to

AUDITS = 50
REFUSED = 20
RETRIED = ["failed", "expired", "corrupt"]
EVENTS_MAX_CHARS = 64


async def page(request: Request) -> Response:
    place = here(request)
    span = span_of(request.query_params.get("span"))
    event = request.query_params.get("event", "")[:EVENTS_MAX_CHARS]
    before = request.query_params.get("before", "")
    status = await place.database.ask(lambda store: store.status(place.session))
    figures = await place.database.ask(lambda store: store.console.figures(place.session))
    groups = await place.database.ask(lambda store: store.console.groups(place.session))

    def audits(client: AsyncClient) -> Any:
        query: Any = client.table("audit_log").select("id,at,event,payload").eq("session_id", place.session)
        query = query.eq("event", event) if event else query
        query = query.lt("id", int(before)) if before.isdigit() and len(before) < 19 else query
        return query.order("id", desc=True).limit(AUDITS)

    log = await place.database.read("audit", audits)
    refused = await place.database.read(
        "refused",
        lambda c: (
            c.table("wa_refused_stanzas")
            .select("id,at,item,state,code,reason")
            .eq("session_id", place.session)
            .order("id", desc=True)
            .limit(REFUSED)
        ),
    )
    lost = await place.database.count("lost", lambda client: _lost(client, place.session))
    names = {group.id: group.name or group.wa_group_id for group in groups}
    values = {
        "status": status,
        "figures": figures,
        "lost": lost,
        "disk": await measure(None if place.town else place.console.folder),
        "chart": await activity(place.database, place.session, None, span, names),
        "connections": await connections(place.database, place.session, span),
        "span": span,
        "spans": SPANS,
        "log": log,
        "refused": refused,
        "event": event,
        "more": len(log) == AUDITS,
    }
    return await place.show("health.html", values)


async def retry(request: Request) -> Response:
    """Files that were given up are fetched again."""
    place = here(request)
    await place.act("media_retry")
    await place.database.ask(lambda store: store.console.media_requeue(place.session, RETRIED))
    return go_to(f"{place.base}/health", did="retry")


def _lost(client: Any, session: str) -> Any:
    """Messages that never became readable."""
    query = client.table("messages").select("id", count="exact", head=True).eq("session_id", session)
    return query.eq("kind", "undecryptable").not_.is_("lost_at", "null")

"""The health page: what works, what waits, what was lost and why, and what to do about it."""

from __future__ import annotations

from typing import Any

from postgrest import AsyncPostgrestClient
from starlette.requests import Request
from starlette.responses import Response

from console.audit_log import EVENTS, PAGE, log_filter, older
from console.charts import activity, connections
from console.context import context_of
from console.disk import measure
from console.parallel import parallel_reads
from console.rules.charts import SPANS, span_of
from console.rules.worker_figures import worker_figures
from console.viewer import go_to

LISTED = 20  # refused messages, failed files
RETRIED = ("failed", "expired", "corrupt")
RETRIED_ALONE = (*RETRIED, "too_large")  # after a higher WORKER_MAX_MEDIA_MB
FILE_COLUMNS = "message_id,at,status,code,error,attempts,messages(kind,file_name,groups(name,wa_group_id))"


async def page(request: Request) -> Response:
    context = context_of(request)
    span = span_of(request.query_params.get("span"))
    params = request.query_params
    wanted = log_filter(params)
    older_refused = older(params.get("refused_until"), params.get("refused_before"))
    older_files = older(params.get("files_until"), params.get("files_before"))
    session, read = context.session, context.database.read

    def refused(client: AsyncPostgrestClient) -> Any:
        query: Any = client.table("wa_refused_stanzas").select("id,at,item,state,code,reason").eq("session_id", session)
        query = older_refused.narrow(query) if older_refused else query
        return query.order("at", desc=True).order("id", desc=True).limit(LISTED)

    def failed(client: AsyncPostgrestClient) -> Any:
        query: Any = client.table("wa_media_abandoned").select(FILE_COLUMNS).eq("session_id", session)
        query = older_files.narrow(query, "message_id") if older_files else query
        return query.order("at", desc=True).order("message_id", desc=True).limit(LISTED)

    async with parallel_reads() as reads:
        status = reads.start(context.database.ask(lambda store: store.status(session)))
        figures = reads.start(context.database.ask(lambda store: store.console.figures(session)))
        log = reads.start(read("audit", lambda client: wanted.narrow(client, session)))
        listed = reads.start(read("refused", refused))
        files = reads.start(read("failed_files", failed))
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
        "more_refused": len(listed.value) == LISTED,
        "failed": files.value,
        "more_failed": len(files.value) == LISTED,
        "retried_alone": RETRIED_ALONE,
        "may_retry_all": any(status in RETRIED for status in figures.value.abandoned),
        "filter": wanted,
        "events": EVENTS,
        "more": len(log.value) == PAGE,
        "reported": worker_figures(status.value["session"]),
    }
    return await context.show("health.html", values, situation=situation.value)


async def retry(request: Request) -> Response:
    """Retry failed files: all, or that of one message."""
    context = context_of(request)
    message: int | None = request.path_params.get("message")
    await context.act("media_retry", **({} if message is None else {"message": message}))
    statuses = RETRIED if message is None else RETRIED_ALONE
    done = await context.database.ask(lambda store: store.console.media_requeue(context.session, statuses, message))
    return go_to(f"{context.base}/health", did="retry" if done.requeued else "retry_none")


def _lost(client: Any, session: str) -> Any:
    """Messages that never became readable."""
    query = client.table("messages").select("id", count="exact", head=True).eq("session_id", session)
    return query.eq("kind", "undecryptable").not_.is_("lost_at", "null")

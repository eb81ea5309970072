"""The archive page: when each group is complete, and what is missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from console.charts import covered
from console.context import context_of
from console.messages import group_names
from console.parallel import parallel_reads
from console.viewer import number

DAYS = (1, 30, 365)
SHOWN = 30
PAGE = 50  # groups; each is asked for its gaps
PAGES_MAX = 1000


async def page(request: Request) -> Response:
    """`days`: how much of the past; `page`: which groups, by name."""
    context = context_of(request)
    days = number(request.query_params.get("days"))
    days = days if days in DAYS else SHOWN
    wanted = min(PAGES_MAX, max(1, number(request.query_params.get("page")) or 1))
    shown, now = timedelta(days=days), datetime.now(UTC)
    ask = context.database.ask
    async with parallel_reads() as reads:
        offset = PAGE * (wanted - 1)
        some = reads.start(ask(lambda store: store.console.some_coverage(context.session, now - shown, PAGE, offset)))
        names = reads.start(group_names(context.database, context.session))
        situation = reads.start(context.situation())
    found, count = some.value
    ids = {group["wa_group_id"]: group["id"] for group in names.value}
    rows = [covered({**row, "id": ids.get(row["wa_group_id"])}, row, now, shown) for row in found]
    values = {"rows": rows, "choices": DAYS, "shown": days, "number": wanted, "pages": -(-count // PAGE)}
    return await context.show("coverage.html", values, situation=situation.value)

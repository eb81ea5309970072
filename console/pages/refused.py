"""Actions on refused messages and changes: retry one, export all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from console.context import PageContext, context_of
from console.viewer import go_to, read_own_form
from worker.store.listed import exported_page


async def take_back(request: Request) -> Response:
    """Retry one. If it fails, the database says why."""
    context = context_of(request)
    item = int(request.path_params["item"])
    await context.act("refused_retry", item=item)
    code = await context.database.ask(lambda store: store.retry_refused(context.session, item))
    return go_to(f"{context.base}/health", did="taken" if code is None else "not_taken")


async def export(request: Request) -> Response:
    """All listed items with their content, as JSON lines."""
    context = context_of(request)
    await read_own_form(request, context.viewer)
    await context.audit("refused_export")
    headers = {"content-disposition": 'attachment; filename="refused.jsonl"'}
    return StreamingResponse(_lines(context), media_type="application/jsonl", headers=headers)


async def _lines(context: PageContext) -> AsyncIterator[bytes]:
    after = 0
    while page := await _page(context, after):
        yield b"".join(json.dumps(document, default=str).encode() + b"\n" for document in page)
        after = int(page[-1]["id"])


async def _page(context: PageContext, after: int) -> list[dict[str, Any]]:
    return await context.database.ask(lambda store: exported_page(store, context.session, after))

"""Listed messages and changes: taking one back, and the export of all of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from console.here import Here, here
from console.viewer import go_to
from worker.store.listed import exported_page


async def take_back(request: Request) -> Response:
    """Try one again. The database says why if it cannot be."""
    place = here(request)
    item = int(request.path_params["item"])
    await place.act("refused_retry", item=item)
    code = await place.database.ask(lambda store: store.retry_refused(place.session, item))
    return go_to(f"{place.base}/health", did="taken" if code is None else "not_taken")


async def export(request: Request) -> Response:
    """Everything that is listed, with its content, as JSON lines."""
    place = here(request)
    await place.audit("refused_export")
    headers = {"content-disposition": 'attachment; filename="refused.jsonl"'}
    return StreamingResponse(_lines(place), media_type="application/jsonl", headers=headers)


async def _lines(place: Here) -> AsyncIterator[bytes]:
    after = 0
    while page := await _page(place, after):
        yield b"".join(json.dumps(document, default=str).encode() + b"\n" for document in page)
        after = int(page[-1]["id"])


async def _page(place: Here, after: int) -> list[dict[str, Any]]:
    return await place.database.ask(lambda store: exported_page(store, place.session, after))

"""Serves files from the private bucket to logged-in viewers.

Files are untrusted. Only pictures, films and sounds are shown inline, with the type detected from their bytes;
everything else is a download without a type. Headers forbid scripts, framing and type sniffing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import quote

import httpx
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from console.context import context_of
from console.rules.files import SHOWN_TYPES, Span, parse_range
from worker.errors import StoreUnavailable
from worker.text import clean_file_name

POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
COLUMNS = "id,file_name,kind,media(sha256,mime,bytes,storage_path)"


async def file(request: Request) -> Response:
    context = context_of(request)
    message = int(request.path_params["message"])
    rows = await context.database.read(
        "file",
        lambda c: c.table("messages").select(COLUMNS).eq("session_id", context.session).eq("id", message).limit(1),
    )
    media = rows[0]["media"] if rows else None
    if not media:
        raise HTTPException(404)
    total, etag = int(media["bytes"]), f'"{media["sha256"]}"'
    name = clean_file_name(rows[0]["file_name"]) or f"{rows[0]['kind']}-{message}"
    headers = _headers(media["mime"], name, media["storage_path"])
    headers |= {"etag": etag, "accept-ranges": "bytes"}
    if request.headers.get("if-none-match") == etag:
        return Response(None, 304, headers)
    try:
        is_same = request.headers.get("if-range", etag) == etag  # else the browser has a part of another file
        span = parse_range(request.headers.get("range") if is_same else None, total)
    except ValueError:
        return Response(None, 416, headers | {"content-range": f"bytes */{total}"})
    stack = AsyncExitStack()
    asked = f"bytes={span.first}-{span.last}" if span else None
    try:
        answer = await stack.enter_async_context(context.database.file(media["storage_path"], asked))
    except httpx.PoolTimeout:  # players hold all connections for files; Storage is not to blame
        raise HTTPException(503) from None
    if answer.status_code not in (200, 206):
        await stack.aclose()
        if answer.status_code in (400, 404):
            raise HTTPException(404)
        raise StoreUnavailable(f"file: HTTP {answer.status_code}")
    whole = Span(0, total - 1)
    wanted = span or whole
    if span:
        headers["content-range"] = f"bytes {span.first}-{span.last}/{total}"
    headers["content-length"] = str(wanted.size)
    skip = wanted.first if answer.status_code == 200 else 0
    return _Streamed(stack, _cut(answer, skip, wanted.size), 206 if span else 200, headers)


class _Streamed(StreamingResponse):
    """A response that closes what it reads from, also if its reader has left before the first byte."""

    def __init__(self, stack: AsyncExitStack, content: AsyncIterator[bytes], status: int, headers: dict[str, str]):
        super().__init__(content, status, headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _cut(answer: httpx.Response, skip: int, size: int) -> AsyncIterator[bytes]:
    """The wanted bytes of an answer that starts `skip` bytes before them."""
    async for chunk in answer.aiter_bytes():
        part = chunk[skip : skip + size]
        skip = max(0, skip - len(chunk))
        size -= len(part)
        if part:
            yield part
        if size <= 0:
            return


def _headers(mime: str, name: str, path: str) -> dict[str, str]:
    shown = mime in SHOWN_TYPES
    extension = path.rpartition(".")[2]
    full = name if "." in name else f"{name}.{extension}"
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", full)[-100:]
    return {
        "content-type": mime if shown else "application/octet-stream",
        "content-disposition": f'{"inline" if shown else "attachment"}; filename="{plain}"; '
        f"filename*=UTF-8''{quote(full, safe='')}",
        "content-security-policy": POLICY,
        "cache-control": "private, max-age=600",
    }

"""HTTP endpoints for operators: /healthz, /readyz (with reasons), /metrics.

Starts before Supabase answers. Never shows message content, secrets or QR codes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Iterator
from typing import cast

import anyio
import uvicorn
from anyio.abc import TaskStatus
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.errors import SettingsError
from worker.web.health import Health
from worker.web.readings import render

BACKLOG = 64
CONNECTIONS_MAX = 64  # a health check and a few scrapers need three; leave descriptors to messages and files
PROBE_SECONDS, PROBE_BYTES = 1.0, 8192  # for finding out who uses our port
GRACE_SECONDS = 1  # for finishing an answer being written


def make_app(health: Health) -> Starlette:
    """The routes."""

    async def healthz(_: Request) -> JSONResponse:
        return JSONResponse({"ok": True})

    async def readyz(_: Request) -> JSONResponse:
        body = health.describe()
        return JSONResponse(body, status_code=200 if body["ok"] else 503)

    async def metrics(_: Request) -> Response:
        await health.refresh()
        return Response(render(health), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)],
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        SettingsError: the port is taken or not allowed, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError, TypeError, UnicodeError) as refused:  # the last two: not a host name at all
        listener.close()
        number = getattr(refused, "errno", None)
        if number == errno.EADDRINUSE:
            holder = " by another wa-worker; stop it" if serves_us(host, port) else "; stop what uses it"
            raise SettingsError(f"WORKER_HTTP_PORT: port {port} is taken{holder}, or set another one") from None
        if number == errno.EACCES:
            raise SettingsError(f"WORKER_HTTP_PORT: port {port} is not allowed; set one above 1023") from None
        raise SettingsError(f"WORKER_HTTP_HOST: cannot listen on {host}; set an address of this machine") from None
    listener.setblocking(False)
    return listener


def serves_us(host: str, port: int) -> bool:
    """Whether a wa-worker answers on that port within a second."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here
    answer, deadline = b"", time.monotonic() + PROBE_SECONDS
    try:
        with socket.create_connection((anywhere.get(host, host), port), timeout=PROBE_SECONDS) as other:
            other.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            while len(answer) < PROBE_BYTES and (left := deadline - time.monotonic()) > 0:
                other.settimeout(left)
                chunk = other.recv(PROBE_BYTES)
                if not chunk:
                    break
                answer += chunk
    except OSError:
        return False
    return b'"reasons":' in answer and b'"supabase":' in answer


class _Bounded(H11Protocol):
    """An HTTP connection. Above `CONNECTIONS_MAX`, the oldest is closed.

    The port may be public, and uvicorn has no time-out for the first request.
    """

    since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.since = time.monotonic()
        super().connection_made(transport)
        others = cast("set[_Bounded]", self.connections)
        if len(others) > CONNECTIONS_MAX:
            oldest = min(others, key=lambda each: each.since)
            others.discard(oldest)
            oldest.transport.abort()


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the host handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    health: Health, listener: socket.socket, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve on `listener` until cancelled."""
    config = uvicorn.Config(
        make_app(health),
        http=_Bounded,
        ws="none",
        backlog=BACKLOG,  # also how many connections asyncio accepts per loop turn
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(server.serve, [listener])
        task_group.start_soon(health.lag.watch)
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            server.should_exit = True
            task_group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(GRACE_SECONDS):
                await server.shutdown(sockets=[listener])

"""Assembles the console: its routes and their shared parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from console.access.guard import Guard
from console.access.logins import Logins
from console.context import Console
from console.database import Locate, open_database
from console.pages import coverage, events, feed, groups, health, link, login, media, refused, search, sessions, town
from console.pages.faults import HANDLERS
from console.town import Towns
from console.viewer import ConsoleOptions
from worker.settings import Settings

STATIC = Path(__file__).parent / "static"


class _RowId(IntegerConvertor):
    """A row's id; the database can have no longer ones."""

    regex = "[0-9]{1,18}"


register_url_convertor("id", _RowId())

ROUTES = [
    Route("/", sessions.start),
    Route("/sessions", sessions.listed),
    Route("/preferences", sessions.prefer, methods=["POST"]),
    Route("/login", login.form, methods=["GET"]),
    Route("/login", login.with_token, methods=["POST"]),
    Route("/login/link", login.with_link, methods=["GET"]),
    Route("/login/link", login.ask_for_link, methods=["POST"]),
    Route("/logout", login.log_out, methods=["POST"]),
    Route("/s/{session}/link", link.page, methods=["GET"]),
    Route("/s/{session}/link/refresh", link.refresh, methods=["POST"]),
    Route("/s/{session}/link/code", link.ask_for_code, methods=["POST"]),
    Route("/s/{session}/link/passkey", link.answer_passkey, methods=["POST"]),
    Route("/s/{session}/link/compare", link.compare, methods=["POST"]),
    Route("/s/{session}/link/disconnect", link.confirm, methods=["GET"]),
    Route("/s/{session}/link/disconnect", link.disconnect, methods=["POST"]),
    Route("/s/{session}/town", town.progress, methods=["GET"]),
    Route("/s/{session}/town", town.start, methods=["POST"]),
    Route("/s/{session}/town/stop", town.stop, methods=["POST"]),
    Route("/s/{session}/phone", town.phone, methods=["GET"]),
    Route("/s/{session}/phone/send", town.send, methods=["POST"]),
    Route("/s/{session}/phone/change", town.change, methods=["POST"]),
    Route("/s/{session}/phone/link", town.link, methods=["POST"]),
    Route("/s/{session}/phone/worker", town.worker, methods=["POST"]),
    Route("/s/{session}/groups", groups.listed, methods=["GET"]),
    Route("/s/{session}/groups/fetch", groups.fetch, methods=["POST"]),
    Route("/s/{session}/groups/{group:id}", groups.one, methods=["GET"]),
    Route("/s/{session}/groups/{group:id}/switch", groups.switch, methods=["POST"]),
    Route("/s/{session}/groups/{group:id}/export", groups.export, methods=["POST"]),
    Route("/s/{session}/groups/{group:id}/members", groups.members, methods=["GET"]),
    Route("/s/{session}/groups/{group:id}/gallery", groups.gallery, methods=["GET"]),
    Route("/s/{session}/coverage", coverage.page, methods=["GET"]),
    Route("/s/{session}/feed", feed.newest, methods=["GET"]),
    Route("/s/{session}/messages/{message:id}", feed.message, methods=["GET"]),
    Route("/s/{session}/messages/{message:id}/file", media.file, methods=["GET"]),
    Route("/s/{session}/search", search.page, methods=["GET"]),
    Route("/s/{session}/health", health.page, methods=["GET"]),
    Route("/s/{session}/health/retry", health.retry, methods=["POST"]),
    Route("/s/{session}/health/retry/{message:id}", health.retry, methods=["POST"]),
    Route("/s/{session}/health/refused", refused.export, methods=["POST"]),
    Route("/s/{session}/health/refused/{item:id}", refused.take_back, methods=["POST"]),
    Route("/s/{session}/events", events.stream, methods=["GET"]),
    Mount("/static", StaticFiles(directory=STATIC)),
]


@asynccontextmanager
async def open_console(
    settings: Settings, locate: Locate, say: Callable[[str], None], address: str, *, beside: bool = False
) -> AsyncIterator[Guard]:
    """The console as an ASGI application.

    `address`: where its user opens it, without a path. `beside`: it was started by a worker, which starts the database.
    """
    origin = settings.worker_console_origin
    token = settings.worker_console_token
    secure = bool(origin and origin.startswith("https://"))
    port = urlsplit(address).port
    async with open_database(locate, beside=beside) as database, anyio.create_task_group() as tasks:
        app = Starlette(routes=ROUTES, exception_handlers=HANDLERS)
        app.router.redirect_slashes = False  # it would redirect to http, also behind TLS
        towns = Towns(tasks)
        app.state.console = Console(
            database=database,
            logins=Logins(token.get_secret_value() if token else None),
            options=ConsoleOptions(
                read_only=settings.worker_console_read_only,
                secure=secure,
                cookie=f"{'__Host-' if secure else ''}wa_console{f'_{port}' if port else ''}",
            ),
            session=settings.worker_session,
            tasks=tasks,
            say=say,
            towns=towns,
            address=address,
            folder=None if settings.supabase_url else settings.worker_data_dir.resolve(),
        )
        try:
            yield Guard(app, app.state.console, origin)
        finally:
            with anyio.CancelScope(shield=True):
                await towns.close()
            tasks.cancel_scope.cancel()

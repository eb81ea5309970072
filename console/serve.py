"""Runs the console: the port, the one-time link for the terminal, and the server."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import uvicorn
from loguru import logger
from pydantic import SecretStr

from console.access.guard import Guard
from console.app import open_console
from console.connections import CONNECTIONS_MAX, Connection
from worker.commands.runtime import find
from worker.errors import SettingsError
from worker.settings import GENERATED, Settings, is_loopback

BACKLOG = 64
GRACE_SECONDS = 1
TOKEN_FILE = "console.token"  # noqa: S105 - a file's name


def bind(settings: Settings, *, any_port: bool = False) -> socket.socket:
    """A listening socket. `any_port`: use another port if this one is taken.

    Raises:
        SettingsError: the port is taken or not allowed, or the address is not this machine's.
    """
    host, port = settings.worker_console_host, settings.worker_console_port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as refused:
        listener.close()
        number = getattr(refused, "errno", None)
        if number == errno.EADDRINUSE and any_port and port:
            return bind(settings.model_copy(update={"worker_console_port": 0}))
        if number in (errno.EADDRINUSE, errno.EACCES):
            why = "is taken" if number == errno.EADDRINUSE else "is not allowed"
            raise SettingsError(f"WORKER_CONSOLE_PORT: port {port} {why}; set another one") from None
        raise SettingsError(f"WORKER_CONSOLE_HOST: cannot listen on {host}; set an address of this machine") from None
    listener.setblocking(False)
    return listener


def address_of(settings: Settings, listener: socket.socket) -> str:
    """Where a person opens the console, without a path."""
    if settings.worker_console_origin:
        return settings.worker_console_origin
    port = listener.getsockname()[1]
    host = settings.worker_console_host
    if not is_loopback(host):
        host = "127.0.0.1"  # works on this machine, and on a container's host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def with_token(settings: Settings, say: Callable[[str], None]) -> Settings:
    """Replace `WORKER_CONSOLE_TOKEN=generate` by the generated token, which is printed once."""
    token = settings.worker_console_token
    if token is None or token.get_secret_value() != GENERATED:
        return settings
    path = settings.worker_data_dir.resolve() / TOKEN_FILE
    if not path.exists():
        made = secrets.token_urlsafe(24)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(made)
        say(f"The console's token, named this once: {made} (kept in {path})")
    return settings.model_copy(update={"worker_console_token": SecretStr(path.read_text().strip())})


async def run(
    settings: Settings, listener: socket.socket, say: Callable[[str], None], code: str | None, *, beside: bool
) -> None:
    """Serve until cancelled. `code`: of a link that was already printed; without it, print one.

    `beside`: a worker started us, and starts the database.
    """
    address = address_of(settings, listener)
    async with open_console(settings, partial(find, settings), say, address, beside=beside) as app:
        if code is None:
            say(f"Console: {app.console.link()} (this link works once)")
        else:
            app.console.logins.make_link(code)
        logger.info("the console listens on {}", address)
        await serve(app, listener)


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the command handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Guard, listener: socket.socket) -> None:
    """Serve `app` until cancelled."""
    config = uvicorn.Config(
        app,
        ws="none",
        http=Connection,
        backlog=BACKLOG,
        limit_concurrency=CONNECTIONS_MAX + 1,  # at so many, uvicorn refuses; those that idle have made room before
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # anybody could forge them
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        try:
            await anyio.sleep_forever()
        finally:
            server.should_exit = True
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(GRACE_SECONDS):
                await server.shutdown(sockets=[listener])

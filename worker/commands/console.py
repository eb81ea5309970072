"""`wa-worker console`: the web console in its own process, also for `up`."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
import typer
from loguru import logger

from worker.commands.runtime import run
from worker.commands.show import err
from worker.errors import unwrapped
from worker.log import set_up_log
from worker.settings import Settings

RESTART_SECONDS = 5.0
STOP_SECONDS = 5.0  # a demo town ends with the console, and removes its folder


def console(
    open_: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    beside: Annotated[int | None, typer.Option("--beside", hidden=True)] = None,
) -> None:
    """Serve the web console: link, groups, messages, health. Ctrl-C ends it.

    Needs Supabase and no worker: without SUPABASE_URL it shows what an earlier worker stored in WORKER_DATA_DIR. On
    this machine only, unless WORKER_CONSOLE_HOST and WORKER_CONSOLE_TOKEN are set.
    Exit codes: 0 ended by Ctrl-C · 2 a setting is wrong.
    """

    async def work(given: Settings) -> None:
        from console import serve

        set_up_log(given.log_level)
        settings = serve.with_token(given, say)
        listener = serve.bind(settings) if beside is None else socket.socket(fileno=beside)
        async with _stored_data(given, beside), anyio.create_task_group() as tasks:
            tasks.start_soon(_until_signalled, tasks.cancel_scope)
            code = None
            if beside is not None:
                code = sys.stdin.readline().strip() or None
                tasks.start_soon(_until_stdin_ends, tasks.cancel_scope)
            elif open_:
                code = secrets.token_urlsafe(32)
                webbrowser.open(f"{serve.address_of(settings, listener)}/login/link?code={code}")
            await serve.run(settings, listener, say, code, beside=beside is not None)

    run(work, interrupted=0)


@asynccontextmanager
async def _stored_data(settings: Settings, beside: int | None) -> AsyncIterator[None]:
    """Serve the embedded Supabase of this folder, if it has one; workers share it."""
    folder = settings.worker_data_dir.resolve()
    if beside is not None or not settings.embedded or not (folder / "embedded").is_dir():
        yield
        return
    from worker.installation import install_packages
    from worker.store.embedded import Embedded, embedded_supabase

    install_packages(settings.worker_node, say)
    async with embedded_supabase(Embedded(data_dir=folder, node=settings.worker_node, report=say)):
        yield


def say(line: str) -> None:
    """Print a line at the terminal. Unlike the log, this may contain login links."""
    err().print(line, markup=False, soft_wrap=True)


@asynccontextmanager
async def console_beside(settings: Settings) -> AsyncIterator[str]:
    """Run a console process for the length of the block. Yields its one-time link."""
    from console import serve

    listener = serve.bind(settings, any_port=True)
    code = secrets.token_urlsafe(32)
    with listener, unwrapped():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep, listener, code)
            yield f"{serve.address_of(settings, listener)}/login/link?code={code}"
            tasks.cancel_scope.cancel()


async def _keep(listener: socket.socket, code: str) -> None:
    """Keep a console process running, restarting it when it ends."""
    first: str = code
    while True:
        number = listener.fileno()
        command = [sys.executable, "-m", "worker", "console", "--beside", str(number)]
        process = await anyio.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=None,
            stderr=None,
            pass_fds=(number,),
            start_new_session=True,  # the worker handles Ctrl-C
        )
        try:
            assert process.stdin is not None
            await process.stdin.send(f"{first}\n".encode())
            await process.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_SECONDS):
                if process.returncode is None:
                    process.terminate()
                    await process.wait()
            if process.returncode is None:
                process.kill()
        logger.warning("the console ended; starting it again")
        first = ""
        await anyio.sleep(RESTART_SECONDS)


async def _until_stdin_ends(scope: anyio.CancelScope) -> None:
    """Stop when stdin ends: the worker beside this console is gone."""
    while True:
        await anyio.wait_readable(sys.stdin)
        if not os.read(sys.stdin.fileno(), 1024):
            scope.cancel()
            return


async def _until_signalled(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return

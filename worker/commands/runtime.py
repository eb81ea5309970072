"""Connects a command to Supabase, and turns errors into one line and an exit code.

Owns what all commands share: settings, the choice of Supabase, and exit codes. A command's own function returns its
exit code or None, and raises what the store raises.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import httpx
import typer

from worker.errors import ExitCode, SettingsError, StoreRefused, StoreUnavailable, UnexpectedAnswer, WorkerError, cause
from worker.log import hide, redact, set_up_log
from worker.machine import silence_stdout, trouble
from worker.settings import Settings, load_settings
from worker.store import Store, connect_store
from worker.store.embedded import read_endpoint

ANSWER_SECONDS = 5.0  # on this machine


class NotDone(WorkerError):
    """The command failed, but nothing is broken; the text says why."""


class WrongArgument(WorkerError):
    """An argument is invalid, or matches nothing or several things."""

    exit_code = ExitCode.SETTINGS


Work = Callable[[Settings, Store], Awaitable[int | None]]


def confirmed(question: str) -> bool:
    """Whether a person at the terminal says yes; False without a terminal."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


def perform(work: Work, *, interrupted: int = ExitCode.INTERRUPTED) -> None:
    """Run a command to its end. `interrupted`: the exit code for Ctrl-C."""

    async def connected(settings: Settings) -> int | None:
        async with open_store(settings) as store:
            return await work(settings, store)

    run(connected, interrupted=interrupted)


def run(work: Callable[[Settings], Awaitable[int | None]], *, interrupted: int = ExitCode.INTERRUPTED) -> None:
    """As `perform`, for a command that connects by itself."""
    try:
        settings = load_settings()
        set_up_log("debug" if settings.log_level in ("trace", "debug") else "error")
        code = anyio.run(work, settings) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None
    except BrokenPipeError:  # `wa-worker tail | head`
        silence_stdout()
        raise typer.Exit(0) from None
    except WorkerError as error:
        end(explain(error), exit_code(error))
    except typer.Exit:
        raise
    except ExceptionGroup as group:
        ours = group.subgroup(WorkerError)
        if ours is None:
            raise
        first = cause(ours)
        assert isinstance(first, WorkerError)
        end(explain(first), exit_code(first))
    except Exception as fault:
        if isinstance(fault, OSError) and (words := trouble(fault)):
            silence_stdout()
            end(f"the output cannot be written: {words}", ExitCode.FAULT)
        if os.environ.get("LOG_LEVEL", "").lower() in ("trace", "debug"):
            raise
        end(f"a fault of wa-worker itself ({type(fault).__name__}); LOG_LEVEL=debug shows where. Please report it.", 1)
    if code:
        raise typer.Exit(code)


def end(text: str, code: int) -> None:
    """Print the reason on stderr, and exit.

    Raises:
        typer.Exit: always.
    """
    for line in redact(text).splitlines():
        print(f"wa-worker: {line}", file=sys.stderr)
    raise typer.Exit(code) from None


def exit_code(error: WorkerError) -> ExitCode:
    """The exit code for this error. An answer that proves a setting wrong counts as a settings error."""
    return ExitCode.SETTINGS if isinstance(error, UnexpectedAnswer) and error.remedy else error.exit_code


def explain(error: WorkerError) -> str:
    """The error as one line for the operator."""
    match error:
        case UnexpectedAnswer() if error.remedy:
            return error.remedy
        case StoreUnavailable():
            return f"Supabase does not answer ({error}); `wa-worker doctor` checks why"
        case StoreRefused(code=code):
            return f"Supabase refused ({code}); `wa-worker doctor` checks why"
        case _:
            return str(error)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """The configured Supabase, or the embedded one of a worker that runs on the data folder.

    Raises:
        SettingsError: none is configured, and no worker is running.
    """
    url, key = await find(settings)
    hide(key)
    async with connect_store(url, key) as store:
        yield store


async def find(settings: Settings) -> tuple[str, str]:
    """URL and key of the Supabase to use.

    Raises:
        SettingsError: as in `open_store`.
    """
    if settings.supabase_url and settings.supabase_service_key:
        return settings.supabase_url, settings.supabase_service_key.get_secret_value()
    folder = settings.worker_data_dir.resolve()
    endpoint = read_endpoint(folder)
    if endpoint is None or not await _serves(endpoint.url):
        raise SettingsError(
            f"SUPABASE_URL is not set and no worker runs on {folder}: start `wa-worker up` first, set WORKER_DATA_DIR "
            "to its folder, or set SUPABASE_URL and SUPABASE_SERVICE_KEY"
        )
    return endpoint.url, endpoint.key


async def _serves(url: str) -> bool:
    """Check that the server answers: an endpoint file outlives a killed one."""
    try:
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as http:
            return (await http.get(f"{url}/storage/v1/status")).is_success
    except httpx.HTTPError:
        return False

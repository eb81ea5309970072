"""Connects a command to Supabase, and turns its error into one line and an exit code.

Owns what all commands share: the settings, which Supabase they mean, and how they end. A command's own function returns
its exit code or None, and raises what the store raises.
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
    """What was asked for failed, and nothing is broken; the text says why."""


class WrongArgument(WorkerError):
    """An argument names nothing, or more than one thing."""

    exit_code = ExitCode.SETTINGS


Work = Callable[[Settings, Store], Awaitable[int | None]]


def perform(work: Work, *, interrupted: int = ExitCode.INTERRUPTED) -> None:
    """Run a command to its end. `interrupted` is the exit code of Ctrl-C."""

    async def connected(settings: Settings) -> int | None:
        async with open_store(settings) as store:
            return await work(settings, store)

    run(connected, interrupted=interrupted)


def run(work: Callable[[Settings], Awaitable[int | None]], *, interrupted: int = ExitCode.INTERRUPTED) -> None:
    """The same for a command that connects by itself."""
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
    """Say why on stderr, and end.

    Raises:
        typer.Exit: always.
    """
    for line in redact(text).splitlines():
        print(f"wa-worker: {line}", file=sys.stderr)
    raise typer.Exit(code) from None


def exit_code(error: WorkerError) -> ExitCode:
    """The exit code of a command that ended with this: a setting's, too, when an answer says that one is wrong."""
    return ExitCode.SETTINGS if isinstance(error, UnexpectedAnswer) and error.remedy else error.exit_code


def explain(error: WorkerError) -> str:
    """The line for the operator."""
    match error:
        case UnexpectedAnswer() if error.remedy:
            return error.remedy
        case StoreUnavailable():
            return f"Supabase does not answer ({error}); `wa-worker doctor` looks into it"
        case StoreRefused(code=code):
            return f"Supabase refused ({code}); `wa-worker doctor` looks into it"
        case _:
            return str(error)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """The Supabase that these settings mean: the one named, or the embedded one that a worker of this folder runs.

    Raises:
        SettingsError: none is named, and no worker runs here.
    """
    url, key = await find(settings)
    hide(key)
    async with connect_store(url, key) as store:
        yield store


async def find(settings: Settings) -> tuple[str, str]:
    """URL and key of the Supabase that these settings mean.

    Raises:
        SettingsError: as `open_store`.
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
    """An endpoint file outlives a server that was killed."""
    try:
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as http:
            return (await http.get(f"{url}/storage/v1/status")).is_success
    except httpx.HTTPError:
        return False

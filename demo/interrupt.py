"""Ctrl-C and SIGTERM for programs that start processes: they exit by leaving their scopes, in order."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import anyio

from demo.screen import Screen, unwrap_single_error
from worker.errors import ExitCode


async def run_until_interrupted(screen: Screen, work: Callable[[], Awaitable[int]]) -> int:
    """The exit code of `work`; 130 if a signal ended it, after its scopes have stopped every process."""
    outcome: int = ExitCode.INTERRUPTED
    async with unwrap_single_error(), anyio.create_task_group() as tasks:

        async def listen() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    screen.say("interrupted; stopping everything")
                    tasks.cancel_scope.cancel()

        tasks.start_soon(listen)
        outcome = await work()
        tasks.cancel_scope.cancel()
    return outcome

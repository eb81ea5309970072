"""`wa-worker …` as a person types it, inside the test's process."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from loguru import logger
from typer.testing import CliRunner

from worker.cli import app
from worker.store import Store

KEPT_SECONDS = 60.0


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Commands:
    """Runs commands with the settings of one Supabase and one session."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = dict(env)

    async def __call__(self, *args: str, **env: str) -> Ran:
        """Run `wa-worker ARGS` in a thread: a command has its own event loop."""

        def invoke() -> Ran:
            chosen: dict[str, str | None] = {**self.env, "COLUMNS": "200", "NO_COLOR": "1", **env}
            result = CliRunner().invoke(app, list(args), env=chosen)
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
            return Ran(result.exit_code, result.stdout, result.stderr)

        try:
            return await anyio.to_thread.run_sync(invoke)
        finally:
            logger.remove()  # it wrote to the runner's own stderr
            logger.add(sys.stderr, level="WARNING")


@asynccontextmanager
async def served(store: Store, session: str, owner: str = "host:1:abc") -> AsyncIterator[int]:
    """Hold the session's lease, as if a worker ran; returns its fence."""
    lease = await store.lease_acquire(session, owner, KEPT_SECONDS)
    yield lease.fence
    await store.lease_release(session, owner, lease.fence)

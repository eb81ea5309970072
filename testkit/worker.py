"""One worker process as an operator runs it: environment in, log file and HTTP out. Does not look inside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from testkit.phone import VirtualPhone
from testkit.processes import PYTHON, Child, descendants, free_port
from testkit.waiting import until

READY_SECONDS = 45.0  # a first start applies the migrations to a new embedded Supabase
POLL_MS = 250  # how often flags and groups are polled in tests; 2,000 by default

# What a process needs to run at all; settings of the test machine must not leak in.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """A clean environment with these settings."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", "WORKER_HTTP_HOST": "127.0.0.1", **settings}


class Worker:
    """One running worker, in its own working directory."""

    def __init__(self, child: Child, port: int, data_dir: Path) -> None:
        self.child = child
        self.port = port
        self.data_dir = data_dir

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        phone: VirtualPhone | None = None,
        settings: Mapping[str, str] | None = None,
        name: str = "worker",
        command: str = "run",
        tied: bool = False,
        arguments: Sequence[str] = (),
        module: str = "worker",
    ) -> Self:
        """Start `python -m worker run` in `folder`, which becomes its working directory and holds its data and log.

        `tied`: it ends when we do, however we end. `module`: what starts the worker, in its place.
        """
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        chosen = {
            "WORKER_HTTP_PORT": str(port),
            "WORKER_DATA_DIR": str(folder / "data"),
            "WORKER_POLL_MS": str(POLL_MS),
            **(phone.worker_env if phone else {}),
            **(settings or {}),
        }
        child = Child.start(
            name,
            [PYTHON, "-m", "testkit.tied" if tied else module, command, *arguments],
            log=folder / f"{name}.log",
            cwd=folder,
            env=environment(chosen),
            hold_stdin=tied,
        )
        return cls(child, port, Path(chosen["WORKER_DATA_DIR"]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.child.stop()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def get(self, path: str) -> httpx.Response | None:
        """The answer, or None while nobody listens."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            try:
                return await http.get(self.url(path))
            except httpx.TransportError:
                return None

    async def healthz(self) -> Any:
        answer = await self.get("/healthz")
        return None if answer is None or answer.is_error else answer.json()

    async def ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it answers its health check.

        Raises:
            AssertionError: it ended, or did not answer in time; the text has its last log lines.
        """

        async def probe() -> Any:
            if not self.child.running:
                raise AssertionError(f"the worker ended with code {self.child.process.returncode}\n{self.child.tail()}")
            return await self.healthz()

        await until("the worker's /healthz", probe, seconds=seconds, tell=self.child.tail)

    def processes(self) -> set[int]:
        """The ids of all its child processes."""
        return descendants(self.child.pid)

    def log_lines(self) -> list[dict[str, Any]]:
        """The lines of its log that are JSON objects."""
        found = []
        for line in self.child.text().splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
        return found

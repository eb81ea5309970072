"""The embedded Supabase for tests and the demo: started alone, or found where a worker runs it.

`python -m testkit.embedded FOLDER [--migrations FOLDER] [--users]` serves it until SIGTERM or the end of stdin.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import httpx

from testkit.processes import NODE, PYTHON, ROOT, Child
from testkit.waiting import until
from worker.store.embedded import LITE_CLI, MIGRATIONS, Embedded, Endpoint, embedded_supabase, read_endpoint

READY_SECONDS = 90.0  # 6 s on an idle machine: an empty database and its migrations
TEMPLATES = ROOT / ".make" / "embedded"


async def seed(data_dir: Path) -> Path:
    """Copy a migrated, empty database into a new data folder, so that its first start takes one second, not five.

    It comes from a real first start, made once for each set of migrations and version of the server.
    """
    sources = [*sorted(MIGRATIONS.glob("*.sql")), LITE_CLI.parents[2] / "package.json"]
    template = TEMPLATES / hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    with (TEMPLATES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not template.exists():
            with tempfile.TemporaryDirectory(dir=TEMPLATES) as folder:
                async with embedded_supabase(Embedded(data_dir=Path(folder), node=NODE)):
                    pass
                (Path(folder) / "embedded").rename(template)
    shutil.copytree(template, data_dir / "embedded")
    return data_dir


class EmbeddedSupabase:
    """One server in its own process, so that it outlives workers and can be killed like any other part."""

    def __init__(self, child: Child, folder: Path, endpoint: Endpoint) -> None:
        self.child = child
        self.folder = folder
        self.endpoint = endpoint
        self.url = endpoint.url
        self.service_key = endpoint.key
        self.publishable_key = endpoint.publishable_key
        self.server_pid = endpoint.pid

    @classmethod
    async def start(cls, folder: Path, migrations: Path | None = None, *, users: bool = False) -> Self:
        """Serve `folder`, created if needed. A killed server comes back at the same address."""
        if migrations is None and not (folder / "embedded").exists():
            await seed(folder)
        child = Child.start(
            "supabase",
            [PYTHON, "-m", "testkit.embedded", folder, "--migrations", migrations or MIGRATIONS, *["--users"] * users],
            log=folder / "supabase.log",
            hold_stdin=True,
        )
        try:
            return cls(child, folder, await endpoint(folder, tell=child.tail))
        except BaseException:
            child.kill()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.child.stop()

    @property
    def worker_env(self) -> dict[str, str]:
        return {"SUPABASE_URL": self.url, "SUPABASE_SERVICE_KEY": self.service_key}


async def endpoint(data_dir: Path, seconds: float = READY_SECONDS, tell: Callable[[], str] | None = None) -> Endpoint:
    """The endpoint of this data folder's embedded Supabase, once it answers."""

    async def probe() -> Endpoint | None:
        found = read_endpoint(data_dir)
        if found is None:
            return None
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            try:
                answer = await http.get(f"{found.url}/storage/v1/status")
            except httpx.TransportError:
                return None
        return None if answer.is_error else found

    return await until(f"an embedded Supabase on {data_dir}", probe, seconds=seconds, tell=tell)


async def _serve(place: Embedded) -> None:
    async with anyio.create_task_group() as tasks:

        async def until_stdin_ends() -> None:
            await anyio.wait_readable(sys.stdin)  # nobody ever writes to it
            tasks.cancel_scope.cancel()

        async def until_told() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()

        tasks.start_soon(until_stdin_ends)
        tasks.start_soon(until_told)
        await tasks.start(place.run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--migrations", type=Path, default=MIGRATIONS)
    parser.add_argument("--users", action="store_true")
    args = parser.parse_args()
    anyio.run(
        _serve,
        Embedded(data_dir=args.folder, node=NODE, report=print, migrations=args.migrations, users=args.users),
    )

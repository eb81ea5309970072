"""The processes of a chaos run: Supabase, the proxy before it, the virtual phone, one or two workers and sidecars.

Starts, kills and ends them; a worker that was killed is started again, as an operator's supervisor would do. Decides
nothing about when.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.processes import NODE, PYTHON, ROOT, Child, alive, descendants, free_port, resident_bytes
from testkit.waiting import until
from testkit.worker import Worker, environment
from tests.chaos.ledger import FORBIDDEN
from tests.chaos.proxy import FaultProxy
from tests.chaos.sabotage import migrations_for
from worker.store.embedded import read_endpoint

HOOK = Path(__file__).parent / "hooks" / "sidecar.mjs"
LEASE_SECONDS = 4  # 30 by default; a third of it is the renewal, two thirds the patience with the database
RESPAWN_SECONDS = 0.3
SAMPLE_SECONDS = 0.5
SETTINGS = {
    "WORKER_POLL_MS": "250",
    "WORKER_BACKOFF_BASE_MS": "100",
    "WORKER_BACKOFF_MAX_MS": "1000",
    "WORKER_LEASE_S": str(LEASE_SECONDS),
    "WORKER_BOOT_WAIT_S": "60",
    "WA_VERSION": "2.3000.1023223821",
    "PYTHONPATH": str(ROOT),
}
WIDE = {"WORKER_CATCH_UP_S": "86400"}


@dataclass(kw_only=True)
class Post:
    """A worker that is kept running: whoever dies here is started again."""

    name: str
    worker: Worker
    settings: Mapping[str, str]
    kept: bool = True
    starts: int = 1
    ends: list[int] = field(default_factory=list)  # exit codes

    @property
    def pid(self) -> int:
        return self.worker.child.pid


class Rig:
    """Everything that runs. Made by `open_rig`."""

    def __init__(
        self,
        folder: Path,
        supabase: EmbeddedSupabase,
        proxy: FaultProxy,
        phone: VirtualPhone,
        database: Database,
        tasks: TaskGroup,
        sabotage: str,
    ) -> None:
        self.folder = folder
        self.supabase = supabase
        self.proxy = proxy
        self.phone = phone
        self.database = database
        self.posts: list[Post] = []
        self.starts: Counter[str] = Counter()
        self.peak_bytes: Counter[str] = Counter()
        self._tasks = tasks
        self._sabotage = sabotage
        self._number = 0
        self._sidecars: set[int] = set()
        self._servers: set[int] = set()

    # Workers

    @property
    def primary(self) -> Post:
        return self.posts[0]

    def start_worker(self, settings: Mapping[str, str]) -> Post:
        """Another worker on the same session, kept running from now on."""
        self._number += 1
        name = f"worker-{self._number}"
        post = Post(name=name, worker=self._start(name, settings), settings=settings)
        self.posts.append(post)
        self._tasks.start_soon(self._keep, post)
        return post

    async def end_worker(self, post: Post) -> int:
        """SIGTERM, and no restart; its exit code."""
        post.kept = False
        self.posts.remove(post)
        return await post.worker.child.stop()

    def kill_worker(self, post: Post, *, kept: bool = True) -> None:
        post.kept = kept
        if not kept:
            self.posts.remove(post)
        kill(post.pid)

    def _start(self, name: str, settings: Mapping[str, str]) -> Worker:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        port = free_port()
        chosen = {
            **SETTINGS,
            **self.phone.worker_env,
            "SUPABASE_URL": self.proxy.url,
            "SUPABASE_SERVICE_KEY": self.supabase.service_key,
            "WORKER_NODE": str(self._node()),
            "WORKER_HTTP_PORT": str(port),
            "WORKER_DATA_DIR": str(folder / "data"),
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_SABOTAGE": self._sabotage,
            **settings,
        }
        child = Child.start(
            name,
            [PYTHON, "-m", "tests.chaos.entry", "run"],
            log=folder / "worker.log",
            cwd=folder,
            env=environment(chosen),
        )
        self.starts["worker"] += 1
        return Worker(child, port, folder / "data")

    async def _keep(self, post: Post) -> None:
        while post.kept:
            await anyio.sleep(RESPAWN_SECONDS)
            code = post.worker.child.process.poll()
            if code is None:
                continue
            post.ends.append(code)
            if post.kept:
                post.worker = self._start(post.name, post.settings)
                post.starts += 1

    def _node(self) -> Path:
        """A Node that loads the hook first: how the sidecar is reached from outside."""
        return hooked_node(self.folder, self._sabotage)

    # Processes that others started

    def sidecar_pid(self, post: Post | None = None) -> int | None:
        """The sidecar of this worker (of any, by default)."""
        for one in [post] if post else self.posts:
            for pid in descendants(one.pid):
                if "sidecar-baileys/index.js" in command_of(pid) and alive(pid):
                    return pid
        return None

    async def wait_sidecar(self, seconds: float = 30.0, other_than: int | None = None) -> int:
        async def probe() -> int | None:
            pid = self.sidecar_pid()
            return None if pid == other_than else pid

        return await until("a sidecar", probe, seconds=seconds)

    def server_pid(self) -> int | None:
        endpoint = read_endpoint(self.supabase.folder)
        return endpoint.pid if endpoint and alive(endpoint.pid) else None

    async def wait_supabase(self, other_than: int | None = None, seconds: float = 60.0) -> None:
        async def probe() -> bool:
            pid = self.server_pid()
            if pid is None or pid == other_than:
                return False
            try:
                await self.database.session_row()
            except Exception:  # whatever a server that is not there yet makes of a request
                return False
            return True

        await until("the embedded Supabase", probe, seconds=seconds, every=0.1)

    # Crash points

    def arm(self, point: str) -> Path:
        trigger = self.folder / "crash" / point
        trigger.parent.mkdir(exist_ok=True)
        trigger.touch()
        return trigger

    def disarm(self) -> None:
        for trigger in (self.folder / "crash").glob("*"):
            trigger.unlink(missing_ok=True)
        (self.folder / "killer.json").unlink(missing_ok=True)

    # Witnesses

    async def sample(self) -> None:
        """Watch memory and count new processes, for ever."""
        while True:
            self.look()
            await anyio.sleep(SAMPLE_SECONDS)

    def look(self) -> None:
        for post in self.posts:
            self._note("worker", post.pid)
            sidecar = self.sidecar_pid(post)
            if sidecar is not None:
                self._note("sidecar", sidecar)
                if sidecar not in self._sidecars:
                    self._sidecars.add(sidecar)
                    self.starts["sidecar"] += 1
        server = self.server_pid()
        if server is not None and server not in self._servers:
            self._servers.add(server)
            self.starts["supabase"] += 1

    def _note(self, name: str, pid: int) -> None:
        with contextlib.suppress(OSError):
            self.peak_bytes[name] = max(self.peak_bytes[name], resident_bytes(pid))

    def leaked_onto_disk(self) -> list[str]:
        """Files of this run (logs, the database, its journal, the workers' folders) with what must never be written."""
        mark = FORBIDDEN.encode()
        return [str(path) for path in self.folder.rglob("*") if path.is_file() and mark in path.read_bytes()]

    def orphans(self) -> list[int]:
        """Processes of this run that are still there."""
        return [pid for pid in all_pids() if pid != os.getpid() and alive(pid) and self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        place = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            inside = Path(os.readlink(place / "cwd"))
            return inside.is_relative_to(self.folder) or str(self.folder).encode() in (place / "environ").read_bytes()
        return False


@asynccontextmanager
async def open_rig(folder: Path, seed: object, sabotage: str = "") -> AsyncIterator[Rig]:
    """Start everything but the workers; on leaving, all of it has ended."""
    rig: Rig | None = None
    try:
        async with (
            await EmbeddedSupabase.start(folder / "supabase", migrations_for(sabotage, folder)) as supabase,
            await VirtualPhone.start(folder) as phone,
            FaultProxy(supabase.url, seed, forbidden=[FORBIDDEN.encode()]) as proxy,
            await Database.connect(supabase.url, supabase.service_key) as database,
            anyio.create_task_group() as tasks,
        ):
            rig = Rig(folder, supabase, proxy, phone, database, tasks, sabotage)
            try:
                yield rig
            finally:
                with anyio.CancelScope(shield=True):
                    proxy.clear()
                    for post in list(rig.posts):
                        await rig.end_worker(post)
                    tasks.cancel_scope.cancel()
    finally:
        if rig is not None:
            for pid in rig.orphans():
                kill(pid)


def hooked_node(folder: Path, sabotage: str = "") -> Path:
    """A Node that loads the hook into the sidecar; what it is to do stands in `folder`."""
    wrapper = folder / "node"
    if not wrapper.exists():
        draft = folder / "node.draft"
        draft.write_text(
            f"#!/bin/sh\nexport CHAOS_FOLDER='{folder}' CHAOS_SABOTAGE='{sabotage}'\n"
            f"exec '{NODE}' --import 'file://{HOOK}' \"$@\"\n"
        )
        draft.chmod(0o755)
        draft.rename(wrapper)
    return wrapper


class Killer:
    """A message whose stanza ends the sidecar at each delivery, from now until `disarm`.

    `ways` in turn, then the last for ever: "exit", "hang", "never", "lost" (hooks/sidecar.mjs) or a signal's name. Good
    copies of it are harmless.
    """

    def __init__(self, folder: Path, message_id: str, ways: Sequence[str]) -> None:
        self._file = folder / "killer.json"
        self._file.write_text(json.dumps({"id": message_id, "ways": list(ways)}))

    @property
    def deaths(self) -> int:
        with contextlib.suppress(ValueError, OSError):  # it may just be being written
            return int(json.loads(self._file.read_text()).get("deaths", 0))
        return 0

    def disarm(self) -> None:
        self._file.unlink(missing_ok=True)


def kill(pid: int) -> None:
    """SIGKILL; a process that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def armed(trigger: Path) -> bool:
    """Whether a crash point still waits for its process."""
    return trigger.exists()


async def gone(pid: int, seconds: float = 10.0) -> None:
    async def probe() -> bool:
        return not alive(pid)

    await until(f"the end of process {pid}", probe, seconds=seconds)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def now_ms() -> float:
    """As the virtual phone counts."""
    return time.time() * 1000

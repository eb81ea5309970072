"""The programs that are compared, each with an account, a virtual phone and a database of its own.

A side can be started, ended in order and killed, and says when messages are acknowledged and stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.forwarder import Forwarder
from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.processes import NODE, PYTHON, ROOT, Child, descendants, free_port
from testkit.waiting import until
from testkit.worker import Worker, environment
from tests.conftest import real_postgres

SENDERS = ("Ana", "Ben", "Chika", "Dana", "Emeka", "Farid")
GROUPS = 3
PATIENCE_SECONDS = 90.0


class Side:
    """`name` for the table; `database`: the processes that are not the program's own; `forwarder`: on the way there."""

    name = ""
    keeps = True  # what it has acknowledged is meant to outlive it

    def __init__(self, folder: Path, phone: VirtualPhone, forwarder: Forwarder | None, database: list[int]) -> None:
        self.folder = folder
        self.phone = phone
        self.forwarder = forwarder
        self.database = database
        self.groups: list[str] = []
        self.key = "none"  # of the Supabase behind the forwarder

    @property
    def headers(self) -> dict[str, str]:
        return {"apikey": self.key, "authorization": f"Bearer {self.key}"}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def kill(self) -> None: ...

    async def link(self) -> None: ...

    async def stored_at(self, ids: list[str]) -> list[float]:
        """When each of these was acknowledged by a receipt: Unix milliseconds, in order of time."""
        receipts = await self.phone.wait_receipts(ids, seconds=85)
        return sorted(item["at_ms"] for item in receipts)

    async def count_stored(self, ids: set[str]) -> int:
        """How many of these the database has."""
        return 0

    def roles(self) -> dict[str, list[int]]:
        """The processes by their part."""
        return {}

    async def make_groups(self) -> None:
        for n in range(GROUPS):
            mode: Any = "pn" if n % 2 else "lid"
            self.groups.append((await self.phone.group(f"Group {n}", SENDERS, mode, notify=False)).id)


class Program(Side):
    """A Node program of this folder. It prints events as JSON lines."""

    command: tuple[str, ...] = ()
    child: subprocess.Popen[bytes]

    async def start(self) -> None:
        self.events: list[dict[str, Any]] = []
        settings = {"WA_SOCKET_URL": self.phone.socket_url, "WA_ROOT_KEY": self.phone.root_key, **self.settings()}
        with (self.folder / "client.log").open("ab") as log:
            self.child = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
                [str(NODE), *self.command, *self.arguments()],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=environment(settings), cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        self._reading = asyncio.create_task(self._read())

    def settings(self) -> Mapping[str, str]:
        return {}

    def arguments(self) -> list[str]:
        return []

    async def _read(self) -> None:
        assert self.child.stdout is not None
        with self.child.stdout as lines:
            while line := await asyncio.to_thread(lines.readline):
                self.events.append(json.loads(line))

    def told(self, event: str) -> dict[str, Any] | None:
        return next((item for item in self.events if item["event"] == event), None)

    async def link(self) -> None:
        async def qr() -> Any:
            return self.told("qr")

        found = await until("a QR", qr, seconds=PATIENCE_SECONDS, tell=lambda: str(self.events))
        await self.phone.scan(found["qr"])
        await self.phone.wait_for("connected", seconds=60)

    async def stop(self) -> None:
        assert self.child.stdin is not None
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        await asyncio.to_thread(self.child.wait)
        await self._reading

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        assert self.child.stdin is not None
        with contextlib.suppress(OSError):
            self.child.stdin.close()

    def roles(self) -> dict[str, list[int]]:
        return {"program": [self.child.pid]}


class Stock(Program):
    name = "stock Baileys, in memory"
    keeps = False
    command = ("bench/client.js",)

    def arguments(self) -> list[str]:
        return [str(self.folder / "state.json")]


class Native(Stock):
    name = "native signatures, in memory"

    def arguments(self) -> list[str]:
        return [*super().arguments(), "--native"]


class Naive(Program):
    name = "naive, embedded"
    command = ("bench/naive/index.js",)

    def settings(self) -> Mapping[str, str]:
        assert self.forwarder is not None
        return {"SUPABASE_URL": self.forwarder.url, "SUPABASE_SERVICE_KEY": self.key}

    async def stored_at(self, ids: list[str]) -> list[float]:
        """Its receipts say nothing: when the database has answered the insert."""
        wanted = set(ids)
        times: list[float] = []
        seen = 0

        async def all_stored() -> bool:
            nonlocal seen
            for item in self.events[seen:]:
                if item["event"] == "stored":
                    times.extend([item["at_ms"]] * len(wanted & set(item["ids"])))
            seen = len(self.events)
            return len(times) >= len(wanted)

        await until("every message stored", all_stored, seconds=PATIENCE_SECONDS)
        return sorted(times)

    async def count_stored(self, ids: set[str]) -> int:
        assert self.forwarder is not None
        async with httpx.AsyncClient(trust_env=False, timeout=20, headers=self.headers) as http:
            url, rows = f"{self.forwarder.url}/rest/v1/naive_messages", set()
            for offset in range(0, 100_000, 1000):
                found = (
                    await http.get(url, params={"select": "id", "order": "id", "limit": 1000, "offset": offset})
                ).json()
                rows |= {row["id"] for row in found}
                if len(found) < 1000:
                    break
        return len(rows & ids)


class Product(Side):
    """wa-worker: worker, sidecar, and a database behind the forwarder."""

    name = "wa-worker"
    worker: Worker

    async def start(self) -> None:
        assert self.forwarder is not None
        settings = {
            "SUPABASE_URL": self.forwarder.url, "SUPABASE_SERVICE_KEY": self.key, "WORKER_POLL_MS": "2000",
            "WORKER_CATCH_UP_S": "86400",
        }  # fmt: skip
        self.worker = Worker.start(self.folder / "worker", phone=self.phone, settings=settings)

    async def call(self, function: str, **args: Any) -> Any:
        assert self.forwarder is not None
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            answer = await http.post(f"{self.forwarder.url}/rest/v1/rpc/{function}", json=args, headers=self.headers)
            answer.raise_for_status()
            return answer.json()

    async def link(self) -> None:
        async def qr() -> Any:
            view = await self.call("wa_pairing_view", p_session="default")
            return ((view or {}).get("detail") or {}).get("qr")

        await self.worker.ready(PATIENCE_SECONDS)
        found = await until("a QR", qr, seconds=PATIENCE_SECONDS, tell=self.worker.child.tail)
        await self.phone.scan(found)
        await self.phone.wait_for("connected", seconds=60)

        async def groups() -> Any:
            listed = (await self.call("wa_list_groups", p_session="default"))["groups"]
            return listed if len(listed) >= GROUPS else None

        listed = await until("the groups", groups, seconds=PATIENCE_SECONDS, tell=self.worker.child.tail)
        await self.call(
            "wa_set_monitor", p_session="default", p_groups=[group["id"] for group in listed], p_monitor=True
        )

    async def stop(self) -> None:
        await self.worker.child.stop()

    def kill(self) -> None:
        self.worker.child.kill()

    async def count_stored(self, ids: set[str]) -> int:
        found: set[str] = set()
        cursor: Any = 0
        while True:
            page = await self.call("wa_tail", p_session="default", p_group=None, p_after=cursor, p_limit=500)
            messages = page["messages"]
            found |= {message["wa_msg_id"] for message in messages}
            if not messages:
                return len(found & ids)
            cursor = page["cursor"]

    def roles(self) -> dict[str, list[int]]:
        return roles_of(self.worker)


class Embedded(Product):
    name = "wa-worker, embedded"


class Postgres(Product):
    name = "wa-worker, PostgreSQL"


def roles_of(worker: Worker) -> dict[str, list[int]]:
    """The processes of a worker by their part."""
    own = worker.processes()
    commands = {}
    for pid in own:
        with contextlib.suppress(OSError):
            commands[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    sidecars = [pid for pid, command in commands.items() if b"sidecar-baileys" in command]
    return {"worker": [worker.child.pid, *sorted(own - set(sidecars))], "sidecar": sidecars}


def tree(pid: int) -> list[int]:
    return [pid, *sorted(descendants(pid))]


def new_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def postmaster(dsn: str) -> int:
    """The first process of this PostgreSQL."""
    folder = Path(dsn.split()[0].removeprefix("host="))
    return int((folder / "data" / "postmaster.pid").read_text().split()[0])


@asynccontextmanager
async def all_sides(folder: Path, wanted: list[type[Side]]) -> AsyncIterator[list[Side]]:
    """Every wanted side, linked, its groups switched on, ended. However this ends, none of their processes is left."""
    async with AsyncExitStack() as stack:
        sides = []
        for kind in wanted:
            side = await _side(stack, kind, new_folder(folder / kind.__name__.lower()))
            stack.callback(_kill, side)  # a session of its own: Ctrl-C does not reach it
            sides.append(side)
        for side in sides:
            await side.phone.realism(profile="kind")
            await side.make_groups()
            await side.start()
            await side.link()
            # The first messages of everybody bring keys, which no later one does.
            sent = await side.phone.post("/burst", {"from": list(SENDERS), "to": side.groups, "count": 60})
            await side.stored_at(sent["ids"])
            await side.stop()
        yield sides


def _kill(side: Side) -> None:
    with contextlib.suppress(Exception):  # it never started, say; the next one's turn comes all the same
        side.kill()


async def gateway(stack: AsyncExitStack, dsn: str, folder: Path) -> tuple[str, Child]:
    """An HTTP server before this PostgreSQL, once it answers: its address, and the process."""
    port = free_port()
    child = Child.start("gateway", [PYTHON, "-m", "bench.gateway", dsn, str(port)], log=folder / "gateway.log")
    stack.push_async_callback(child.stop)
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        async with httpx.AsyncClient(trust_env=False) as http:
            with contextlib.suppress(httpx.TransportError):
                return (await http.post(f"{url}/rest/v1/rpc/wa_schema_version", json={})).is_success
        return False

    await until("the gateway", answers, seconds=30, tell=child.tail)
    return url, child


async def _side(stack: AsyncExitStack, kind: type[Side], folder: Path) -> Side:
    phone = await stack.enter_async_context(await VirtualPhone.start(folder))
    if kind in (Stock, Native):
        return kind(folder, phone, None, [])
    if kind is Postgres:
        dsn = stack.enter_context(real_postgres())
        url, child = await gateway(stack, dsn, folder)
        forwarder = await stack.enter_async_context(Forwarder(url))
        return kind(folder, phone, forwarder, [postmaster(dsn), child.pid])
    migrations = None
    if kind is Naive:
        migrations = new_folder(folder / "migrations")
        shutil.copy(ROOT / "bench" / "naive" / "schema.sql", migrations / "20261127000000_naive.sql")
    supabase = await stack.enter_async_context(await EmbeddedSupabase.start(folder / "supabase", migrations))
    forwarder = await stack.enter_async_context(Forwarder(supabase.url))
    side = kind(folder, phone, forwarder, [supabase.server_pid])
    side.key = supabase.service_key
    return side

"""A worker inside the test's own process, over the real sidecar and a virtual phone.

For what would take too long from outside: a test may shorten constants that are private to the product. All other tests
run the worker as an operator does (testkit/worker.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
from loguru import logger

from testkit.database import Database, Row
from testkit.phone import Group, Sent, VirtualPhone
from testkit.waiting import until
from worker.errors import unwrapped
from worker.host import Host
from worker.settings import Settings
from worker.store.embedded import Endpoint

SEEN_SECONDS = 30.0
MEMBERS = ("Ana", "Ben")

T = TypeVar("T")


@dataclass(kw_only=True)
class Inside:
    """A worker in this process and everything around it. `ended` is what it raised, if it has ended by itself."""

    host: Host
    phone: VirtualPhone
    database: Database
    market: Group  # monitored, LID-addressed
    crew: Group  # monitored, addressed by phone number
    lines: list[str]
    ended: BaseException | None = None

    @property
    def sidecar_pid(self) -> int | None:
        return self.host.health.session.sidecar_pid

    def tail(self) -> str:
        return "".join(self.lines[-40:])

    async def until(self, what: str, probe: Callable[[], Awaitable[T | None]], seconds: float = SEEN_SECONDS) -> T:
        return await until(what, probe, seconds=seconds, tell=self.tail)

    async def connected(self) -> None:
        async def probe() -> bool:
            return bool((await self.phone.state())["connected"]) and await self.database.status() == "connected"

        await self.until("connected", probe)

    async def payloads(self, event: str, after: int = 0, **equal: object) -> list[Row]:
        """The audit entries of this event, after `after`, whose payload has these values."""
        rows = [row["payload"] for row in await self.database.events(event) if row["id"] > after]
        return [row for row in rows if all(row.get(name) == value for name, value in equal.items())]

    async def told(self, event: str, after: int = 0, **equal: object) -> Row:
        """The first such entry; waits for it."""

        async def probe() -> Row | None:
            return next(iter(await self.payloads(event, after, **equal)), None)

        return await self.until(f"audit_log: {event} {equal}", probe)

    async def stored(self, group: Group, text: str, **more: Any) -> Row:
        return await self.row(await self.phone.send("Ana", group.id, text, **more))

    async def row(self, sent: Sent) -> Row:
        return await self.database.wait_message(sent.id, seconds=SEEN_SECONDS, tell=self.tail)

    async def link(self) -> None:
        """Scan the code, find the groups, switch both on."""
        await self.phone.scan(await self.database.wait_qr(tell=self.tail))
        await self.connected()
        groups = [self.market.id, self.crew.id]
        await self.database.wait_groups(groups, tell=self.tail)
        await self.database.monitor(groups)
        await self.database.fetch_groups(tell=self.tail)


@asynccontextmanager
async def inside(
    folder: Path,
    embedded: Endpoint,
    session: str,
    *,
    before: Callable[[VirtualPhone], Awaitable[object]] | None = None,
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[Inside]:
    """Start a phone and a worker; `before` may prepare the phone. On leaving, the worker is told to stop."""
    async with (
        await VirtualPhone.start(folder) as phone,
        await Database.connect(embedded.url, embedded.key, session) as database,
    ):
        market = await phone.group("Market", MEMBERS, "lid")
        crew = await phone.group("Crew", MEMBERS, "pn")
        if before:
            await before(phone)
        chosen = {
            "supabase_url": embedded.url,
            "supabase_service_key": embedded.key,
            "worker_session": session,
            "worker_http_host": "127.0.0.1",
            "worker_http_port": 0,
            "worker_poll_ms": 150,
            "worker_backoff_base_ms": 10,
            "worker_backoff_max_ms": 200,
            "worker_catch_up_s": 3600,
            **{name.lower(): value for name, value in phone.worker_env.items()},
            **(settings or {}),
        }
        lines: list[str] = []
        sink = logger.add(lines.append, level="INFO")
        host = Host(Settings(_env_file=None, **chosen))  # type: ignore[arg-type, call-arg]
        it = Inside(host=host, phone=phone, database=database, market=market, crew=crew, lines=lines)

        async def run() -> None:
            try:
                await host.run()
            except Exception as ended:
                it.ended = ended

        try:
            with unwrapped():
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(run)
                    try:
                        yield it
                    finally:
                        host.stop()
        finally:
            logger.remove(sink)

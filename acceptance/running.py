"""The worker of one run, and its database. It can be stopped and started again: a restart of the same account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

from demo.screen import Screen
from testkit.database import DEFAULT_SESSION, Database
from testkit.embedded import endpoint
from testkit.worker import Worker

READY_SECONDS = 120.0  # a first start makes a database


class Running:
    """`before` is the last entry of the audit log that is not this run's."""

    worker: Worker
    database: Database
    before: int
    url: str

    def __init__(self, folder: Path, settings: Mapping[str, str], screen: Screen) -> None:
        self._folder = folder
        self._settings = settings
        self._screen = screen
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start it.

        Raises:
            AssertionError: it does not start.
        """
        try:
            given = self._given()
            if given:  # a linked worker may be connected before anybody looks
                await self._connect(*given)
                self.before = await self.database.last_event()
            await self.start()
            if not given:
                self.before = await self.database.last_event()
            await self._wait_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def again(self) -> None:
        """Start it once more, after `stop`."""
        await self.start()
        await self._wait_ready()

    async def start(self) -> None:
        """The worker, and its database, which an embedded Supabase offers only while the worker runs."""
        self.worker = await self._open.enter_async_context(Worker.start(self._folder, settings=self._settings))
        given = self._given()
        if given is None:
            async with self._screen.waiting("the worker starts, with its Supabase"):
                found = await endpoint(self.worker.data_dir, READY_SECONDS, tell=self.worker.child.tail)
            given = found.url, found.key
        await self._connect(*given)

    async def stop(self) -> None:
        """As an operator stops it."""
        with anyio.CancelScope(shield=True):
            await self._open.aclose()

    def check(self) -> None:
        """Raises AssertionError if the worker has ended."""
        child = self.worker.child
        if not child.running:
            raise AssertionError(f"the worker ended with code {child.process.returncode}\n{child.tail()}")

    async def connected(self) -> bool:
        """This worker's own word; a row that an earlier one left says so too."""
        metrics = await self.worker.get("/metrics")
        return metrics is not None and re.search(r"^wa_connected\{.*\} 1\.0$", metrics.text, re.MULTILINE) is not None

    async def _wait_ready(self) -> None:
        async with self._screen.waiting("the worker starts"):
            await self.worker.ready(READY_SECONDS)

    def _given(self) -> tuple[str, str] | None:
        url, key = self._settings.get("SUPABASE_URL"), self._settings.get("SUPABASE_SERVICE_KEY")
        return (url, key) if url and key else None

    async def _connect(self, url: str, key: str) -> None:
        session = self._settings.get("WORKER_SESSION") or DEFAULT_SESSION
        self.url = url
        self.database = await self._open.enter_async_context(await Database.connect(url, key, session))

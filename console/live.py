"""The live state of a session, read once for all its viewers: its situation and its newest messages.

Reads only while somebody is viewing. A slow viewer skips states and does not delay others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import anyio.abc
from loguru import logger

from console.database import Database, Row, situation_of
from console.messages import MessageScope, Page, newest
from console.rules.situations import Situation, judge
from worker.errors import StoreError

POLL_SECONDS = 1.0
SHARE = 40.0  # reads take at most a fortieth of the time, since they cost the worker's database …
SLOWEST_SECONDS = 5.0  # … but happen at least this often
AGAIN_SECONDS = 30.0  # for names of groups, which the change cursor does not cover
FLOOD = 30  # new messages in one read; nobody can follow more, and the worker needs the database
WINDOW = 60  # newest messages that are kept up to date in open pages
HEARTBEAT_SECONDS = 15.0

T = TypeVar("T")
Judge = Callable[[Mapping[str, Any] | None], Situation]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state at one moment. `read_at`: when reading it started (monotonic clock)."""

    situation: Situation
    page: Page = field(default_factory=Page)
    read_at: float = 0.0
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, computed once for all viewers."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


class LiveFeed:
    """One session."""

    def __init__(self, database: Database, session: str, tasks: anyio.abc.TaskGroup, judge: Judge = judge) -> None:
        self._database = database
        self._judge = judge
        self._where = MessageScope(session=session)
        self._tasks = tasks
        self.viewers = 0
        self._running = False
        self._changed = anyio.Event()
        self._snapshot: Snapshot | None = None
        self._cursor: str | None = None
        self._read_at = 0.0

    @property
    def is_idle(self) -> bool:
        return not self.viewers and not self._running

    async def snapshots(self) -> AsyncGenerator[Snapshot | None, None]:
        """Each new state; None now and then while nothing changes.

        Skips a state read before this viewer came: the page was rendered after that, and may be newer.
        """
        came = time.monotonic()
        self.viewers += 1
        if not self._running:
            self._running = True
            self._tasks.start_soon(self._poll)
        seen: Snapshot | None = None
        try:
            while True:
                changed = self._changed
                if self._snapshot is not None and self._snapshot is not seen and self._snapshot.read_at >= came:
                    seen = self._snapshot
                    yield seen
                    continue
                with anyio.move_on_after(HEARTBEAT_SECONDS) as waiting:
                    await changed.wait()
                if waiting.cancelled_caught:
                    yield None
        finally:
            self.viewers -= 1

    async def _poll(self) -> None:
        try:
            while self.viewers:
                began = time.monotonic()
                before = self._snapshot
                await self._look()
                came = new_between(before.page, self._snapshot.page) if before and self._snapshot else 0
                await anyio.sleep(pause(time.monotonic() - began, came))
        finally:
            self._running = False
            self._snapshot, self._cursor = None, None

    async def _look(self) -> None:
        before, began = self._snapshot, time.monotonic()
        try:
            view = await self._database.ask(lambda store: store.console.pairing_view(self._where.session))
            page = await self._newest(before.page if before else None)
        except StoreError as error:
            logger.debug("the console's poll: {}", error)
            situation = situation_of(error)
            self._show(Snapshot(situation=situation, page=before.page if before else Page(), read_at=began))
            self._cursor = None
            return
        self._show(Snapshot(situation=self._judge(view), page=page, read_at=began))

    async def _newest(self, known: Page | None) -> Page:
        """The newest messages; the same object as before if nothing can have changed."""
        cursor = await self._database.ask(lambda store: store.console.change_cursor(self._where.session))
        now = time.monotonic()
        if known is not None and cursor == self._cursor and now - self._read_at < AGAIN_SECONDS:
            return known
        since = known.rows[0]["id"] if known is not None and len(known.rows) == WINDOW else 0
        page = await newest(self._database, self._where, WINDOW, since)
        if since:
            page = replace(page, more=page.more or (known is not None and known.more))
        self._cursor, self._read_at = cursor, now
        return known if known is not None and known.rows == page.rows else page

    def _show(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._changed.set()
        self._changed = anyio.Event()


def pause(took: float, came: int = 0) -> float:
    """Seconds until the next read, after one that took `took` seconds and found `came` new messages."""
    return SLOWEST_SECONDS if came >= FLOOD else min(max(POLL_SECONDS, SHARE * took), SLOWEST_SECONDS)


def new_between(before: Page, after: Page) -> int:
    """The number of messages of a page that the previous one did not have."""
    return 0 if before is after else len({row["id"] for row in after.rows} - {row["id"] for row in before.rows})


def rows_of(snapshot: Snapshot, group: int | None) -> list[Row]:
    """The rows of one group, or all."""
    return [row for row in snapshot.page.rows if group is None or row["group_id"] == group]

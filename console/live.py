"""What changes in a session, read once for all who look at it: its situation, and its newest messages.

Reads only while somebody looks. A viewer who is slow skips states; nobody's slowness holds up another's.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.abc
from loguru import logger

from console.database import Database, Row
from console.messages import MessageScope, Page, newest
from console.rules.situations import AWAY, Situation, judge
from worker.errors import StoreError

POLL_SECONDS = 1.0
SHARE = 20.0  # of its time a session is read for at most a twentieth: reading costs the worker's database …
SLOWEST_SECONDS = 5.0  # … but however slow it is, the pages are to move
AGAIN_SECONDS = 30.0  # names of groups, which the change cursor does not tell
WINDOW = 60  # the newest messages that are kept up to date in open pages
HEARTBEAT_SECONDS = 15.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is so at one moment. `read_at`: when the reading of it began, by the monotonic clock."""

    situation: Situation
    page: Page = field(default_factory=Page)
    read_at: float = 0.0
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes of it, made once for all who look."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


class LiveFeed:
    """One session."""

    def __init__(self, database: Database, session: str, tasks: anyio.abc.TaskGroup) -> None:
        self._database = database
        self._where = MessageScope(session=session)
        self._tasks = tasks
        self.viewers = 0  # how many look
        self._running = False
        self._changed = anyio.Event()
        self._snapshot: Snapshot | None = None
        self._cursor: str | None = None
        self._read_at = 0.0

    async def snapshots(self) -> AsyncGenerator[Snapshot | None, None]:
        """Each new state; None from time to time when nothing changes.

        What was read before this viewer came is left out: the page, which was made after that, may know better.
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
                await self._look()
                await anyio.sleep(pause(time.monotonic() - began))
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
            self._show(Snapshot(situation=AWAY, page=before.page if before else Page(), read_at=began))
            self._cursor = None
            return
        self._show(Snapshot(situation=judge(view), page=page, read_at=began))

    async def _newest(self, known: Page | None) -> Page:
        """The newest messages; the same object as before if nothing about them can have changed."""
        cursor = await self._database.ask(lambda store: store.console.change_cursor(self._where.session))
        now = time.monotonic()
        if known is not None and cursor == self._cursor and now - self._read_at < AGAIN_SECONDS:
            return known
        page = await newest(self._database, self._where, WINDOW)
        self._cursor, self._read_at = cursor, now
        return known if known is not None and known.rows == page.rows else page

    def _show(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._changed.set()
        self._changed = anyio.Event()


def pause(took: float) -> float:
    """Seconds until the next look, after one that took so many."""
    return min(max(POLL_SECONDS, SHARE * took), SLOWEST_SECONDS)


def rows_of(snapshot: Snapshot, group: int | None) -> list[Row]:
    """Those of one group, or all."""
    return [row for row in snapshot.page.rows if group is None or row["group_id"] == group]

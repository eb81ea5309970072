"""Housekeeping of one session: deletes what expires, reports what was discarded.

Each task is small and bounded. A failed task runs again at its next turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import anyio
from loguru import logger

from worker.errors import StoreRefused, StoreUnavailable
from worker.session.report import Report
from worker.store import ExpireMode
from worker.store.retry import repeat, until_answered
from worker.store.session import SessionStore

LOST_EVERY_SECONDS = 300.0
PRUNE_EVERY_SECONDS = 300.0  # large identity merges wait for it, and with them that person's edits and revokes
REFUSED_AGAIN_SECONDS = 60.0  # after a failed attempt
REFUSED_AT_ONCE = 20
EXPIRE_EVERY_SECONDS = 60.0
RETENTION_EVERY_SECONDS = 3600.0
OLD_AT_ONCE = 500  # rows a call; commits wait for one call
OBJECTS_EVERY_SECONDS = 3600.0  # each run checks every file
EXPIRE_AT_ONCE = 100  # rows a call; commits wait for one call
ANALYZE_EVERY_SECONDS = 60.0  # embedded Supabase only: it has no autovacuum
DISCARDS_EVERY_SECONDS = 3600.0
FIRST_AFTER_SECONDS = 30.0  # leave the database to the start-up
KNOWN_STANZAS_SECONDS = 14 * 86_400.0  # docs/protocol.md, `stanzas.known`


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long to keep things, in seconds. None: forever.

    Attributes:
        lost: how long an undecryptable message may still get its content.
        changes: how long apps that ask for changes are told of deletions.
        messages: messages, with their files.
        audit: entries of the audit log.
        expire: what to do with messages that disappeared from phones; None: nothing.
    """

    lost: float
    changes: float
    messages: float | None = None
    audit: float | None = None
    expire: ExpireMode | None = None


class Housekeeping:
    """Runs the housekeeping tasks of one session.

    `analyze`: also refresh the planner's statistics. `claim_task`: True if a task that serves all sessions has not run
    in this process for so many seconds.
    """

    def __init__(
        self,
        store: SessionStore,
        report: Report,
        retention: Retention,
        *,
        analyze: bool = False,
        claim_task: Callable[[str, float], bool] = lambda task, seconds: True,
    ) -> None:
        self._store = store
        self._report = report
        self._retention = retention
        self._analyze = analyze
        self._claim_task = claim_task
        self._refused_due = anyio.Event()
        self._discards: Mapping[str, int] | None = None

    async def run(self) -> None:
        """Run all tasks until cancelled, concurrently: the database may answer one task and not another."""
        turns: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (LOST_EVERY_SECONDS, self.mark_lost),
            (PRUNE_EVERY_SECONDS, self.prune),
            (PRUNE_EVERY_SECONDS, self.prune_changes),
        ]
        if self._retention.expire:
            turns.append((EXPIRE_EVERY_SECONDS, self.expire))
        if self._retention.messages:
            turns.append((RETENTION_EVERY_SECONDS, self.delete_old))
        if self._retention.expire or self._retention.messages:
            turns.append((OBJECTS_EVERY_SECONDS, self.delete_unused_objects))
        if self._analyze:
            turns.append((ANALYZE_EVERY_SECONDS, self.analyze))
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self._report_discards)
            task_group.start_soon(self._retry_when_due)
            for every, turn in turns:
                task_group.start_soon(self._turn, every, turn)

    async def _report_discards(self) -> None:
        """Report what was discarded since the start, once an hour."""
        try:
            self._discards = await until_answered(self._count_discards)
        except StoreRefused as refused:
            logger.warning("the first count of discards was refused (code {}); counting starts later", refused.code)
        await self._turn(DISCARDS_EVERY_SECONDS, self.account_for_discards)

    async def _turn(self, every: float, turn: Callable[[], Awaitable[None]]) -> None:
        await anyio.sleep(FIRST_AFTER_SECONDS)
        await repeat(every, turn, _log_failure)

    def note_refused_due(self) -> None:
        """The poll reports that waiting items are due."""
        self._refused_due.set()

    async def _retry_when_due(self) -> None:
        while True:
            await self._refused_due.wait()
            self._refused_due = anyio.Event()
            try:
                await self.retry_refused()
            except (StoreUnavailable, StoreRefused) as error:
                _log_failure(error)
                await anyio.sleep(REFUSED_AGAIN_SECONDS)

    async def mark_lost(self) -> None:
        """Mark undecryptable messages as lost once a good copy would come too late to be stored."""
        await self._store.mark_lost(self._retention.lost)

    async def prune(self) -> None:
        """Delete hashes of stanzas too old to be redelivered, and old audit entries; 10,000 a call."""
        more = True
        while more:
            pruned = await self._store.prune(stanza_seconds=KNOWN_STANZAS_SECONDS, audit_seconds=self._retention.audit)
            more = pruned.more

    async def prune_changes(self) -> None:
        """Delete records of deletions that every app has had time to read; 10,000 a call."""
        while await self._store.prune_changes(self._retention.changes):
            pass

    async def expire(self) -> None:
        """Remove messages that disappeared from phones."""
        mode = self._retention.expire
        count, more = 0, mode is not None
        while more and mode:
            expired = await self._store.expire(mode, EXPIRE_AT_ONCE)
            count, more = count + expired.expired, expired.more
        if count:
            logger.info("{} messages disappeared", count)

    async def delete_old(self) -> None:
        """Delete messages and refused stanzas that are too old, by the database's clock."""
        if not self._retention.messages:
            return
        before = await self._store.database_time() - timedelta(seconds=self._retention.messages)
        messages, refused, more = 0, 0, True
        while more:
            deleted = await self._store.delete_messages(before, OLD_AT_ONCE)
            messages, refused, more = messages + deleted.messages, refused + deleted.refused, deleted.more
        if messages or refused:
            logger.info("{} messages and {} refused stanzas were older than WORKER_KEEP_DAYS", messages, refused)
            self._report.audit("ingest", deleted={"messages": messages, "refused": refused})

    async def delete_unused_objects(self) -> None:
        """Remove files that no message needs, including those that an earlier turn failed to remove."""
        if not self._claim_task("objects", OBJECTS_EVERY_SECONDS):
            return
        files = await self._store.delete_unused_objects()
        if files:
            logger.info("{} files that no message needs were removed", files)

    async def analyze(self) -> None:
        """Refresh the planner's statistics of tables that have changed much."""
        if self._claim_task("analyze", ANALYZE_EVERY_SECONDS):
            await self._store.analyze()

    async def retry_refused(self) -> None:
        """Retry waiting items that are due. They are already in the database, so no gateway can refuse them."""
        taken = 0
        for id_ in await self._store.due_refused(REFUSED_AT_ONCE):
            taken += await self._store.retry_refused(id_) is None
        if taken:
            logger.info("{} refused messages or changes were stored on retry", taken)

    async def account_for_discards(self) -> None:
        """Audit how many messages were discarded since the last entry, by reason."""
        now = await self._count_discards()
        before = self._discards if self._discards is not None else now
        fresh = {
            reason: count - before.get(reason, 0) for reason, count in now.items() if count > before.get(reason, 0)
        }
        self._discards = now
        if fresh:
            self._report.audit("ingest", discarded=fresh)

    async def _count_discards(self) -> Mapping[str, int]:
        status = await self._store.status()
        return {reason: int(count) for reason, count in status["discards"].items()}


def _log_failure(error: StoreUnavailable | StoreRefused) -> None:
    if isinstance(error, StoreRefused):
        logger.warning("the database refused a housekeeping task (code {})", error.code)
    else:
        logger.debug("the database does not answer; housekeeping waits for its next turn")

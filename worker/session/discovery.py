"""Asks WhatsApp which groups the account is in: one query at a time, spaced out, with longer pauses after a 429.

Writes the groups' names and, if enabled, their members. Never changes `monitor`: the user chooses which groups are
stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
from loguru import logger

from worker.bridge.peer import Peer
from worker.bridge.protocol import Commit, Group
from worker.errors import CallFailed, CallTimeout, StoreRefused
from worker.ingest.rules.batch import addresses
from worker.session.flags import DONE, Done, Request
from worker.session.members import MemberLists
from worker.session.report import Report
from worker.store import Batch, Committed, GroupChange
from worker.store.retry import until_answered
from worker.store.session import SessionStore
from worker.text import clean_name

SPACING_SECONDS = 3.0  # frequent queries give 429 (docs/whatsapp.md, "Groups"); people click twice
PAUSE_FIRST_SECONDS = 60.0  # after a 429
PAUSE_MAX_SECONDS = 900.0
FAILURES_MAX = 3  # other failures in a row: then the request counts as done
NO_GROUPS = "turned down: WhatsApp has not given the groups; see audit_log"
TOO_MANY = 429
ADMINS_SPACING_SECONDS = 600.0  # anybody can send a revoke that we cannot judge, and so trigger queries


class Discovery:
    """Runs the queries that are due while a connection is open."""

    def __init__(
        self,
        store: SessionStore,
        report: Report,
        done: Done,
        clock: Callable[[], float] = time.monotonic,
        members: MemberLists | None = None,
    ) -> None:
        self._store = store
        self._report = report
        self._done = done
        self._members = members
        self._clock = clock
        self._wanted: list[Request] = []
        self.due = True  # query even without a request
        self._all_lists = True  # fetch all member lists, not only those that this process has not written
        self._not_before = 0.0
        self._pause = PAUSE_FIRST_SECONDS
        self._failures = 0
        self._admins_not_before = 0.0
        self._asked = anyio.Event()

    def ask(self, request: Request) -> None:
        """Query on request: now if connected, else at the next connection."""
        self._wanted.append(request)
        self._asked.set()

    def again(self) -> None:
        """Query at the next connection again: another account may follow."""
        self.due = self._all_lists = True

    def committed(self, _commit: Commit, batch: Batch, stored: Committed, _seconds: float) -> None:
        """If a revoke is waiting, perhaps for the group's admins, query, at most once in ten minutes.

        Anybody can trigger this, so it does not fetch member lists that are already written.
        """
        waits = stored.held > 0 and any(change.get("kind") == "revoke" for change in batch.changes)
        if waits and self._clock() >= self._admins_not_before:
            self._admins_not_before = self._clock() + ADMINS_SPACING_SECONDS
            self.due = True
            self._asked.set()

    async def run(self, peer: Peer) -> None:
        """Query at the first connection, then when due or on request, until cancelled."""
        while True:
            if not self.due and not self._wanted:
                self._asked = anyio.Event()
                await self._asked.wait()
            await anyio.sleep(max(0.0, self._not_before - self._clock()))
            served, result = list(self._wanted), DONE
            if await self._discover(peer, all_lists=self._all_lists or bool(served)):
                self.due = False
                self._failures = 0
            elif self._failures < FAILURES_MAX:
                continue
            else:
                result = NO_GROUPS
            for request in served:
                self._wanted.remove(request)
                self._done(request, result)
            self.due = False
            self._failures = 0

    async def _discover(self, peer: Peer, *, all_lists: bool) -> bool:
        try:
            found = await peer.groups(self._members.wanted(written_too=all_lists) if self._members else ())
            changes = [as_change(group) for group in found.groups]
            result = await until_answered(lambda: self._store.upsert_groups(changes, complete=True))
        except (CallFailed, CallTimeout, StoreRefused) as failed:
            self._note_failure(failed)
            return False
        logger.info("groups found: {}, new: {}", result.count, result.added)
        if self._members:
            await self._members.write(found)
        self._all_lists = False
        self._not_before = self._clock() + SPACING_SECONDS
        self._pause = PAUSE_FIRST_SECONDS
        return True

    def _note_failure(self, failed: CallFailed | CallTimeout | StoreRefused) -> None:
        data = failed.data if isinstance(failed, CallFailed) else None
        limited = isinstance(data, dict) and data.get("status") == TOO_MANY
        if limited:
            pause = self._pause
            self._pause = min(PAUSE_MAX_SECONDS, self._pause * 2)
        else:
            self._failures += 1
            pause = SPACING_SECONDS
        self._not_before = self._clock() + pause
        code = "GROUPS_RATE_LIMITED" if limited else "GROUPS_FAILED"
        logger.warning("asking for the groups failed ({}); next attempt in {:.0f} s", code, pause)
        self._report.error(code, "asking WhatsApp for the groups failed", pause_s=pause)


def as_change(group: Group) -> GroupChange:
    """The group, its name cleaned as ingest does: two different forms would rename it back and forth."""
    return GroupChange(wa_group_id=group.id, name=clean_name(group.subject), admins=addresses(group.admins))

"""The members of the groups that are switched on, from the lists of a discovery. Asks WhatsApp for nothing more.

All lists at a start and on request; at a discovery in between only those that this process has not written yet.

Only made with WORKER_GROUP_MEMBERS. What happens between two discoveries comes with the groups' notices
(worker/ingest/rules/members.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from loguru import logger

from worker.bridge.protocol import Groups, Me
from worker.errors import StoreRefused, StoreUnavailable
from worker.ingest.rules.members import told_by_list
from worker.session.report import Report
from worker.store.retry import until_answered
from worker.store.session import SessionStore

PATIENCE_SECONDS = 60.0  # for one list; the next discovery asks for it again


class MemberLists:
    """Writes the lists of the groups that `monitored` gives."""

    def __init__(self, store: SessionStore, report: Report, monitored: Callable[[], Collection[str]]) -> None:
        self._store = store
        self._report = report
        self._own: tuple[str | None, str | None] = (None, None)
        self._monitored = monitored
        self._written: set[str] = set()  # or refused

    def linked_as(self, me: Me) -> None:
        """Note the account's own addresses, which a whole list names."""
        self._own = (me.lid, me.id)

    def wanted(self, *, written_too: bool) -> set[str]:
        """Groups whose lists to ask for. One that is switched off meanwhile is asked for again when it is back."""
        monitored = set(self._monitored())
        self._written &= monitored
        return monitored if written_too else monitored - self._written

    async def write(self, answer: Groups) -> None:
        """Write the lists of a discovery, group by group: a commit waits for one of them at most.

        A list that the database refuses is left out until all are asked for again. If it does not answer, the next
        discovery asks for this list and the others.
        """
        for group in answer.groups:
            entry = told_by_list(group, answer.asked_at_ms, self._own)
            if group.members is not None:
                self._written.add(group.id)
            if entry is None:
                continue
            try:
                gone = await until_answered(lambda: self._store.write_members([entry]), PATIENCE_SECONDS)  # noqa: B023
            except StoreRefused as refused:
                self._failed(group.id, refused.code)
                continue
            except StoreUnavailable as failed:
                self._failed(group.id, type(failed).__name__)
                self._written.discard(group.id)
                return
            seen = "" if entry["complete"] else "; the list is not whole, so nobody has left by it"
            logger.info("{}: {} members listed, {} gone{}", group.id, len(entry["members"]), gone, seen)

    def _failed(self, group: str, code: str) -> None:
        logger.warning("the members of {} were not written ({})", group, code)
        self._report.error("MEMBERS_FAILED", "a group's list of members could not be written", group=group, reason=code)

"""Members of the groups that are switched on, taken from discovery's lists. Sends no queries of its own.

At start and on request it writes all lists; at other discoveries only those that this process has not written yet.

Only with WORKER_GROUP_MEMBERS. Between discoveries, the groups' notices bring the changes
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

PATIENCE_SECONDS = 60.0  # for one list; the next discovery fetches it again


class MemberLists:
    """Writes the member lists of the groups that `monitored` returns."""

    def __init__(self, store: SessionStore, report: Report, monitored: Callable[[], Collection[str]]) -> None:
        self._store = store
        self._report = report
        self._own: tuple[str | None, str | None] = (None, None)
        self._monitored = monitored
        self._written: set[str] = set()  # includes refused lists

    def linked_as(self, me: Me) -> None:
        """Note the account's own addresses: a complete list contains one."""
        self._own = (me.lid, me.id)

    def wanted(self, *, written_too: bool) -> set[str]:
        """Groups whose lists to fetch. A group that is switched off and on again is fetched again."""
        monitored = set(self._monitored())
        self._written &= monitored
        return monitored if written_too else monitored - self._written

    async def write(self, answer: Groups) -> None:
        """Write the lists of a discovery, group by group, so that a commit waits for one list at most.

        A list that the database refuses is skipped until all are fetched again. If the database does not answer, the
        next discovery fetches this list and the remaining ones.
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

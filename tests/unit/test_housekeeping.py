"""Housekeeping: what runs whatever else fails, and how long things are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import anyio
import pytest

from tests.unit.doubles import Database, until
from worker.errors import StoreRefused, StoreUnavailable
from worker.session import housekeeping as module
from worker.session.housekeeping import Housekeeping, Retention
from worker.session.report import Report
from worker.settings import Settings
from worker.store import Expired, ExpireMode, Pruned
from worker.store.console import Deleted
from worker.store.session import SessionStore

EVERYTHING = {"mark_lost", "prune", "prune_changes", "analyze", "retry_refused 7", "retry_refused 8"}


class Housekept:
    """A store whose status is asked in vain."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.done: set[str] = set()
        self.kept: list[float | None] = []
        self.expired: list[str] = []
        self.forgotten: list[float] = []
        self.now = datetime(2026, 11, 27, tzinfo=UTC)
        self.aged: list[float] = []

    async def status(self) -> dict[str, Any]:
        if self._error is None:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        raise cast(Exception, self._error)

    async def mark_lost(self, older_than_seconds: float) -> int:
        await anyio.lowlevel.checkpoint()
        self.done.add("mark_lost")
        return 0

    async def prune(self, *, stanza_seconds: float, audit_seconds: float | None = None) -> Pruned:
        await anyio.lowlevel.checkpoint()
        self.done.add("prune")
        self.kept.append(audit_seconds)
        return Pruned(stanzas=0, audits=0, changes=0, secrets=0, more=len(self.kept) < 3)

    async def prune_changes(self, older_than_seconds: float) -> bool:
        await anyio.lowlevel.checkpoint()
        self.done.add("prune_changes")
        self.forgotten.append(older_than_seconds)
        return len(self.forgotten) < 2

    async def due_refused(self, limit: int) -> list[int]:
        await anyio.lowlevel.checkpoint()
        return [7, 8]

    async def retry_refused(self, id_: int) -> str | None:
        await anyio.lowlevel.checkpoint()
        self.done.add(f"retry_refused {id_}")
        return "XX000" if id_ == 7 else None

    async def expire(self, mode: str, limit: int) -> Expired:
        await anyio.lowlevel.checkpoint()
        self.expired.append(mode)
        return Expired(expired=limit, more=len(self.expired) < 3)

    async def database_time(self) -> datetime:
        await anyio.lowlevel.checkpoint()
        return self.now

    async def delete_messages(self, before: datetime, limit: int) -> Deleted:
        await anyio.lowlevel.checkpoint()
        self.aged.append((self.now - before).total_seconds())
        return Deleted(messages=limit, refused=1, more=len(self.aged) < 3)

    async def delete_unused_objects(self) -> int:
        await anyio.lowlevel.checkpoint()
        self.done.add("delete_unused_objects")
        return 1

    async def analyze(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.done.add("analyze")


def housekeeping_of(
    store: Housekept,
    audit_seconds: float | None = None,
    expire: ExpireMode | None = None,
    keep_seconds: float | None = None,
    report: Report | None = None,
) -> Housekeeping:
    report = report or Report(Database().store)
    return Housekeeping(
        cast(SessionStore, store),
        report,
        Retention(lost=60.0, changes=90.0, audit=audit_seconds, messages=keep_seconds, expire=expire),
        analyze=True,
    )


@pytest.mark.parametrize(
    ("error", "because"),
    [
        (None, "slow: the status reads more tables than any other statement"),
        (StoreUnavailable("ended by the statement time-out"), "unavailable"),
        (StoreRefused("42501", "42501"), "refused"),
    ],
)
async def test_housekeeping_goes_on_although_the_status_has_no_answer(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, because: str
) -> None:
    monkeypatch.setattr(module, "FIRST_AFTER_SECONDS", 0.0)
    store = Housekept(error)
    async with anyio.create_task_group() as tasks:
        housekeeping = housekeeping_of(store)
        tasks.start_soon(housekeeping.run)
        housekeeping.note_refused_due()
        await until(lambda: store.done == EVERYTHING)
        tasks.cancel_scope.cancel()
    assert store.done == EVERYTHING, because


@pytest.mark.parametrize(("days", "seconds"), [(90, 7_776_000.0), (1, 86_400.0), (0, None)])
async def test_the_audit_log_is_kept_as_long_as_the_setting_says(days: int, seconds: float | None) -> None:
    store = Housekept(None)
    settings = Settings(worker_audit_days=days, _env_file=None)  # type: ignore[call-arg]
    await housekeeping_of(store, settings.audit_seconds).prune()
    assert store.kept == [seconds] * 3, "as long as there is more"


async def test_deletions_are_forgotten_after_their_time() -> None:
    store = Housekept(None)
    await housekeeping_of(store).prune_changes()
    assert store.forgotten == [90.0] * 2, "as long as there is more"


@pytest.mark.parametrize(("mode", "calls"), [("blank", 3), ("delete", 3), (None, 0)])
async def test_what_has_disappeared_goes_as_the_setting_says(mode: ExpireMode | None, calls: int) -> None:
    store = Housekept(None)
    await housekeeping_of(store, expire=mode).expire()
    assert store.expired == [mode] * calls, "as long as there is more"


@pytest.mark.parametrize(("days", "calls"), [(365, [31_536_000.0] * 3), (0, [])])
async def test_old_messages_go_as_the_setting_says_and_the_audit_log_says_how_many(
    days: int, calls: list[float]
) -> None:
    store = Housekept(None)
    told: list[dict[str, Any]] = []
    report = Report(Database().store, on_audit=lambda event, payload: told.append({event: payload}))
    settings = Settings(worker_keep_days=days, _env_file=None)  # type: ignore[call-arg]
    await housekeeping_of(store, keep_seconds=settings.keep_seconds, report=report).delete_old()
    assert store.aged == calls, "as long as there is more"
    assert told == ([{"ingest": {"deleted": {"messages": 1500, "refused": 3}}}] if calls else [])


@pytest.mark.parametrize(
    ("mode", "keep_seconds", "removed"),
    [("blank", None, True), ("delete", None, True), (None, 86_400.0, True), (None, None, False)],
)
async def test_files_that_no_message_needs_go_in_a_turn_of_their_own(
    monkeypatch: pytest.MonkeyPatch, mode: ExpireMode | None, keep_seconds: float | None, removed: bool
) -> None:
    monkeypatch.setattr(module, "FIRST_AFTER_SECONDS", 0.0)
    store = Housekept(None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(housekeeping_of(store, expire=mode, keep_seconds=keep_seconds).run)
        await until(
            lambda: {"mark_lost", "prune"} <= store.done and (not removed or "delete_unused_objects" in store.done)
        )
        tasks.cancel_scope.cancel()
    assert ("delete_unused_objects" in store.done) is removed

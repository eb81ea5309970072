"""The poll: leases, flags, groups and media in one call; what a slow, failed or busy one means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import anyio
import pytest

from tests.unit.doubles import BOUND, Database, make_flag, until
from worker.errors import StaleFence, StoreRefused, StoreUnavailable
from worker.media.jobs import MediaRunner
from worker.session.flags import Ask, FlagWatch, Monitored, Request
from worker.session.host_poll import HostPoll, Seat, Served
from worker.session.housekeeping import Housekeeping
from worker.session.report import Report
from worker.store import Flag, Store
from worker.store.availability import PATIENCE_SECONDS, DatabaseWatch
from worker.store.lease import Pace

PACE = Pace(poll=0.005, lease=60.0)


class Media:
    """A runner that takes anything."""

    def __init__(self) -> None:
        self.told = 0

    def takes(self) -> int:
        return 2

    def notify(self) -> None:
        self.told += 1


class Polling:
    """The poll of one session, on a database in memory."""

    def __init__(self, pace: Pace = PACE) -> None:
        self.database = Database(holder="me")
        self.report = Report(self.database.store)
        self.monitored = Monitored()
        self.sent: list[Request] = []
        self.flags = FlagWatch(self.database.store, self.report, self.sent.append, 0.001)
        self.watch = DatabaseWatch(lease_patience=pace.patience)
        self.media = Media()
        self.housekeeping = Housekeeping(self.database.store, self.report, lost_seconds=60.0, changes_seconds=60.0)
        self.served = Served(
            session="default",
            fence=1,
            watch=self.watch,
            monitored=self.monitored,
            flags=self.flags,
            media=cast(MediaRunner, self.media),
            housekeeping=self.housekeeping,
        )
        self.seat = Seat("default", 1)
        self.poll = HostPoll(cast(Store, self.database), "me", pace)

    @contextmanager
    def seated(self) -> Iterator[None]:
        with self.poll.seated(self.seat), self.seat.serving(self.served):
            yield

    async def ask(self) -> None:
        with self.seated():
            await self.poll.ask()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with anyio.fail_after(BOUND), self.seated():
            async with anyio.create_task_group() as tasks:
                for task in (self.poll.run, self.flags.run, self.report.run):
                    tasks.start_soon(task)
                yield
                tasks.cancel_scope.cancel()


async def test_a_flag_is_sent_once_and_marked_when_it_is_done() -> None:
    it = Polling()
    it.database.flags = [make_flag("fetch_groups_requested")]
    async with it.running():
        await until(lambda: len(it.database.polled) >= 3)
        assert [request.ask for request in it.sent] == [Ask.GROUPS]
        assert it.database.handled == [], "not before it is done: a crash must not lose it"
        it.flags.done(it.sent[0])
        await until(lambda: it.database.handled)
    assert it.database.handled == it.database.flags


async def test_a_newer_request_of_the_same_kind_is_sent_as_well() -> None:
    it = Polling()
    for at in ("2026-01-31T12:00:00Z", "2026-01-31T12:00:01Z"):
        it.database.flags = [make_flag("fetch_groups_requested", at)]
        await it.ask()
    assert [request.flag.at_text for request in it.sent] == ["2026-01-31T12:00:00Z", "2026-01-31T12:00:01Z"]


async def test_an_answer_from_before_the_mark_does_not_bring_a_request_back() -> None:
    it = Polling()
    flag = make_flag("wa_disconnect_requested")
    async with it.running():
        it.flags.take([flag], 0.0)
        it.flags.done(it.sent[0])
        await until(lambda: it.database.handled)
        it.flags.take([flag], 0.0)
    assert len(it.sent) == 1, "it logged out twice"


async def test_a_request_is_not_lost_while_its_mark_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Polling()
    tries: list[Flag] = []
    flag_handled = it.database.flag_handled

    async def twice_in_vain(flag: Flag) -> None:
        tries.append(flag)
        if len(tries) == 1:
            raise StoreUnavailable("away")
        if len(tries) == 2:
            raise StoreRefused("no", "XX000")
        await flag_handled(flag)

    monkeypatch.setattr(it.database, "flag_handled", twice_in_vain)
    it.database.flags = [make_flag("fetch_groups_requested")]
    async with it.running():
        await until(lambda: it.sent)
        it.flags.done(it.sent[0])
        await until(lambda: it.database.handled)
    assert len(it.sent) == 1


async def test_a_malformed_flag_is_audited_once_marked_and_stops_nothing() -> None:
    it = Polling()
    it.database.flags = [make_flag("wa_refresh_qr_requested", None), make_flag("fetch_groups_requested")]
    async with it.running():
        await until(lambda: it.database.handled and it.database.events("error") and len(it.database.polled) >= 5)
    assert [request.ask for request in it.sent] == [Ask.GROUPS]
    assert [flag.key for flag in it.database.handled] == ["wa_refresh_qr_requested"]
    assert [entry["code"] for entry in it.database.events("error")] == ["FLAG_MALFORMED"]


async def test_the_poll_goes_on_when_the_database_comes_back() -> None:
    it = Polling()
    it.database.away = True
    async with it.running():
        await until(lambda: it.database.tries >= 3)
        assert it.watch.away
        it.database.monitored = frozenset({"1@g.us"})
        it.database.away = False
        await until(lambda: "1@g.us" in it.monitored)
        assert not it.watch.away


async def test_the_groups_are_asked_for_only_until_they_are_known() -> None:
    it = Polling()
    it.database.monitored = frozenset({"1@g.us"})
    async with it.running():
        await until(lambda: len(it.database.polled) >= 3)
    assert it.database.polled[0].monitored is None
    assert {one.monitored for one in it.database.polled[1:]} == {it.monitored.version}


async def test_due_media_wake_the_runner() -> None:
    it = Polling()
    await it.ask()
    assert it.media.told == 0
    it.database.media_due = True
    await it.ask()
    assert it.media.told == 1


@pytest.mark.parametrize(("holder", "fence"), [("other", 1), ("me", 2), (None, 1)])
async def test_a_lease_that_went_to_another_is_noticed(holder: str | None, fence: int) -> None:
    it = Polling()
    it.database.holder, it.database.fence = holder, fence
    async with it.running():
        with pytest.raises(StaleFence):
            await it.seat.until_lost()


def hangs(database: Database) -> None:
    database.hangs = True


def is_away(database: Database) -> None:
    database.away = True


def is_busy(database: Database) -> None:
    database.busy = True


@pytest.mark.parametrize("trouble", [hangs, is_away, is_busy])
async def test_a_lease_that_cannot_be_renewed_is_told_before_it_runs_out(trouble: Callable[[Database], None]) -> None:
    it = Polling(Pace(poll=0.005, lease=0.3))
    trouble(it.database)
    told = anyio.Event()
    async with it.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(it.watch.run, told.set)
        await told.wait()
        tasks.cancel_scope.cancel()
    assert it.database.tries >= 2, "one answer is not a verdict"


async def test_a_poll_that_is_refused_is_repeated_and_counts_as_silence_only_if_it_stays_so() -> None:
    it = Polling()
    it.database.refused_poll = True
    away: list[bool] = []
    with pytest.raises(StoreRefused):
        await it.ask()
    away.append(it.watch.away)
    async with it.running():
        await until(lambda: it.watch.away)
    it.database.refused_poll = False
    await it.ask()
    assert [*away, it.watch.away] == [False, False], "one refusal is no verdict, and an answer ends it"


@pytest.mark.parametrize("poll", [0.05, 2.0, 10.0, 60.0])
@pytest.mark.parametrize("lease", [2.0, 4.0, 30.0, 60.0, 600.0])
def test_whatever_the_settings_the_socket_ends_before_the_lease_does(poll: float, lease: float) -> None:
    """At an answer two thirds of the lease are left at least; the next poll may be the first of many in vain."""
    pace = Pace(poll=poll, lease=lease)
    assert 0 < pace.patience <= PATIENCE_SECONDS
    assert pace.every + pace.patience <= lease * (2 / 3 - 1 / 11)
    assert 2 * pace.call <= pace.patience, "one that hangs leaves time for another"

"""The poll: leases, flags, groups and media in one call; what a slow, failed or busy one means."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import anyio
import pytest

from testkit.processes import ROOT
from tests.unit.doubles import BOUND, Database, make_flag, until
from worker.errors import StaleFence, StoreRefused, StoreUnavailable
from worker.media.jobs import MediaRunner
from worker.session.flags import FlagWatch, Monitored, Request, RequestKind
from worker.session.host_poll import ClaimHandler, GiveUpReason, HostPoll, PolledSession, ServedParts
from worker.session.housekeeping import Housekeeping, Retention
from worker.session.report import Report
from worker.store import (
    ClaimedSession,
    Flag,
    HeldSession,
    HostPollAnswer,
    SessionRequest,
    SessionUpdate,
    Store,
    StoredSettings,
)
from worker.store.availability import PATIENCE_SECONDS, DatabaseWatch
from worker.store.lease import PollTiming

TIMING = PollTiming(poll=0.005, lease=60.0)


class Media:
    """A runner that takes anything."""

    def __init__(self) -> None:
        self.told = 0

    def acceptable_jobs(self) -> int:
        return 2

    def notify(self) -> None:
        self.told += 1


class Polling:
    """The poll of one session, on a database in memory."""

    def __init__(self, timing: PollTiming = TIMING) -> None:
        self.database = Database(holder="me")
        self.report = Report(self.database.store)
        self.monitored = Monitored()
        self.sent: list[Request] = []
        self.flags = FlagWatch(self.database.store, self.report, self.sent.append, 0.001)
        self.watch = DatabaseWatch(lease_patience=timing.patience)
        self.media = Media()
        self.housekeeping = Housekeeping(self.database.store, self.report, Retention(lost=60.0, changes=60.0))
        self.served = ServedParts(
            session="default",
            fence=1,
            watch=self.watch,
            monitored=self.monitored,
            flags=self.flags,
            media=cast(MediaRunner, self.media),
            housekeeping=self.housekeeping,
        )
        self.polled = PolledSession("default", 1)
        self.poll = HostPoll(cast(Store, self.database), "me", timing)

    @contextmanager
    def registered(self) -> Iterator[None]:
        with self.poll.registered(self.polled), self.polled.serving(self.served):
            yield

    async def ask(self) -> None:
        with self.registered():
            await self.poll.ask()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with anyio.fail_after(BOUND), self.registered():
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
        assert [request.kind for request in it.sent] == [RequestKind.GROUPS]
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
    assert [request.kind for request in it.sent] == [RequestKind.GROUPS]
    assert [flag.key for flag in it.database.handled] == ["wa_refresh_qr_requested"]
    assert [entry["code"] for entry in it.database.events("error")] == ["FLAG_MALFORMED"]


@pytest.mark.parametrize("given", ["[" * 8000 + "]" * 8000, '{"a": ' * 4000 + "1" + "}" * 4000, "9" * 5000, "[]", None])
async def test_a_passkey_s_answer_that_cannot_be_read_is_malformed_and_ends_no_session(given: str | None) -> None:
    it = Polling()
    flag = replace(make_flag("wa_passkey_answered"), given=given)
    async with it.running():
        it.flags.take([flag, make_flag("fetch_groups_requested")], 0.0)
        await until(lambda: it.database.events("error"))
    assert [request.kind for request in it.sent] == [RequestKind.GROUPS]
    assert [entry["code"] for entry in it.database.events("error")] == ["FLAG_MALFORMED"]


def test_the_database_knows_the_same_flags() -> None:
    sql = (ROOT / "supabase" / "schemas" / "flags.sql").read_text()
    names = re.search(r"unnest\(array\[(.*?)\]\)", sql, re.DOTALL)
    assert names is not None
    assert set(re.findall(r"'(\w+)'", names[1])) == {ask.value for ask in RequestKind}


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
            await it.polled.until_lost()


def hangs(database: Database) -> None:
    database.hangs = True


def is_away(database: Database) -> None:
    database.away = True


def is_busy(database: Database) -> None:
    database.busy = True


@pytest.mark.parametrize("trouble", [hangs, is_away, is_busy])
async def test_a_lease_that_cannot_be_renewed_is_told_before_it_runs_out(trouble: Callable[[Database], None]) -> None:
    it = Polling(PollTiming(poll=0.005, lease=0.3))
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
    timing = PollTiming(poll=poll, lease=lease)
    assert 0 < timing.patience <= PATIENCE_SECONDS
    assert timing.interval + timing.patience <= lease * (2 / 3 - 1 / 11)
    assert 2 * timing.call_timeout <= timing.patience, "one that hangs leaves time for another"


# ── several sessions ────────────────────────────────────────────────────────────────────────────────────────────────


class Rows:
    """What `wa_host_poll` says of several sessions; a test writes it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int | None, list[HeldSession]]] = []
        self.answers: list[HostPollAnswer | Exception] = []
        self.held_back: anyio.Event | None = None

    async def host_poll(
        self,
        owner: str,
        capacity: int | None,
        held: Sequence[HeldSession],
        lease_seconds: float | None = None,
        within: float | None = None,
    ) -> HostPollAnswer:
        await anyio.lowlevel.checkpoint()
        self.asked.append((capacity, list(held)))
        if self.held_back is not None:
            await self.held_back.wait()
        answer = self.answers.pop(0) if self.answers else HostPollAnswer(updates={})
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def answer_soon(self) -> None:
        await anyio.wait_all_tasks_blocked()
        assert self.held_back is not None
        self.held_back.set()


class Heard:
    """The callbacks of one session."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.settings: list[StoredSettings] = []

    def on_give_up(self, why: GiveUpReason) -> None:
        self.left.append(why)

    def on_settings(self, settings: StoredSettings) -> None:
        self.settings.append(settings)


def stored(version: str, **values: object) -> StoredSettings:
    return StoredSettings(version=version, values=values)


class Sessions:
    """A poll for the sessions of `names`, all claimed, none served."""

    def __init__(self, *names: str, claims: ClaimHandler | None = None) -> None:
        self.rows = Rows()
        self.poll = HostPoll(cast(Store, self.rows), "me", TIMING, claims)
        self.heard = {name: Heard() for name in names}
        self.sessions = {name: PolledSession(name, 1, self.heard[name], stored("1")) for name in names}

    async def ask(self, *answers: HostPollAnswer | Exception) -> None:
        self.rows.answers = list(answers)
        with ExitStack() as registered:
            for polled in self.sessions.values():
                registered.enter_context(self.poll.registered(polled))
            await self.poll.ask()


async def test_one_call_serves_all_sessions_also_those_that_only_wait() -> None:
    it = Sessions("a", "b", "c")
    await it.ask()
    ((capacity, held),) = it.rows.asked
    assert capacity == 0
    assert [(one.session, one.claimed, one.settings, one.media) for one in held] == [
        ("a", True, "1", 0), ("b", True, "1", 0), ("c", True, "1", 0)
    ]  # fmt: skip


async def test_each_hears_its_own_news_and_no_other() -> None:
    it = Sessions("a", "b", "c", "d")
    updates = {"a": SessionUpdate(stop=True), "b": SessionUpdate(settings=stored("2", revoke="blank"))}
    await it.ask(HostPollAnswer(updates=updates, give_up=frozenset({"c"}), lost=frozenset({"d"})))
    assert {name: heard.left for name, heard in it.heard.items()} == {
        "a": ["unwanted"],
        "b": [],
        "c": ["moves"],
        "d": [],
    }
    assert [told.version for told in it.heard["b"].settings] == ["2"]
    with anyio.fail_after(BOUND), pytest.raises(StaleFence):
        await it.sessions["d"].until_lost()
    await it.ask()
    assert {one.session: one.settings for one in it.rows.asked[-1][1]}["b"] == "2", "or it is told for ever"


async def test_news_that_one_session_cannot_take_end_that_one_alone() -> None:
    it = Sessions("a", "b")
    broken = it.heard["a"]
    broken.on_settings = None  # type: ignore[method-assign,assignment]
    await it.ask(HostPollAnswer(updates={"a": SessionUpdate(settings=stored("2")), "b": SessionUpdate(stop=True)}))
    assert it.heard["b"].left == ["unwanted"]
    with anyio.fail_after(BOUND), pytest.raises(TypeError):
        await it.sessions["a"].until_lost()


async def test_an_answer_that_cannot_be_read_is_no_answer() -> None:
    it = Sessions("a")
    with pytest.raises(StoreUnavailable):
        await it.ask(KeyError("session"))


async def test_a_host_claims_as_many_as_it_has_room_for_and_a_single_session_s_question_claims_none() -> None:
    claimed: list[ClaimedSession] = []
    it = Sessions("a", claims=ClaimHandler(free_slots=lambda: 7, on_claim=claimed.append))
    now = datetime.now(UTC)
    one = ClaimedSession(session="b", fence=3, until=now, now=now, settings=stored("1"))
    await it.ask(HostPollAnswer(updates={}, claimed=[one]))
    await it.poll.ask(it.sessions["a"])
    assert [capacity for capacity, _ in it.rows.asked] == [7, None]
    assert claimed == [one]


async def test_a_session_that_is_claimed_anew_ends_the_seat_that_it_had() -> None:
    claimed: list[ClaimedSession] = []
    it = Sessions("a", "b", claims=ClaimHandler(free_slots=lambda: 7, on_claim=claimed.append))
    now = datetime.now(UTC)
    await it.ask(
        HostPollAnswer(
            updates={}, claimed=[ClaimedSession(session="a", fence=2, until=now, now=now, settings=stored("1"))]
        )
    )
    assert [one.fence for one in claimed] == [2]
    with anyio.fail_after(BOUND), pytest.raises(StaleFence):
        await it.sessions["a"].until_lost()
    with anyio.move_on_after(0) as still:
        await it.sessions["b"].until_lost()
    assert still.cancelled_caught


async def test_a_host_without_sessions_polls_and_another_process_does_not() -> None:
    host = Sessions(claims=ClaimHandler(free_slots=lambda: 1, on_claim=lambda claimed: None))
    other = Sessions()
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.poll.run)
            tasks.start_soon(host.poll.run)
            await until(lambda: len(host.rows.asked) >= 3)
            tasks.cancel_scope.cancel()
    assert other.rows.asked == []


async def test_the_poll_that_is_under_way_is_answered_before_it_rests() -> None:
    claimed: list[ClaimedSession] = []
    it = Sessions(claims=ClaimHandler(free_slots=lambda: 1, on_claim=claimed.append))
    now = datetime.now(UTC)
    it.rows.answers = [
        HostPollAnswer(
            updates={}, claimed=[ClaimedSession(session="b", fence=3, until=now, now=now, settings=stored("1"))]
        )
    ]
    it.rows.held_back = anyio.Event()
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.poll.run)
            await until(lambda: it.rows.asked)
            tasks.start_soon(it.rows.answer_soon)
            async with it.poll.at_rest():
                assert [one.session for one in claimed] == ["b"], "or it waits for its lease to run out"
                tasks.cancel_scope.cancel()
    assert len(it.rows.asked) == 1


async def test_a_session_that_came_back_is_polled_for_when_its_former_tenant_ends() -> None:
    it = Sessions()
    first, second = PolledSession("a", 1), PolledSession("a", 2)
    with ExitStack() as former:
        former.enter_context(it.poll.registered(first))
        with it.poll.registered(second):
            former.close()
            await it.poll.ask()
    assert [one.fence for one in it.rows.asked[0][1]] == [2]


# ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_of_a_row_is_sent_once_and_marked_with_what_became_of_it() -> None:
    it = Polling()
    rows = [
        SessionRequest(id=1, name="fetch_groups", args={}),
        SessionRequest(id=2, name="pairing_code", args={"phone": "+49 (0)151 1234567"}),
        SessionRequest(id=3, name="pairing_code", args={"phone": ["0151"]}),
        SessionRequest(id=4, name="dance", args={}),
    ]
    async with it.running():
        for _ in range(2):
            it.flags.take_requests(rows, 0.0)
        assert [(request.kind, request.phone) for request in it.sent] == [
            (RequestKind.GROUPS, None), (RequestKind.PAIRING_CODE, "491511234567")
        ]  # fmt: skip
        it.flags.done(it.sent[0])
        it.flags.done(it.sent[1], "turned down: no")
        await until(lambda: len(it.database.answered) == 4)
        it.flags.take_requests(rows, 0.0)  # an answer from before the marks
    results = dict(it.database.answered)
    assert (results[1], results[2]) == ("done", "turned down: no")
    assert "country code" in results[3]
    assert "there is no request dance" in results[4]
    assert len(it.sent) == 2

"""Calls of one sort hold up none of another, and a wait for one's turn is not the database's silence."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import pytest

from tests.unit.doubles import BOUND, until
from worker.errors import StoreUnavailable, TooSlow
from worker.session.host_poll import HostPoll, PolledSession
from worker.store import Batch, HeldSession, Store
from worker.store.availability import DatabaseWatch
from worker.store.client import Timeouts
from worker.store.lanes import LANE_CONNECTIONS, SHARE, Lanes
from worker.store.lease import PollTiming

ANSWER = {"seq": "1", "duplicate": False}


@dataclass
class Answer:
    data: Any


@dataclass
class Calls:
    """A database in which some calls hang until they are let go: reads, unless a test says others."""

    hanging: tuple[str, ...] = ("wa_get_keys",)
    go: anyio.Event = field(default_factory=anyio.Event)
    sent: list[str] = field(default_factory=list)

    deadlines: list[float] = field(default_factory=list)

    def rpc(self, function: str, args: dict[str, Any]) -> Call:
        """The call; a poll for single sessions has a name of its own here."""
        return Call(self, "single poll" if args.get("p_capacity", 0) is None else function)


@dataclass
class Call:
    calls: Calls
    function: str

    async def execute(self) -> Answer:
        self.calls.sent.append(self.function)
        self.calls.deadlines.append(anyio.current_effective_deadline())
        if self.function in self.calls.hanging:
            await self.calls.go.wait()
        if self.function in ("wa_host_poll", "single poll"):
            return Answer({"alive": 2, "busy": ["held"]})
        return Answer({"values": {}, **ANSWER})


def make_store(calls: Calls, seconds: float) -> Store:
    client = cast(Any, calls)
    return Store(client, client, Timeouts(call=seconds))


async def test_reads_that_hang_hold_up_no_commit_and_no_poll() -> None:
    calls = Calls()
    store = make_store(calls, 60.0)
    async with anyio.create_task_group() as reads:
        for n in range(50):
            reads.start_soon(store.get_keys, "s", "session", [str(n)])
        with anyio.fail_after(30):
            while len(calls.sent) < LANE_CONNECTIONS:
                await anyio.lowlevel.checkpoint()
            await store.commit("s", Batch(fence=1, epoch=1, seq=1))
            await store.commit_part("s", Batch(fence=1, epoch=1, seq=1))
        assert calls.sent.count("wa_get_keys") == LANE_CONNECTIONS
        reads.cancel_scope.cancel()


async def test_a_session_whose_calls_hang_holds_up_no_other_session_of_a_host() -> None:
    calls = Calls()
    client = cast(Any, calls)
    store = Store(client, client, Timeouts(call=60.0), Lanes(50))
    async with anyio.create_task_group() as reads:
        for n in range(50):
            reads.start_soon(store.get_keys, "noisy", "session", [str(n)])
        await anyio.wait_all_tasks_blocked()
        assert calls.sent.count("wa_get_keys") == SHARE
        with anyio.fail_after(30):
            for n in range(SHARE):
                reads.start_soon(store.get_keys, "quiet", "session", [str(n)])
            while calls.sent.count("wa_get_keys") < 2 * SHARE:
                await anyio.lowlevel.checkpoint()
        reads.cancel_scope.cancel()
    await store.commit("noisy", Batch(fence=1, epoch=1, seq=1))


async def test_a_commit_that_is_held_delays_no_other_session_s_lease() -> None:
    """One poll is for both: the row of the one is locked by its commit, the other's lease goes on."""
    calls = Calls(hanging=("wa_commit",))
    client = cast(Any, calls)
    store = Store(client, client, Timeouts(call=60.0), Lanes(50))
    poll = HostPoll(store, "me", PollTiming(poll=0.005, lease=60.0))
    watches = {name: DatabaseWatch() for name in ("held", "quiet")}
    async with anyio.create_task_group() as tasks:
        with ExitStack() as registered:
            for name, watch in watches.items():
                polled = PolledSession(name, 1)
                registered.enter_context(poll.registered(polled))
                registered.enter_context(polled.serving(cast(Any, Parts(watch))))
            for n in range(20):
                tasks.start_soon(store.commit, "held", Batch(fence=1, epoch=1, seq=n))
            tasks.start_soon(poll.run)
            await until(lambda: calls.sent.count("wa_host_poll") >= 5)
            tasks.cancel_scope.cancel()
    assert {name: watch.away for name, watch in watches.items()} == {"held": True, "quiet": False}
    assert calls.sent.count("wa_commit") == SHARE, "the others' turns are not taken"


async def test_neither_what_else_is_asked_nor_sessions_that_start_hold_up_the_poll_for_all() -> None:
    calls = Calls(hanging=("wa_set_session", "single poll"))
    client = cast(Any, calls)
    store = Store(client, client, Timeouts(call=60.0), Lanes())
    poll = HostPoll(store, "me", PollTiming(poll=0.005, lease=600.0))
    with anyio.fail_after(BOUND), poll.registered(PolledSession("a", 1)):
        async with anyio.create_task_group() as tasks:
            for n in range(3 * LANE_CONNECTIONS):
                tasks.start_soon(store.set_session, f"s{n}", 1, {})
                tasks.start_soon(poll.ask, PolledSession(f"s{n}", 1))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(poll.run)
            await until(lambda: calls.sent.count("wa_host_poll") >= 3)
            tasks.cancel_scope.cancel()
    assert calls.sent.count("single poll") == LANE_CONNECTIONS - 1


class Watched(Lanes):
    """Lanes that note the deadline of those that wait for their turn."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: list[float] = []

    @asynccontextmanager
    async def turn(self, function: str, session: str | None = None) -> AsyncIterator[None]:
        self.deadlines.append(anyio.current_effective_deadline())
        async with super().turn(function, session):
            yield


async def test_a_poll_s_time_begins_when_it_is_sent() -> None:
    calls, lanes, timing = Calls(), Watched(), PollTiming(poll=0.005, lease=60.0)
    client = cast(Any, calls)
    poll = HostPoll(Store(client, client, Timeouts(call=60.0), lanes), "me", timing)
    await poll.ask(PolledSession("a", 1))
    assert lanes.deadlines == [math.inf], "our own queue is not the database's silence"
    assert calls.deadlines[0] <= anyio.current_time() + timing.call_timeout


@dataclass
class Parts:
    """A served session, as far as the poll looks."""

    watch: DatabaseWatch

    def held(self) -> HeldSession:
        return HeldSession(session="any", fence=1, monitored=1, media=0)


async def test_the_time_of_a_call_begins_when_it_is_sent() -> None:
    calls = Calls()
    store = make_store(calls, 0.2)
    watch = DatabaseWatch()
    errors: list[TooSlow] = []

    async def read() -> None:
        try:
            await watch.observe("state", store.get_keys("s", "session", ["k"]))
        except TooSlow as error:
            errors.append(error)

    async with anyio.create_task_group() as reads:
        for _ in range(2 * LANE_CONNECTIONS):
            reads.start_soon(read)
    assert len(errors) == 2 * LANE_CONNECTIONS
    first, last = errors[0].sent_at, errors[-1].sent_at
    assert first is not None
    assert last is not None
    assert last - first >= 0.19


async def test_an_outage_is_counted_from_the_sending() -> None:
    now = 100.0

    async def fails() -> None:
        nonlocal now
        now += 30.0  # in our own queue
        error = StoreUnavailable("away")
        error.sent_at = now - 1.0
        raise error

    watch = DatabaseWatch(patience=20.0, clock=lambda: now)
    with pytest.raises(StoreUnavailable):
        await watch.observe("commit", fails())
    assert (watch.away, watch.gone) == (True, False)

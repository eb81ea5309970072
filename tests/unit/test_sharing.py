"""What many sessions of one process share: limiter to log in, slots for files, the request to stop."""

from __future__ import annotations

import anyio

from tests.unit.doubles import BOUND
from worker.media.slots import Slots
from worker.session.rate_limit import OncePerProcess, RateLimiter
from worker.stop import Stop


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.now += seconds


def make_limiter(clock: Clock) -> RateLimiter:
    return RateLimiter(1.0, clock=clock, sleep=clock.sleep, draw=lambda: 0.25)


async def test_logins_are_a_second_apart_with_jitter_and_the_first_waits_for_nothing() -> None:
    clock = Clock()
    limiter, at = make_limiter(clock), list[float]()

    async def log_in() -> None:
        await limiter.wait()
        at.append(clock.now)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(log_in)
    assert at == [0.0, 1.25, 2.5, 3.75]
    clock.now += 60
    await log_in()
    assert at[-1] == 63.75, "nothing is saved up, and nothing is owed"


async def test_who_gives_up_waiting_leaves_no_gap_for_the_others() -> None:
    clock = Clock()
    limiter = make_limiter(clock)
    await limiter.wait()
    for _ in range(50):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await limiter.wait()
    await limiter.wait()
    assert clock.now == 1.25


def test_a_burst_of_one_session_leaves_slots_for_the_first_files_of_others() -> None:
    slots = Slots(16)
    noisy = 0
    while room := slots.room(noisy):
        slots.take(room)
        noisy += room
    assert noisy == 8
    others = 0
    while slots.room(0):
        slots.take(1)
        others += 1
    assert others == 8, "one each"


def test_a_slot_that_is_free_again_is_told_to_the_one_that_waits_longest_and_once() -> None:
    slots, told = Slots(2), list[str]()
    slots.take(2)
    first, second = lambda: told.append("first"), lambda: told.append("second")
    for tell in (first, second, first):
        slots.tell_later(tell)
    slots.give(1)
    assert told == ["first"]
    slots.forget(second)
    slots.give(1)
    assert told == ["first"]


async def test_a_stop_of_the_process_stops_its_sessions_and_a_session_s_stop_only_itself() -> None:
    whole = Stop()
    one, other = Stop(whole), Stop(whole)
    inner = Stop(one)
    with anyio.fail_after(BOUND):
        one.ask()
        await inner.wait()
        assert (inner.asked, other.asked, whole.asked) == (True, False, False)
        with other.interrupts() as scope:
            whole.ask()
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with Stop(whole).interrupts():
            await anyio.sleep_forever()  # a part of what has stopped has stopped


def test_what_one_session_does_for_all_is_done_once() -> None:
    clock = Clock()
    once = OncePerProcess(clock)
    assert [once.claim_task("objects", 3600.0) for _ in range(50)] == [True, *[False] * 49]
    assert once.claim_task("analyze", 3600.0)
    clock.now += 3599.0
    assert once.claim_task("objects", 3600.0), "the next turn of whoever does it may come a moment early"

"""One account is loud, in three ways; measured is how long the messages of the quiet ones take.

From the moment when the virtual phone has written the message to the socket until the receipt, which leaves when the
message is in the database.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any

import anyio

from testkit.phone import Media, PhoneError, Sent
from testkit.processes import ROOT
from tests.chaos.proxy import Rule
from tests.fleet.account import WRITERS, Account
from worker.session.backoff import LOOP_AFTER
from worker.session.commit_times import quantile

if TYPE_CHECKING:
    from tests.fleet.run import Fleet

LOUD_SECONDS = 30.0
QUIET_A_SECOND = 10.0  # over all quiet accounts: 300 messages, so that a 99th percentile is one
QUIET_SECONDS = 2.0  # the bound of the 99th percentile
BURST = 1000  # messages at once; the next ones when these are in
FILES = 20  # in each burst
SLOW_SECONDS = 4.0
CRASHES = LOOP_AFTER - 2  # with some more, the worker would wait five minutes for a person
PICTURE = (ROOT / "seeds" / "media" / "oranges.jpg").read_bytes()

Loud = Callable[["Fleet", Account], Coroutine[Any, Any, None]]


async def beside(it: Fleet, what: str, loud: Loud) -> None:
    """One account is loud for a while; the others' times, first without it."""
    account = it.random.choice(it.accounts)
    calm = await quiet_times(it, account, None)
    noisy = await quiet_times(it, account, loud)
    it.say(f"{what}: a quiet one's message takes {_told(noisy)}; before, {_told(calm)}")
    slowest = quantile(noisy, 99)
    if slowest > QUIET_SECONDS:
        it.violations.append(
            ("fair", f"{what}: {slowest:.1f} s at the 99th percentile, {QUIET_SECONDS:.0f} is the bound")
        )


def _told(seconds: list[float]) -> str:
    p50, p99 = quantile(seconds, 50), quantile(seconds, 99)
    return f"{p50 * 1000:.0f} ms (p50), {p99 * 1000:.0f} (p99 of {len(seconds)}), {seconds[-1] * 1000:.0f} at most"


async def quiet_times(it: Fleet, account: Account, loud: Loud | None) -> list[float]:
    """The times of the others' messages while `account` is loud, in order. One that is missing: until now."""
    quiet = [one for one in it.accounts if one is not account]
    sent: list[tuple[Account, Sent]] = []
    async with anyio.create_task_group() as tasks:
        if loud is not None:
            tasks.start_soon(loud, it, account)
        ends = time.monotonic() + LOUD_SECONDS
        while time.monotonic() < ends:
            one = it.random.choice(quiet)
            sent.append((one, await one.say(it.random.choice(WRITERS), f"quiet {len(sent)}")))
            await anyio.sleep(it.random.expovariate(QUIET_A_SECOND))
        seconds = sorted(await _took(it, sent))
        tasks.cancel_scope.cancel()
    return seconds


async def _took(it: Fleet, sent: list[tuple[Account, Sent]]) -> list[float]:
    found: list[float] = []
    for account in {id(one): one for one, _ in sent}.values():
        mine = {message.id: message for one, message in sent if one is account}
        try:
            receipts: list[dict[str, Any]] = await account.phone.wait_receipts(mine, seconds=it.options.patience)
        except PhoneError:
            receipts = [one for one in await account.phone.receipts() if one["kind"] == "receipt"]
        first: dict[str, float] = {}
        for receipt in receipts:
            first.setdefault(receipt["id"], float(receipt["at_ms"]))
        late = time.time() * 1000
        found += [(first.get(name, late) - message.sent_at_ms) / 1000 for name, message in mine.items()]
    return found


# Ways to be loud, until cancelled. What was begun is sent, so that the ledger has it.


async def bursts(it: Fleet, account: Account) -> None:
    random = Random(f"{it.options.seed}:{account.session}:loud")  # noqa: S311 - repeatable on purpose
    number = 0
    while True:
        number += 1
        with anyio.CancelScope(shield=True):
            ids = await account.burst(BURST, f"{account.session} loud {number}")
            for _ in range(FILES):
                data = PICTURE + b"\n% " + random.randbytes(16).hex().encode()
                media = Media(kind="image", data=data, mime="image/jpeg", width=900, height=675)
                await account.say(random.choice(WRITERS), "", media)
        with contextlib.suppress(PhoneError):
            await account.phone.wait_receipts(ids, seconds=LOUD_SECONDS)


async def slow_bursts(it: Fleet, account: Account) -> None:
    rule = Rule(kind="late", function="wa_commit", seconds=SLOW_SECONDS, mark=account.session.encode())
    it.proxy.arm(rule)
    try:
        await bursts(it, account)
    finally:
        rule.exhausted = True


async def crashes(it: Fleet, account: Account) -> None:
    host = await it.holder(account)
    killed, times = None, 0
    while times < CRASHES:
        answer = await host.get("/readyz")
        session = (answer.json()["sessions"] if answer is not None else {}).get(account.session, {})
        pid = session.get("sidecar", {}).get("pid")
        if pid is not None and pid != killed:
            os.kill(pid, signal.SIGKILL)
            killed, times = pid, times + 1
        await anyio.sleep(0.2)

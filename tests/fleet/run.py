"""One run: hosts, N accounts of the virtual phone, traffic, and the steps of steps.py one after the other.

Bounded and seeded. What must hold: for each account, that what was receipted is stored, exactly once and as it was
sent; for each session, one holder at a time, and nobody writes for it under an earlier fence; all served again within a
minute of whatever happened; shared evenly within a minute; quiet accounts not delayed by a loud one. Exactly once over
kills of all parts at all moments is `make chaos`, for one account.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import anyio

from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.processes import ROOT
from testkit.waiting import TookTooLong, until
from testkit.worker import Worker
from tests.chaos.checks import MB, Violation
from tests.chaos.ledger import Ledger
from tests.fleet import steps
from tests.fleet.account import SETTLED_SECONDS, WRITERS, Account
from tests.fleet.sabotage import migrations
from tests.fleet.witness import Served, WatchingProxy, cost, process_of, stale_writes, two_holders

ACCOUNTS_MAX = 50
AT_ONCE = 4  # links; a QR code lives for a while, and two cores do what they can
SERVED_SECONDS = 60.0  # the promise: nobody is down for longer
BALANCED_SECONDS = 60.0
PATIENCE_SECONDS = 180.0  # after that the run gives up; what took longer than promised is a violation all the same
MEASURED_SECONDS = 30.0
SETTINGS = {"WORKER_POLL_MS": "2000", "WORKER_LEASE_S": "30", "WORKER_CATCH_UP_S": "86400", "LOG_LEVEL": "info"}

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run does.

    Attributes:
        rate: messages a second, over all accounts.
        steps: names of functions in steps.py, in order.
        judges_times: whether what takes longer than promised is a violation; else only what does not come at all.
        patience: for how long a run waits before it says that something does not come.
        settings: of the hosts, instead of SETTINGS.
        sabotage: what is broken (sabotage.py).
    """

    accounts: int
    seed: int
    rate: float
    hosts: int = 3
    steps: tuple[str, ...] = steps.ALL
    measured_seconds: float = MEASURED_SECONDS
    judges_times: bool = True
    patience: float = PATIENCE_SECONDS
    settled_seconds: float = SETTLED_SECONDS
    settings: Mapping[str, str] = field(default_factory=dict)
    sabotage: str = ""


@dataclass
class Fleet:
    """The hosts, and what is done to them."""

    options: Options
    folder: Path
    supabase: EmbeddedSupabase
    proxy: WatchingProxy
    phone: VirtualPhone
    accounts: list[Account]
    random: Random
    say: Say
    hosts: list[Worker] = field(default_factory=list)
    started: list[Worker] = field(default_factory=list)  # also those that are dead, paused or drained
    paused: set[int] = field(default_factory=set)
    violations: list[Violation] = field(default_factory=list)
    number: int = 0

    def runs(self, pid: int) -> bool:
        return pid not in self.paused and any(host.child.pid == pid and host.child.running for host in self.hosts)

    def pids(self) -> list[int]:
        return [host.child.pid for host in self.hosts]

    async def start(self) -> Worker:
        self.number += 1
        name = f"host-{self.number}"
        settings = {
            **SETTINGS, **self.options.settings, "SUPABASE_URL": self.proxy.url,
            "SUPABASE_SERVICE_KEY": self.supabase.service_key, "FLEET_SABOTAGE": self.options.sabotage,
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        worker = Worker.start(
            self.folder / name,
            phone=self.phone,
            settings=settings,
            name=name,
            command="host",
            arguments=["--capacity", str(ACCOUNTS_MAX)],
            module="tests.fleet.entry",
        )
        self.hosts.append(worker)
        self.started.append(worker)
        await worker.ready()
        return worker

    def pick(self) -> Worker:
        return self.random.choice(self.hosts)

    async def holder(self, account: Account) -> Worker:
        """The host that serves this account now."""
        row = await account.database.session_row() or {}
        pid = process_of(row["lease_owner"])
        (found,) = (host for host in self.hosts if host.child.pid == pid)
        return found

    async def stop_all(self) -> None:
        running = [host for host in self.started if host.child.running]
        for host in running:
            os.kill(host.child.pid, signal.SIGCONT)
        async with anyio.create_task_group() as tasks:
            for host in running:
                tasks.start_soon(host.child.stop)

    async def until_served(self, what: str, served: Served, balanced: bool = False) -> None:
        """Wait until all are served (and shared), and note how long that took."""
        begun = time.monotonic()
        most = math.ceil(len(self.accounts) / len(self.hosts))

        async def probe() -> bool:
            every = await served.look()
            shares = [sum(n for owner, n in served.owners.items() if f":{pid}:" in owner) for pid in self.pids()]
            return every and (not balanced or (max(shares) <= most and sum(shares) == len(self.accounts)))

        bound = BALANCED_SECONDS if balanced else SERVED_SECONDS
        name = "balanced" if balanced else "served"
        try:
            await until(f"{what}: {name}", probe, seconds=self.options.patience, every=0.5)
        except TookTooLong as late:
            self.violations.append((name, str(late)))
        took = time.monotonic() - begun
        shares = ", ".join(f"{process_of(owner)}: {n}" for owner, n in served.owners.items())
        self.say(f"{what}: {name} after {took:.0f} s (sessions by process {shares})")
        if took > bound and self.options.judges_times:
            self.violations.append((name, f"{what}: {took:.0f} s, {bound:.0f} s is the bound"))

    async def measure(self, what: str) -> None:
        if not self.options.measured_seconds:
            return
        before, calls, begun = cost(self.pids()), self.proxy.calls.copy(), time.monotonic()
        await anyio.sleep(self.options.measured_seconds)
        after, seconds = cost(self.pids()), time.monotonic() - begun
        asked = self.proxy.calls - calls
        number = len(self.accounts)
        total = (after.host_bytes + after.sidecar_bytes) / MB
        most = ", ".join(f"{name.rpartition('/')[2]} {n / seconds:.2f}" for name, n in asked.most_common(4))
        self.say(
            f"{what}: {total:.0f} MB (PSS), {total / number:.0f} an account: {len(self.hosts)} hosts "
            f"{after.host_bytes / MB:.0f}, {after.sidecars} sidecars {after.sidecar_bytes / MB:.0f}; "
            f"{(after.cpu - before.cpu) / seconds * 100:.1f} % of a core; "
            f"{asked.total() / seconds:.2f} requests a second ({most})"
        )


async def fleet(options: Options, folder: Path, say: Say) -> list[Violation]:
    """Every violation, as (check, what was found)."""
    async with opened(options, folder, say) as it:
        served = Served(it.accounts[0].database, it.runs)
        try:
            for _ in range(options.hosts):
                await it.start()
            await link(it)
            await it.until_served("linked", served)
            served.begin()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(served.run)
                await it.measure("at rest")
                talking = anyio.CancelScope()
                tasks.start_soon(talk, it, options.rate, talking)
                await it.measure(f"{options.rate:g} messages a second")
                for step in options.steps:
                    await getattr(steps, step)(it, served)
                talking.cancel()
                for account in it.accounts:
                    it.violations += await account.check(options.settled_seconds)
                tasks.cancel_scope.cancel()
            await judge(it, served)
        finally:
            with anyio.CancelScope(shield=True):
                await it.stop_all()
        return it.violations


async def judge(it: Fleet, served: Served) -> None:
    """What the witnesses have to say."""
    leases = await it.accounts[0].database.rows("fleet_leases", order="id")
    it.violations += [("holders", text) for text in two_holders(leases)]
    it.violations += [("fence", text) for text in stale_writes(leases, it.proxy.writes)]
    sent = sum(len(account.ledger.entries) for account in it.accounts)
    it.say(
        f"{sent} messages; {len(leases)} changes of leases and {len(it.proxy.writes)} writes under a fence, "
        "none with two holders or a stale fence unless it is said"
    )
    down = sorted(served.longest[account.session] for account in it.accounts)
    it.say(f"longest time without service of each account, in seconds: {', '.join(f'{each:.0f}' for each in down)}")
    if it.options.judges_times:
        it.violations += [
            ("down", f"{session} was down for {seconds:.0f} s")
            for session, seconds in served.longest.items()
            if seconds > SERVED_SECONDS
        ]


@asynccontextmanager
async def opened(options: Options, folder: Path, say: Say) -> AsyncIterator[Fleet]:
    """Everything but the hosts."""
    random = Random(f"{options.seed}:fleet")  # noqa: S311 - repeatable on purpose
    async with (
        await EmbeddedSupabase.start(folder / "supabase", migrations(options.sabotage, folder)) as supabase,
        await VirtualPhone.start(folder) as first,
        WatchingProxy(supabase.url, options.seed) as proxy,
        AsyncExitStack() as stack,
    ):
        accounts = []
        for number in range(options.accounts):
            phone = first if number == 0 else await first.another(f"Owner {number}")
            database = await Database.connect(supabase.url, supabase.service_key, f"account-{number:02}")
            await stack.enter_async_context(database)
            ledger = Ledger()
            for name in WRITERS:
                ledger.know(await phone.person(name))
            group = await phone.group(f"Group {number}", WRITERS, "lid")
            ledger.groups[group.id] = group
            ledger.monitored.add(group.id)
            await database.client.table("wa_sessions").insert({"id": database.session, "wanted": True}).execute()
            accounts.append(Account(phone=phone, database=database, group=group, ledger=ledger))
        yield Fleet(options, folder, supabase, proxy, first, accounts, random, say)


async def link(it: Fleet) -> None:
    begun = time.monotonic()
    turns = anyio.Semaphore(AT_ONCE)

    async def one(account: Account) -> None:
        async with turns:
            await account.link()

    async with anyio.create_task_group() as tasks:
        for account in it.accounts:
            tasks.start_soon(one, account)
    it.say(f"{len(it.accounts)} accounts linked after {time.monotonic() - begun:.0f} s")


async def talk(it: Fleet, rate: float, scope: anyio.CancelScope) -> None:
    """Send until cancelled; what was begun is sent, so that the ledger has it."""
    number = 0
    with scope:
        while True:
            number += 1
            account, writer = it.random.choice(it.accounts), it.random.choice(WRITERS)
            with anyio.CancelScope(shield=True):
                await account.say(writer, f"{account.session} {number}")
            await anyio.sleep(it.random.expovariate(rate))

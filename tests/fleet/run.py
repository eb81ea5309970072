"""One run: three hosts, N accounts of the virtual phone, traffic; a host killed, one paused, one added, one drained.

Bounded and seeded. What must hold: for each account, that what was receipted is stored, exactly once and as it was
sent; for each session, one holder at a time; all served again within a minute of whatever happened; shared evenly
within a minute. Exactly once over kills of all parts at all moments is `make chaos`, for one account.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import anyio

from bench.report import quantile
from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.phone import Group, PhoneError, Sent, VirtualPhone
from testkit.waiting import TookTooLong, until
from testkit.worker import Worker
from tests.chaos import checks
from tests.chaos.checks import MB, Evidence, Violation
from tests.chaos.ledger import Entry, Ledger
from tests.chaos.proxy import FaultProxy
from tests.fleet.sabotage import SABOTAGES
from tests.fleet.witness import Served, cost, migrations, two_holders

ACCOUNTS_MAX = 40
HOSTS = 3
WRITERS = ("Ana", "Ben")
LINKED_SECONDS = 240.0
AT_ONCE = 4  # links; a QR code lives for a while, and two cores do what they can
SERVED_SECONDS = 60.0  # the promise: nobody is down for longer
BALANCED_SECONDS = 60.0
PATIENCE_SECONDS = 180.0  # after that the run gives up; what took longer than promised is a violation all the same
MEASURED_SECONDS = 30.0
SETTLED_SECONDS = 120.0
BURST = 500  # messages to one account, again and again while the others are measured
FAIR_MS = 2000.0  # 99 in 100 messages to quiet accounts are receipted sooner, whatever one account is sent
SETTINGS = {"WORKER_POLL_MS": "2000", "WORKER_LEASE_S": "30", "WORKER_CATCH_UP_S": "86400", "LOG_LEVEL": "info"}

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    accounts: int
    seed: int
    rate: float  # messages a second, over all accounts
    sabotage: str | None = None


@dataclass(kw_only=True)
class Account:
    phone: VirtualPhone
    database: Database
    group: Group
    ledger: Ledger
    flood: Group  # monitored, too; not in the ledger

    @property
    def session(self) -> str:
        return self.database.session

    async def link(self) -> None:
        await self.phone.scan(await self.database.wait_qr(seconds=LINKED_SECONDS))
        await self.database.wait_status("connected", seconds=LINKED_SECONDS)
        groups = [self.group.id, self.flood.id]
        await self.database.wait_groups(groups, seconds=LINKED_SECONDS)
        await self.database.monitor(groups)
        await self.database.fetch_groups(seconds=LINKED_SECONDS)

    async def say(self, writer: str, text: str) -> Sent:
        begun = time.time()
        sent = await self.phone.send(writer, self.group.id, text)
        entry = Entry(
            id=sent.id, person=writer, chat=self.group.id, text=text, monitored=True, kind="text", phase="wide",
            sent=(begun, time.time()),
        )  # fmt: skip
        self.ledger.add(entry)
        return sent

    async def check(self) -> list[Violation]:
        """The promise, for this account."""
        unsettled = []
        ids = [entry.id for entry in self.ledger.entries]
        try:
            await self.phone.wait_receipts(ids, seconds=SETTLED_SECONDS)
        except PhoneError as late:
            unsettled.append(str(late))
        evidence = Evidence(
            ledger=self.ledger,
            receipts=await self.phone.receipts(),
            messages=await self.database.messages(),
            others={"wa_refused_stanzas": await self.database.rows("wa_refused_stanzas", session_id=self.session)},
            unsettled=unsettled,
            media=[], objects={}, discards={}, commits=[], known=[], leases=[], leaks=[], leaked_files=[],
            peak_bytes={}, coverage={}, unmarked=[],
        )  # fmt: skip
        found = [
            (check.__name__, f"{self.session}: {text}")
            for check in (checks.settled, checks.stored, checks.once, checks.intact, checks.readable)
            for text in check(evidence)
        ]
        missing = len(set(evidence.ledger.stored(["wide"])) - set(evidence.rows()))
        return found + ([("stored", f"{self.session}: {missing} messages are missing")] if missing else [])


@dataclass
class Fleet:
    """The hosts, and what is done to them."""

    folder: Path
    supabase: EmbeddedSupabase
    proxy: FaultProxy
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
        settings = {**SETTINGS, "SUPABASE_URL": self.proxy.url, "SUPABASE_SERVICE_KEY": self.supabase.service_key}
        arguments = ["--capacity", str(ACCOUNTS_MAX)]
        worker = Worker.start(
            self.folder / name, phone=self.phone, settings=settings, name=name, command="host", arguments=arguments
        )
        self.hosts.append(worker)
        self.started.append(worker)
        await worker.ready()
        return worker

    def pick(self) -> Worker:
        return self.random.choice(self.hosts)

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
            await until(f"{what}: {name}", probe, seconds=PATIENCE_SECONDS, every=0.5)
        except TookTooLong as late:
            self.violations.append((name, str(late)))
        took = time.monotonic() - begun
        shares = ", ".join(f"{owner.rsplit(':', 1)[0].rpartition(':')[2]}: {n}" for owner, n in served.owners.items())
        self.say(f"{what}: {name} after {took:.0f} s (sessions by process {shares})")
        if took > bound:
            self.violations.append((name, f"{what}: {took:.0f} s, {bound:.0f} s is the bound"))

    async def measure(self, what: str) -> None:
        before, calls, begun = cost(self.pids()), self.proxy.calls.copy(), time.monotonic()
        await anyio.sleep(MEASURED_SECONDS)
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
            for _ in range(HOSTS):
                await it.start()
            await link(it)
            await it.until_served("linked", served)
            served.begin()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(served.run)
                await it.measure("at rest")
                await fair(it, options.rate)
                talking = anyio.CancelScope()
                tasks.start_soon(talk, it, options.rate, talking)
                await it.measure(f"{options.rate:g} messages a second")
                await killed(it, served)
                await paused(it, served)
                await added(it, served)
                await drained(it, served)
                talking.cancel()
                for account in it.accounts:
                    it.violations += await account.check()
                tasks.cancel_scope.cancel()
            leases = await it.accounts[0].database.rows("fleet_leases", order="id")
            it.violations += [("holders", text) for text in two_holders(leases)]
            sent = sum(len(account.ledger.entries) for account in it.accounts)
            say(f"{sent} messages; {len(leases)} changes of leases, none with two holders unless it is said")
            down = sorted(served.longest[account.session] for account in it.accounts)
            say(
                f"longest time without service of each account, in seconds: {', '.join(f'{each:.0f}' for each in down)}"
            )
            it.violations += [
                ("down", f"{session} was down for {seconds:.0f} s")
                for session, seconds in served.longest.items()
                if seconds > SERVED_SECONDS
            ]
        finally:
            with anyio.CancelScope(shield=True):
                await it.stop_all()
        return it.violations


@asynccontextmanager
async def opened(options: Options, folder: Path, say: Say) -> AsyncIterator[Fleet]:
    """Everything but the hosts."""
    random = Random(f"{options.seed}:fleet")  # noqa: S311 - repeatable on purpose
    sabotage = SABOTAGES[options.sabotage].sql() if options.sabotage else ""
    async with (
        await EmbeddedSupabase.start(folder / "supabase", migrations(folder, sabotage)) as supabase,
        await VirtualPhone.start(folder) as first,
        FaultProxy(supabase.url, options.seed) as proxy,
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
            flood = await phone.group(f"Flood {number}", WRITERS, "lid")
            accounts.append(Account(phone=phone, database=database, group=group, ledger=ledger, flood=flood))
        yield Fleet(folder, supabase, proxy, first, accounts, random, say)


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


async def fair(it: Fleet, rate: float) -> None:
    """How long messages to quiet accounts wait for their receipts, without and beside a flood to one account."""
    loud, *quiet = it.accounts
    p50, p99 = await waits(it, quiet, rate)
    it.say(f"quiet accounts: receipts after {p50:.0f} ms (median), {p99:.0f} ms (99th percentile)")
    count = 0

    async def flood() -> None:
        nonlocal count
        while True:
            with anyio.CancelScope(shield=True):
                sent = await loud.phone.burst(WRITERS, [loud.flood.id], BURST, text_prefix=f"flood {count}")
                await loud.phone.wait_receipts(sent["ids"], seconds=SETTLED_SECONDS)
                count += BURST
            await anyio.lowlevel.checkpoint()

    begun = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flood)
        p50, p99 = await waits(it, quiet, rate)
        tasks.cancel_scope.cancel()
    it.say(
        f"beside one with {count / (time.monotonic() - begun):.0f} messages a second: {p50:.0f} ms (median), "
        f"{p99:.0f} ms (99th percentile)"
    )
    if p99 > FAIR_MS:
        it.violations.append(("fair", f"{p99:.0f} ms at the 99th percentile, {FAIR_MS:.0f} ms is the bound"))
    stored = len(await loud.database.rows("messages", order="id", chat_id=loud.flood.id))
    if stored != count:
        it.violations.append(
            ("stored", f"{loud.session}: {count} messages of the flood were receipted, {stored} stored")
        )


async def waits(it: Fleet, accounts: Sequence[Account], rate: float) -> tuple[float, float]:
    """Milliseconds from the server's socket to the receipt: the median and the 99th percentile."""
    sent: dict[str, list[Sent]] = {account.session: [] for account in accounts}
    begun = time.monotonic()
    for number in range(round(MEASURED_SECONDS * rate)):
        await anyio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        account = accounts[number % len(accounts)]
        sent[account.session].append(await account.say(WRITERS[0], f"{account.session} quiet {begun} {number}"))
    took = []
    for account in accounts:
        ids = [message.id for message in sent[account.session]]
        receipts = await account.phone.wait_receipts(ids, seconds=SETTLED_SECONDS)
        at = {receipt["id"]: receipt["at_ms"] for receipt in receipts}
        took += [at[message.id] - message.sent_at_ms for message in sent[account.session]]
    return quantile(sorted(took), 50), quantile(sorted(took), 99)


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


async def killed(it: Fleet, served: Served) -> None:
    """Power fails; the operator's supervisor starts the host again."""
    host = it.pick()
    it.hosts.remove(host)
    host.child.kill()
    await it.until_served("a host is killed", served)
    await it.start()
    await it.until_served("it is started again", served, balanced=True)


async def paused(it: Fleet, served: Served) -> None:
    """A host stands still for longer than its leases, and goes on as if nothing had been."""
    host = it.pick()
    it.paused.add(host.child.pid)
    os.kill(host.child.pid, signal.SIGSTOP)
    it.hosts.remove(host)
    await it.until_served("a host is paused", served)
    it.hosts.append(host)
    it.paused.discard(host.child.pid)
    os.kill(host.child.pid, signal.SIGCONT)
    await it.until_served("it goes on", served, balanced=True)


async def added(it: Fleet, served: Served) -> None:
    await it.start()
    await it.until_served("a host is added", served, balanced=True)


async def drained(it: Fleet, served: Served) -> None:
    host = it.pick()
    it.hosts.remove(host)
    code = await host.child.stop()
    if code:
        it.violations.append(("drained", f"its exit code is {code}"))
    await it.until_served("a host is drained", served, balanced=True)

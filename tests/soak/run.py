"""A soak: one worker, one sidecar, traffic, and a close of a random kind again and again, for a long time.

Looks for what only time shows: memory that grows, descriptors and tasks that stay, a message that is missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.phone import Group, VirtualPhone
from testkit.processes import PYTHON, ROOT, Child, free_port, resident_bytes
from testkit.waiting import until
from testkit.worker import Worker, environment
from tests.soak.closes import CLOSES, FORGETS

MB = 1_000_000
BEFORE, MEANWHILE = 20, 5  # messages before a close, and while the worker is away
ROUND_SECONDS = 60.0
# The server ends a stream when a stanza has had no answer for 50 minutes: so long here.
PERIOD_SECONDS = 20.0
PERIODS = 3  # that a connection lives through undisturbed, once in each round of closes
END_SECONDS = 10.0
TELL_EVERY_SECONDS = 30.0
MEMBERS = ("Ana", "Ben", "Chika", "Dora")
SETTINGS = {
    "WORKER_POLL_MS": "250",
    "WORKER_BACKOFF_BASE_MS": "50",
    "WORKER_BACKOFF_MAX_MS": "500",
    "WORKER_CATCH_UP_S": "86400",
    "WA_KEEP_ALIVE_MS": "300",
    "WA_VERSION": "2.3000.1023223821",
    "PYTHONPATH": str(ROOT),
    "NODE_OPTIONS": f"--import={(ROOT / 'tests' / 'soak' / 'collect.mjs').as_uri()}",
}
# Timers of Baileys hold most of a closed socket for one minute, and caches of it for five: until then memory grows with
# every close. A few entries stay for three days.
WARM_SECONDS = 360.0
# From the second quarter to the last one: beyond it is a leak of a few kB a message.
MEMORY_GROWTH_MAX = 20 * MB
HEAP_GROWTH_MAX = 8 * MB  # closer: the sidecar collects its garbage every five seconds here (collect.mjs)
DESCRIPTORS_MORE = 4  # idle connections to Supabase come and go
TASKS_MORE = 3


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The worker and its sidecar, at rest between two rounds."""

    worker_bytes: int
    sidecar_bytes: int
    sidecar_heap: int
    worker_descriptors: int
    sidecar_descriptors: int
    tasks: int
    threads: int
    sidecar_pid: int
    restarts: int


@dataclass(kw_only=True)
class Soak:
    """What a run saw; `violations` is its verdict."""

    seconds: float = 0.0
    closes: Counter[str] = field(default_factory=Counter)
    periods: int = 0
    samples: list[Sample] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def quarter(self, number: int) -> Sequence[Sample]:
        """1 to 4."""
        size = max(1, len(self.samples) // 4)
        return self.samples[(number - 1) * size : number * size] if number < 4 else self.samples[-size:]

    def middle(self, name: str, number: int) -> float:
        return float(median(getattr(sample, name) for sample in self.quarter(number)))

    def span(self, name: str, number: int) -> tuple[int, int]:
        """The lowest and the highest of a quarter: memory is a saw, and its floor is what counts."""
        values = [int(getattr(sample, name)) for sample in self.quarter(number)]
        return min(values), max(values)

    def judge(self) -> None:
        """Add what grew."""
        growth = {
            "worker_bytes": MEMORY_GROWTH_MAX,
            "sidecar_bytes": MEMORY_GROWTH_MAX,
            "sidecar_heap": HEAP_GROWTH_MAX,
        }
        for name, most in growth.items():
            floor, later_floor = self.span(name, 2)[0], self.span(name, 4)[0]
            if later_floor - floor > most:
                self.violations.append(f"{name} grew from {floor / MB:.0f} to {later_floor / MB:.0f} MB")
        for name, more in [
            ("worker_descriptors", DESCRIPTORS_MORE),
            ("sidecar_descriptors", DESCRIPTORS_MORE),
            ("tasks", TASKS_MORE),
            ("threads", TASKS_MORE),
        ]:
            early, late = self.middle(name, 2), self.middle(name, 4)
            if late - early > more:
                self.violations.append(f"{name} grew from {early:.0f} to {late:.0f}")
        if len({sample.sidecar_pid for sample in self.samples}) > 1 or self.samples[-1].restarts:
            self.violations.append("the sidecar was started again: a close must not cost a process")


async def soak(seconds: float, seed: int, folder: Path, say: Callable[[str], None]) -> Soak:
    """Warm up, then run for so long; every kind of close comes once before any comes twice."""
    result = Soak()
    random = Random(seed)  # noqa: S311 - repeatable on purpose
    async with (
        await EmbeddedSupabase.start(folder / "supabase") as supabase,
        await VirtualPhone.start(folder) as phone,
        await Database.connect(supabase.url, supabase.service_key) as database,
        start(folder / "worker", phone, supabase) as worker,
    ):
        await phone.realism(debt_s=PERIOD_SECONDS)
        groups = [await phone.group(name, MEMBERS, mode) for name, mode in (("Market", "lid"), ("Crew", "pn"))]  # type: ignore[arg-type]
        await worker.ready()
        await link(phone, database, worker)
        await database.wait_groups([group.id for group in groups], tell=worker.child.tail)
        await database.monitor([group.id for group in groups])
        await database.fetch_groups(tell=worker.child.tail)
        begun = told = time.monotonic()
        deck: list[str] = []
        say(f"warming up for {WARM_SECONDS:.0f} s, then {seconds:.0f} s that count")
        while time.monotonic() - begun < WARM_SECONDS + seconds:
            if not deck:
                deck = random.sample(sorted(CLOSES), len(CLOSES))
                await stay(phone, worker, groups, result)
            kind = deck.pop()
            await play(kind, phone, database, worker, groups, result)
            result.closes[kind] += 1
            sample = await look(worker)
            if time.monotonic() - begun > WARM_SECONDS:
                result.samples.append(sample)
            if time.monotonic() - told > TELL_EVERY_SECONDS:
                told = time.monotonic()
                say(progress(told - begun, result, sample))
        result.seconds = time.monotonic() - begun
        result.violations += await missing(database, result.sent)
        debts = Counter(item["tag"] for item in await phone.log() if item["kind"] == "debt")
        result.violations += [f"{n} streams ended for a {tag} without an answer" for tag, n in debts.items()]
        if "Traceback" in worker.child.text():
            result.violations.append("a traceback in the worker's log")
        if await worker.child.stop(END_SECONDS):
            result.violations.append("the worker did not end with code 0")
    result.judge()
    return result


def start(folder: Path, phone: VirtualPhone, supabase: EmbeddedSupabase) -> Worker:
    folder.mkdir(parents=True)
    port = free_port()
    settings = {"WORKER_HTTP_PORT": str(port), **SETTINGS, **phone.worker_env, **supabase.worker_env}
    command: list[str | Path] = [PYTHON, "-m", "tests.soak.entry", "run"]
    child = Child.start("worker", command, log=folder / "worker.log", cwd=folder, env=environment(settings))
    return Worker(child, port, folder)


async def link(phone: VirtualPhone, database: Database, worker: Worker) -> None:
    await phone.scan(await database.wait_qr(tell=worker.child.tail))
    await database.wait_status("connected", tell=worker.child.tail)


async def play(
    kind: str, phone: VirtualPhone, database: Database, worker: Worker, groups: Sequence[Group], result: Soak
) -> None:
    """Messages, a close, more messages while the worker is away, and back."""
    to = [group.id for group in groups]
    logins = int((await phone.state())["logins"])
    prefix = f"{sum(result.closes.values())}"
    wanted = await talk(phone, to, BEFORE, f"{prefix}-before", result)
    inject = CLOSES[kind]
    if inject in FORGETS:
        await phone.wait_receipts(wanted, seconds=ROUND_SECONDS)
        wanted = []
    await inject(phone, database)
    if inject not in FORGETS:
        wanted += await talk(phone, to, MEANWHILE, f"{prefix}-meanwhile", result)

    async def back() -> bool:
        state = await phone.state()
        return bool(state["connected"] and state["logins"] > logins) and await database.status() == "connected"

    await until(f"connected after: {kind}", back, seconds=ROUND_SECONDS, tell=worker.child.tail)
    await phone.wait_receipts(wanted, seconds=ROUND_SECONDS)


async def stay(phone: VirtualPhone, worker: Worker, groups: Sequence[Group], result: Soak) -> None:
    """One connection that lives through several of the server's periods, with stanzas of every kind in each."""
    before = (await phone.state())["logins"]
    to = [group.id for group in groups]
    for _ in range(PERIODS):
        ends = time.monotonic() + PERIOD_SECONDS
        wanted = await talk(phone, to, MEANWHILE, f"period-{result.periods}", result)
        await phone.send("Ana", "status", "a status")
        await phone.send("Ben", "direct", "a direct message")
        await phone.notify()
        await phone.post("/call", {"from": "Ana"})
        await phone.post("/newsletter", {"text": "of a channel"})
        await phone.wait_receipts(wanted, seconds=ROUND_SECONDS)

        async def over(end: float = ends) -> bool:
            return time.monotonic() > end

        await until("a period to end", over, seconds=PERIOD_SECONDS + ROUND_SECONDS, tell=worker.child.tail)
        result.periods += 1
    logins = (await phone.state())["logins"]
    if logins != before:
        result.violations.append(f"{logins - before} connections ended while nobody ended one")


async def talk(phone: VirtualPhone, to: Sequence[str], count: int, prefix: str, result: Soak) -> list[str]:
    items: list[Any] = (await phone.burst(MEMBERS, to, count, text_prefix=prefix))["items"]
    result.sent.update({item["id"]: item["text"] for item in items})
    return [item["id"] for item in items]


async def look(worker: Worker) -> Sample:
    answer = await worker.get("/soak")
    assert answer is not None, "the worker does not answer"
    figures = answer.json()
    sidecar = int(figures["sidecar_pid"])
    return Sample(
        worker_bytes=resident_bytes(worker.child.pid),
        sidecar_bytes=resident_bytes(sidecar),
        sidecar_heap=figures["heap"],
        worker_descriptors=descriptors(worker.child.pid),
        sidecar_descriptors=descriptors(sidecar),
        tasks=figures["tasks"],
        threads=figures["threads"],
        sidecar_pid=sidecar,
        restarts=figures["restarts"],
    )


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def missing(database: Database, sent: dict[str, str]) -> list[str]:
    rows = await database.messages()
    stored = Counter(row["wa_msg_id"] for row in rows)
    wrong = sum(sent.get(row["wa_msg_id"]) != row["text"] for row in rows)
    found = {
        "messages are missing": sum(id_ not in stored for id_ in sent),
        "messages are there twice": sum(count > 1 for count in stored.values()),
        "messages have another text, or were never sent": wrong,
    }
    return [f"{count} {what}" for what, count in found.items() if count]


def progress(elapsed: float, result: Soak, last: Sample) -> str:
    return (
        f"[{elapsed:5.0f} s] {sum(result.closes.values())} closes, {len(result.sent)} messages; worker "
        f"{last.worker_bytes / MB:.0f} MB, {last.worker_descriptors} descriptors, {last.tasks} tasks; sidecar "
        f"{last.sidecar_bytes / MB:.0f} MB, heap {last.sidecar_heap / MB:.0f}, {last.sidecar_descriptors} descriptors"
    )

"""Everything side by side in one run: `make bench`, or `python -m bench [--quick] [--minutes 10]`.

Sides take turns, so that what else happens on the machine meets each of them; ratios say more than the figures. The
virtual phone encrypts beforehand. What does not fit into the time is left out, and said; what is under way when the
time is up is broken off. The goals are judged by the figures of the run. docs/performance.md explains the columns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.report import write
from bench.sides import (
    SENDERS,
    Embedded,
    Naive,
    Native,
    Postgres,
    Product,
    Side,
    Stock,
    all_sides,
    tree,
)
from bench.sizes import SIZES, growth
from testkit.phone import Media
from testkit.processes import NODE, cpu_seconds, pss_bytes
from testkit.waiting import until
from worker.session.commit_times import quantile

ALL: list[type[Side]] = [Stock, Native, Naive, Embedded, Postgres]
SLOW = (Stock, Naive)  # get a twenty-fifth of the messages, at least 200, or the run would be theirs
TEXT_CHARS = 100
PART = 500  # messages asked of the virtual phone in one call
SAMPLE_SECONDS = 0.5
RATE = 10  # messages a second while latency is measured
WARM_UP_MESSAGES = 2 * RATE  # not counted: the first commits after a login plan their SQL
TAIL_SECONDS = 30.0  # nothing more is begun so long before the end of the time
FILES = ((100_000, 20), (1_000_000, 8), (16_000_000, 3))

Result = dict[str, Any]


@dataclass(kw_only=True)
class Plan:
    """How much of everything, and until when."""

    messages: int
    windowed: int
    rounds: int
    distances_ms: tuple[int, ...]
    latency_seconds: int
    kill_messages: int
    restarts: int
    sizes: tuple[int, ...]
    ends: float
    skipped: list[str] = field(default_factory=list)

    def time_for(self, what: str) -> bool:
        """Whether there is time left; notes what there is none for."""
        if time.monotonic() < self.ends:
            return True
        self.skipped.append(what)
        return False

    def count_for(self, side: Side, most: int) -> int:
        return max(200, most // 25) if type(side) in SLOW else most


async def queue(side: Side, count: int) -> list[str]:
    """Messages that wait for the next login."""
    await side.phone.wait_for("disconnected")
    ids: list[str] = []
    for start in range(0, count, PART):
        some = min(PART, count - start)
        sent = await side.phone.burst(SENDERS, side.groups, some, text_prefix=f"b{start}", size=TEXT_CHARS)
        ids += sent["ids"]
    return ids


async def logged_in(side: Side) -> None:
    """Start it, its backlog held back; answers when it has logged in."""
    logins = (await side.phone.state())["logins"]
    await side.phone.post("/offline/hold", {"hold": True})
    await side.start()
    await side.phone.wait_for("logins", seconds=60, count=logins + 1)
    await asyncio.sleep(2)  # its first questions


async def throughput(side: Side, count: int) -> Result:
    """A backlog, from the moment it is let go to its last receipt (the naive side: its last insert)."""
    ids = await queue(side, count)
    await logged_in(side)
    roles = side.roles() | {
        "database": [pid for root in side.database for pid in tree(root)],
        "phone": [side.phone.child.pid],
    }
    rest = {role: pss_bytes(pids) for role, pids in roles.items()}
    before = {role: cpu_seconds(pids) for role, pids in roles.items()}
    if side.forwarder:
        side.forwarder.reset()
    async with peak_of(roles) as peaks:
        began = time.time() * 1000
        await side.phone.post("/offline/hold", {"hold": False})
        times: list[float] = []
        for start in range(0, len(ids), 1000):
            times += await side.stored_at(ids[start : start + 1000])
        ended = max(times)
    result: Result = {
        "messages": count, "per_second": count / (ended - began) * 1000,
        "cpu_s_per_1000": {role: (cpu_seconds(pids) - before[role]) / count * 1000 for role, pids in roles.items()},
        "mb_at_rest": {role: rest[role] / 1e6 for role in roles}, "mb_at_load": {r: peaks[r] / 1e6 for r in roles},
    }  # fmt: skip
    if side.forwarder:
        result["round_trips_per_message"] = side.forwarder.requests.total() / count
        result["bytes_per_message"] = (side.forwarder.sent + side.forwarder.received) / count
    await side.stop()
    return result


@asynccontextmanager
async def peak_of(roles: dict[str, list[int]]) -> AsyncIterator[dict[str, int]]:
    """The most memory that each role has at any moment, looked at twice a second."""
    peaks = dict.fromkeys(roles, 0)

    async def look() -> None:
        while True:
            for role, pids in roles.items():
                peaks[role] = max(peaks[role], pss_bytes(pids))
            await asyncio.sleep(SAMPLE_SECONDS)

    looking = asyncio.create_task(look())
    try:
        yield peaks
    finally:
        looking.cancel()


async def latency(side: Side, away_ms: int, seconds: int) -> Result:
    """Ten messages a second to a running side; from the socket of the server to the receipt (naive: to the insert)."""
    sent = await paced(side, WARM_UP_MESSAGES)
    await side.stored_at(list(sent))
    if side.forwarder:
        side.forwarder.away_seconds = away_ms / 1000
    sent = await paced(side, RATE * seconds)
    if isinstance(side, Naive):
        await side.stored_at(list(sent))
        ends = {i: item["at_ms"] for item in side.events if item["event"] == "stored" for i in item["ids"]}
    else:
        ends = {item["id"]: item["at_ms"] for item in await side.phone.wait_receipts(list(sent), seconds=60)}
    if side.forwarder:
        side.forwarder.away_seconds = 0.0
    took = sorted(ends[one] - at for one, at in sent.items())
    return {"away_ms": away_ms, "messages": len(took), "max": took[-1]} | {
        f"p{q}": quantile(took, q) for q in (50, 95, 99)
    }


async def paced(side: Side, count: int) -> dict[str, float]:
    """Sends `RATE` messages a second. When each left the server's socket, in ms, by its id."""
    sent: dict[str, float] = {}
    clock = asyncio.get_running_loop().time
    began = clock()
    for n in range(count):
        await asyncio.sleep(max(0.0, began + n / RATE - clock()))
        message = await side.phone.send(
            SENDERS[n % len(SENDERS)], side.groups[n % len(side.groups)], f"live {n} " + "x" * 90
        )
        sent[message.id] = message.sent_at_ms
    return sent


async def killed(side: Side, count: int) -> Result:
    """SIGKILL in the middle of a backlog, started again at once: what it acknowledged and does not have."""
    ids = await queue(side, count)
    await logged_in(side)
    since = (await side.phone.get("/receipts"))["next"]
    await side.phone.post("/offline/hold", {"hold": False})

    async def receipts() -> list[dict[str, Any]]:
        return [item for item in await side.phone.receipts(since) if item["kind"] == "receipt"]

    async def a_third() -> bool:
        return len(await receipts()) >= count / 3

    await until("a third of the receipts", a_third, seconds=60, every=0.01)
    side.kill()
    at = time.time() * 1000
    await side.phone.wait_for("disconnected")
    before = await receipts()
    await side.start()

    async def again() -> float | None:
        later = [item["at_ms"] for item in await receipts() if item["at_ms"] > at]
        return later[0] if later else None

    receiving: float | None = None
    with contextlib.suppress(AssertionError):  # all had been acknowledged: nothing comes
        receiving = await until("a receipt", again, seconds=60, every=0.05)
        await side.phone.wait_for("queue_empty", seconds=80)
    await asyncio.sleep(3)  # what is acknowledged may still be on its way into the naive one's database
    acknowledged = {item["id"] for item in await receipts()} & set(ids)
    stored = await side.count_stored(acknowledged)
    await side.stop()
    return {
        "acknowledged": len(acknowledged), "before_the_kill": len(before), "lost": len(acknowledged) - stored,
        "killed_to_receiving_s": None if receiving is None else (receiving - at) / 1000,
    }  # fmt: skip


async def restarted(side: Product, rounds: int) -> Result:
    """Seconds until a message is receipted that was sent meanwhile: after a start, and the SIGKILL of each process.

    The worker is started again at once, as a platform would; a sidecar by its worker.
    """
    took: dict[str, list[float]] = {"start_s": [], "sidecar_killed_s": [], "worker_killed_s": []}

    async def receipted(since: float, what: str) -> None:
        sent = await side.phone.send(SENDERS[0], side.groups[0], f"{what} {len(took[what])}")
        (receipt,) = await side.phone.wait_receipts([sent.id], seconds=60)
        took[what].append(receipt["at_ms"] / 1000 - since)

    await side.phone.post("/offline/hold", {"hold": False})
    for _ in range(rounds):
        began = time.time()
        await side.start()
        await receipted(began, "start_s")
        for pid in side.roles()["sidecar"]:
            os.kill(pid, signal.SIGKILL)
        killed_at = time.time()
        await side.phone.wait_for("disconnected")
        await receipted(killed_at, "sidecar_killed_s")
        killed_at = time.time()
        side.kill()
        await side.start()
        await receipted(killed_at, "worker_killed_s")
        await side.stop()
    return {"rounds": rounds} | {what: statistics.median(seconds) for what, seconds in took.items()}


async def media(side: Product, size: int, count: int) -> Result:
    """Files to a running side, from the first one's stanza until the last one is stored."""
    assert side.forwarder
    side.forwarder.reset()
    roles = side.roles()
    ids = []
    for n in range(count):
        file = Media(
            kind="document",
            data=(b"%PDF-1.7\n" + os.urandom(size))[:size],
            mime="application/pdf",
            file_name=f"{n}.pdf",
        )
        ids.append((await side.phone.send(SENDERS[n % 6], side.groups[0], media=file, fault={"hold": True})).id)
    async with peak_of(roles) as peaks:
        began = time.monotonic()
        await side.phone.post("/release", {"ids": ids})

        async def done() -> bool:
            assert side.forwarder
            return side.forwarder.requests["wa_media_done"] >= count

        await until(f"{count} files of {size}", done, seconds=120, every=0.02)
    seconds = time.monotonic() - began
    return {
        "bytes": size,
        "files": count,
        "mb_per_s": size * count / seconds / 1e6,
        "files_per_s": count / seconds,
        "worker_mb": peaks["worker"] / 1e6,
    }


@asynccontextmanager
async def noted(results: list[Result], side: Side, what: str) -> AsyncIterator[None]:
    """What goes wrong inside is written down in place of a figure, and the side killed."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(Exception):
            side.kill()
        add(results, side, what, {"failed": f"{type(error).__name__}: {str(error)[:200]}"})


def add(results: list[Result], side: Side, what: str, result: Result) -> None:
    """One figure, kept and printed."""
    note(results, {"side": side.name, "what": what} | result)


def note(results: list[Result], result: Result) -> None:
    results.append({"load": os.getloadavg()[0]} | result)
    shown = {name: value for name, value in result.items() if not isinstance(value, dict)}
    print(json.dumps(shown, default=str), flush=True)


async def guarded(results: list[Result], side: Side, what: str, action: Awaitable[Result]) -> None:
    async with noted(results, side, what):
        add(results, side, what, await action)


async def run(plan: Plan, folder: Path, results: list[Result]) -> None:
    """Every figure that there is time for, added to `results` as it comes: a run that ends early keeps what it has."""
    async with all_sides(folder, ALL) as sides:
        print("every side is linked", flush=True)
        products = [side for side in sides if isinstance(side, Product)]
        await queues(plan, sides, results, "queue", plan.messages, 0)
        await live(plan, sides, results)
        for side in sides:
            if side.keeps and plan.time_for(f"kill, {side.name}"):
                await guarded(results, side, "kill", killed(side, plan.count_for(side, plan.kill_messages)))
        for product in products:
            if plan.time_for(f"restart, {product.name}"):
                await guarded(results, product, "restart", restarted(product, plan.restarts))
        for product in products:
            await product.phone.realism(windows=True)
        # Stock Baileys asks for one window more and then never again (docs/whatsapp.md).
        await queues(plan, products, results, "queue in windows of 100", plan.windowed, 0)
        for product in products:
            if plan.time_for(f"media, {product.name}"):
                await files(product, results)
            await product.phone.realism(windows=False)
        for number in range(1, plan.rounds):
            await queues(plan, sides, results, "queue", plan.messages, number)
        await grown(plan, results)


async def grown(plan: Plan, results: list[Result]) -> None:
    """What a commit costs as the account grows."""
    steps = growth(plan.sizes, plan.time_for)
    name = {"side": "PostgreSQL alone", "what": "growth"}
    try:
        while step := await asyncio.to_thread(next, steps, None):  # broken off, it ends by itself: `time_for` says no
            note(results, name | step)
    except Exception as error:
        note(results, name | {"failed": f"{type(error).__name__}: {str(error)[:200]}"})


async def queues(plan: Plan, sides: Sequence[Side], results: list[Result], what: str, most: int, number: int) -> None:
    """One round; in each another side begins."""
    turn = number % len(sides)
    for side in [*sides[turn:], *sides[:turn]]:
        if plan.time_for(f"{what}, {side.name}"):
            await guarded(results, side, what, throughput(side, plan.count_for(side, most)))


async def live(plan: Plan, sides: Sequence[Side], results: list[Result]) -> None:
    for side in sides:
        distances = plan.distances_ms if side.forwarder else (0,)
        if not plan.time_for(f"latency, {side.name}"):
            continue
        async with noted(results, side, "live"):
            await side.phone.post("/offline/hold", {"hold": False})
            await side.start()
            await side.phone.wait_for("connected", seconds=60)
            await asyncio.sleep(1)
            for away in distances:
                add(results, side, "live", await latency(side, away, plan.latency_seconds))
            await side.stop()


async def files(product: Product, results: list[Result]) -> None:
    async with noted(results, product, "media"):
        await product.start()
        await product.phone.wait_for("connected", seconds=60)
        for size, count in FILES:
            add(results, product, "media", await media(product, size, count))
        await product.stop()


async def bounded(plan: Plan, folder: Path, results: list[Result]) -> bool:
    """`run`, broken off soon after its time is up; whether it came to its end."""
    try:
        async with asyncio.timeout(plan.ends + TAIL_SECONDS - time.monotonic()):
            await run(plan, folder, results)
    except TimeoutError:
        plan.skipped.append("the rest of what was under way: broken off")
        return False
    return True


def machine() -> Result:
    """What it was measured on."""
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "unknown")
    node = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "processor": model, "cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0], "node": node,
        "python": sys.version.split()[0], "commit": commit, "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two minutes on a quiet machine instead of ten")
    parser.add_argument("--minutes", type=float, help="after so long, begin nothing more")
    options = parser.parse_args()
    minutes = options.minutes or (2 if options.quick else 10)
    ends = time.monotonic() + minutes * 60 - TAIL_SECONDS
    quick = Plan(
        messages=2000, windowed=1000, rounds=1, distances_ms=(0, 150), latency_seconds=5, kill_messages=2000,
        restarts=1, sizes=SIZES[:3], ends=ends,
    )  # fmt: skip
    full = Plan(
        messages=10_000, windowed=2000, rounds=2, distances_ms=(0, 40, 150), latency_seconds=15, kill_messages=3000,
        restarts=3, sizes=SIZES, ends=ends,
    )  # fmt: skip
    plan = quick if options.quick else full
    about = machine() | {"command": " ".join(["python -m bench", *sys.argv[1:]])}
    results: list[Result] = []
    whole = False
    try:
        with tempfile.TemporaryDirectory(prefix="wa-bench-") as folder:
            whole = asyncio.run(bounded(plan, Path(folder), results))
    finally:  # Ctrl-C too
        if results:
            about |= {"load_after": os.getloadavg()[0], "whole": whole}
            write(Path(__file__).parent / "results", about, results, plan.skipped)


if __name__ == "__main__":
    main()

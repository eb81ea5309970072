"""What accounts cost: `python -m bench.accounts [--accounts 1,5,10,20] [--seconds 60] [--rate 0.2] [--each]`.

One virtual phone is WhatsApp for all of them, a PostgreSQL behind bench/gateway.py their database, and one `wa-worker
host` serves them; `--each`: a `wa-worker run` each, for comparison. Every account is linked and has a group that is
switched on. When the last one has rested, memory (PSS: shared pages by their share), processor time and requests are
read: at rest, and while people write to each account (`--rate` messages a second). Then the straight line through the
figures: what a process costs, and what each account adds. Prints figures; judges nothing. docs/scaling.md has them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg

from bench.forwarder import Forwarder
from bench.sides import PATIENCE_SECONDS, gateway, postmaster, roles_of, tree
from testkit.phone import VirtualPhone
from testkit.processes import cpu_seconds, pss_bytes
from testkit.waiting import until
from testkit.worker import Worker
from tests.conftest import real_postgres

SETTLE_SECONDS = 75.0  # start, first history and housekeeping are over
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \S+\s*(.*)$")


class Accounts:
    """Accounts on one server and one database, added one by one."""

    def __init__(self, folder: Path, phone: VirtualPhone, url: str, dsn: str, *, each: bool) -> None:
        self.folder = folder
        self._dsn = dsn
        self._each = each
        self.url = url
        self.workers: list[Worker] = []
        self._phone = phone
        self._groups: list[tuple[VirtualPhone, str]] = []  # one of each account
        self.count = 0

    async def call(self, function: str, **args: Any) -> Any:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            answer = await http.post(f"{self.url}/rest/v1/rpc/{function}", json=args)
            answer.raise_for_status()
            return answer.json()

    def start(self, name: str, command: str, **settings: str) -> None:
        chosen = {"SUPABASE_URL": self.url, "SUPABASE_SERVICE_KEY": "none", "WORKER_POLL_MS": "2000", **settings}
        worker = Worker.start(self.folder / name, phone=self._phone, settings=chosen, name=name, command=command)
        self.workers.append(worker)

    async def serve(self, session: str) -> None:
        """See to it that somebody serves this session."""
        if self._each:
            self.start(session, "run", WORKER_SESSION=session)
            return
        if not self.workers:
            self.start("host", "host")
        async with await psycopg.AsyncConnection.connect(self._dsn) as connection:
            await connection.execute("insert into public.wa_sessions (id, wanted) values (%s, true)", (session,))

    async def add(self) -> None:
        """One more account, linked, its group switched on."""
        session, name = f"account-{self.count}", f"Owner {self.count}"
        phone = await self._phone.another(name) if self.count else self._phone
        self.count += 1
        group = await phone.group(f"Group of {session}", ["Ana", "Ben"], "lid", notify=False)
        await self.serve(session)

        async def qr() -> Any:
            view = await self.call("wa_pairing_view", p_session=session)
            return ((view or {}).get("detail") or {}).get("qr")

        await phone.scan(await until("a QR", qr, seconds=PATIENCE_SECONDS, tell=self.tell))
        await phone.wait_for("connected", seconds=PATIENCE_SECONDS)

        async def groups() -> Any:
            return (await self.call("wa_list_groups", p_session=session))["groups"]

        listed = await until("the groups", groups, seconds=PATIENCE_SECONDS, tell=self.tell)
        ids = [group["id"] for group in listed]
        await self.call("wa_set_monitor", p_session=session, p_groups=ids, p_monitor=True)
        self._groups.append((phone, group.id))

    async def talk(self, rate: float) -> None:
        """Until cancelled, so many messages a second to each account, at random moments."""
        number = 0
        while True:
            number += 1
            await asyncio.sleep(random.expovariate(rate * len(self._groups)))
            phone, group = random.choice(self._groups)  # noqa: S311
            await phone.send(random.choice(("Ana", "Ben")), group, f"message {number}")  # noqa: S311

    def tell(self) -> str:
        return "\n".join(worker.child.tail() for worker in self.workers[-1:])

    def roles(self) -> dict[str, list[int]]:
        """The processes by their part."""
        found: dict[str, list[int]] = {"worker": [], "sidecar": []}
        for worker in self.workers:
            for role, pids in roles_of(worker).items():
                found[role] += pids
        return found

    async def stop(self) -> None:
        await asyncio.gather(*(worker.child.stop() for worker in self.workers))


@asynccontextmanager
async def running(folder: Path, *, each: bool) -> AsyncIterator[tuple[Accounts, Forwarder, int]]:
    """No account yet; what counts their requests; the first process of the database."""
    async with AsyncExitStack() as stack:
        phone = await stack.enter_async_context(await VirtualPhone.start(folder))
        await phone.realism(profile="kind")
        dsn = stack.enter_context(real_postgres())
        url, _ = await gateway(stack, dsn, folder)
        forwarder = await stack.enter_async_context(Forwarder(url))
        accounts = Accounts(folder, phone, forwarder.url, dsn, each=each)
        stack.push_async_callback(accounts.stop)
        yield accounts, forwarder, postmaster(dsn)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of so many accounts, over a time. Bytes in MB (10^6), processor time in ms a second."""

    accounts: int
    sidecars: list[float]  # PSS of each
    workers: float
    database: float
    sidecar_cpu: float
    worker_cpu: float
    requests: float  # a second

    @property
    def memory(self) -> float:
        return sum(self.sidecars) + self.workers

    def row(self, what: str) -> str:
        count, each = self.accounts, self.sidecars
        return (
            f"| {count} | {what} | {sum(each) / count:.1f} ({each[0]:.1f} to {each[-1]:.1f}) | {self.workers:.1f} "
            f"| {self.memory / count:.1f} | {self.database:.0f} | {self.sidecar_cpu / count:.2f} "
            f"| {self.worker_cpu / count:.2f} | {self.requests:.2f} | {self.requests / count:.3f} |"
        )


async def measure(accounts: Accounts, forwarder: Forwarder, database: int, seconds: float) -> Figures:
    """The mean of so many seconds."""
    roles = accounts.roles()
    forwarder.reset()
    began = time.monotonic()
    before = {role: cpu_seconds(pids) for role, pids in roles.items()}
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    cpu = {role: (cpu_seconds(pids) - before[role]) / took * 1000 for role, pids in roles.items()}
    return Figures(
        accounts=len(roles["sidecar"]),
        sidecars=sorted(pss_bytes([pid]) / 1e6 for pid in roles["sidecar"]),
        workers=pss_bytes(roles["worker"]) / 1e6,
        database=pss_bytes(tree(database)) / 1e6,
        sidecar_cpu=cpu["sidecar"],
        worker_cpu=cpu["worker"],
        requests=forwarder.requests.total() / took,
    )


async def loaded(accounts: Accounts, forwarder: Forwarder, database: int, seconds: float, rate: float) -> Figures:
    """The same while people write."""
    talking = asyncio.create_task(accounts.talk(rate))
    try:
        return await measure(accounts, forwarder, database, seconds)
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


def line(figures: list[Figures], what: str) -> str:
    """The straight line through the figures: what there is without accounts, and what each adds."""
    counts = [float(one.accounts) for one in figures]
    lines = {
        "MB": [one.memory for one in figures],
        "ms of processor time a second": [one.sidecar_cpu + one.worker_cpu for one in figures],
        "requests a second": [one.requests for one in figures],
    }
    parts = []
    for unit, values in lines.items():
        slope, start = statistics.linear_regression(counts, values)
        parts.append(f"{start:.2f} + {slope:.3f} an account {unit}")
    return f"{what}: {'; '.join(parts)}"


def mappings(pid: int) -> Counter[str]:
    """Where a process's PSS is, in bytes."""
    found: Counter[str] = Counter()
    kind = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if header := MAPPING.match(line):
            rights, path = header.groups()
            name = Path(path).name if path.startswith("/") else path or "anonymous"
            kind = f"{name} {rights[:3]}" if name in ("node", "anonymous") else name
        elif line.startswith("Pss:"):
            found[kind] += int(line.split()[1]) * 1024
    return found


async def main(steps: list[int], seconds: float, rate: float, *, each: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="wa-accounts-") as name:
        async with running(Path(name), each=each) as (accounts, forwarder, database):
            print(
                "| accounts | | a sidecar, MB (least to most) | workers, MB | an account, MB | database, MB "
                "| sidecar, CPU ms/s | worker, CPU ms/s an account | requests/s | requests/s an account |"
            )
            print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
            resting, talking = [], []
            for step in steps:
                while accounts.count < step:
                    await accounts.add()
                await asyncio.sleep(SETTLE_SECONDS)
                resting.append(await measure(accounts, forwarder, database, seconds))
                print(resting[-1].row("at rest"), flush=True)
                talking.append(await loaded(accounts, forwarder, database, seconds, rate))
                print(talking[-1].row(f"{rate:g} messages/s each"), flush=True)
            if len(steps) > 1:
                print(f"\n{line(resting, 'at rest')}\n{line(talking, 'while people write')}")
            total: Counter[str] = Counter()
            sidecars = accounts.roles()["sidecar"]
            for pid in sidecars:
                with contextlib.suppress(OSError):
                    total += mappings(pid)
            print(f"\nof a sidecar's MB, the mean of {len(sidecars)}:")
            for kind, size in total.most_common(8):
                print(f"  {size / len(sidecars) / 1e6:5.1f}  {kind}")
            print(f"requests: {dict(forwarder.requests)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", default="1,5,10,20", help="how many, one figure after the other")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=0.2, help="messages a second to each account, under load")
    parser.add_argument("--each", action="store_true", help="a process for each account, instead of one host")
    given = parser.parse_args()
    asyncio.run(main([int(count) for count in given.accounts.split(",")], given.seconds, given.rate, each=given.each))

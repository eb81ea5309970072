"""What the console's pages cost, and its viewers the worker: `make benchconsole`, or `python -m bench.console`.

    --postgres 1000000    pages over PostgreSQL with so many messages; 0: not
    --embedded 100000     the same over the embedded Supabase
    --viewers 10          commits at full pace on the embedded one, with and without so many open feeds, in turn

Each page is asked 21 times by one viewer, from the request to the last byte of the page. The table has the median, the
worst, and the processor time of console and database for one page, which other work on the machine changes least.
Before PostgreSQL stands the REST server of the embedded Supabase, which needs the npm package `postgres`: `npm install
--no-save postgres`. PostgREST itself is not among our packages. Prints figures; judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg

import worker.store.embedded
from bench import queries
from bench.sides import postmaster, tree
from testkit.processes import NODE, PYTHON, Child, cpu_seconds, free_port
from testkit.waiting import until
from testkit.worker import environment
from tests.conftest import real_postgres
from tests.console.site import TOKEN, Site, served
from tests.integration.database import message, switch, writer
from worker.store import connect_store
from worker.store.embedded import LITE_CLI, MIGRATIONS, Embedded, Endpoint, embedded_supabase
from worker.store.endpoint import load_keys

TIMES = 21
WARM = 2
GOAL_MS = 200
BATCH = 20
WINDOW_SECONDS = 10.0  # of commits, with or without viewers
BLOCKS = 8  # of four windows each; an even drift within a block changes nothing
SERVER_SECONDS = 120.0
QUIET_SECONDS = 60.0  # a stream says something more often
POSTGRES_JS = LITE_CLI.parents[4] / "postgres"

CONFIG = """\
[api]
port = {port}
[db]
driver = "postgres"
url = "{url}"
[auth]
enabled = false
jwt_secret = "env(LITE_JWT_SECRET)"
publishable_key = "env(SUPABASE_PUBLISHABLE_KEY)"
secret_key = "env(SUPABASE_SECRET_KEY)"
[storage]
enabled = true
"""


def pages(group: int, middle: int, day: str) -> dict[str, str]:
    """What is asked: in the busiest group, around a message in the middle, for words as `queries.fill` writes them."""
    return {
        "Account": "link",
        "Groups": "groups",
        "A group": f"groups/{group}",
        "A group, 30 days": f"groups/{group}?span=month",
        "Pictures of a group": f"groups/{group}/gallery",
        "Archive of all groups": "coverage",
        "Messages, the newest": "feed",
        "Messages of a group": f"feed?group={group}",
        "Older messages": f"feed?before={middle}",
        "Older messages of a group": f"feed?group={group}&before={middle}",
        "From a day on": f"feed?date={day}",
        "From a day on, of a group": f"feed?date={day}&group={group}",
        "A message": f"messages/{middle}",
        "Search: a word of half of the messages": f"search?q={queries.word(1)}",
        "Search: of 0.8 %": f"search?q={queries.word(100)}",
        "Search: a rare one": f"search?q={queries.word(10_000)}",
        "Search: of 0.8 %, the best first": f"search?q={queries.word(100)}&sort=best",
        "Search: in a group, with a file": f"search?q={queries.word(10)}&group={group}&file=1",
        "Search: a person": "search?person=a7",
        "Health": "health",
        "Health, 30 days": "health?span=month",
        "Health, the log of one event": "health?event=connect",
        "All accounts": "/sessions",
    }


class Script:
    """Stands in for a connection: what `queries.fill` would execute, as the text of a migration."""

    def __init__(self) -> None:
        self.text = "set check_function_bodies = off;\n"

    def execute(self, query: str, args: Any = ()) -> Script:
        if query.startswith("vacuum "):
            query = query.removeprefix("vacuum ")
        if isinstance(args, Mapping):
            query %= {name: _literal(value) for name, value in args.items()}
        elif args:
            query %= tuple(map(_literal, args))
        self.text += f"{query};\n"
        return self

    def fetchone(self) -> tuple[int]:
        return (0,)


def _literal(value: object) -> str:
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


@asynccontextmanager
async def on_embedded(rows: int, folder: Path) -> AsyncIterator[tuple[Endpoint, list[int]]]:
    """An embedded Supabase with so many messages."""
    script = Script()
    queries.fill(script, rows, _begin(rows))  # type: ignore[arg-type]
    script.text += "analyze;\n"
    migrations = folder / "migrations"
    migrations.mkdir(parents=True)
    for path in MIGRATIONS.glob("*.sql"):
        (migrations / path.name).write_bytes(path.read_bytes())
    (migrations / "99991231235959_fill.sql").write_text(script.text)
    worker.store.embedded.MIGRATE_SECONDS = 3600.0  # type: ignore[misc]
    async with embedded_supabase(Embedded(data_dir=folder / "data", node=NODE, migrations=migrations)) as endpoint:
        yield endpoint, [endpoint.pid]


@asynccontextmanager
async def on_postgres(rows: int, folder: Path) -> AsyncIterator[tuple[Endpoint, list[int]]]:
    """A PostgreSQL with so many messages, behind the same REST server."""
    if not POSTGRES_JS.is_dir():
        sys.exit("PostgreSQL needs the npm package postgres: npm install --no-save postgres")
    with real_postgres() as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            queries.fill(connection, rows, _begin(rows))
            connection.execute("analyze")
        async with rest_server(dsn, folder) as (endpoint, pid):
            yield endpoint, [pid, postmaster(dsn)]


@asynccontextmanager
async def rest_server(dsn: str, folder: Path) -> AsyncIterator[tuple[Endpoint, int]]:
    """What speaks REST before this PostgreSQL, and its process."""
    port, keys = free_port(), load_keys(folder)
    (folder / "supabase").mkdir(parents=True)
    (folder / "supabase" / "config.toml").write_text(CONFIG.format(port=port, url="postgres:///postgres"))
    env = environment(
        {
            "PGHOST": dsn.split()[0].removeprefix("host="), "PGUSER": "postgres", "PGDATABASE": "postgres",
            "EXPERIMENTAL_STORAGE": "1", "LITE_TELEMETRY": "0", "PATH": f"{NODE.parent}:{os.environ['PATH']}",
            "SUPABASE_SECRET_KEY": keys["secret"], "SUPABASE_PUBLISHABLE_KEY": keys["publishable"],
            "LITE_JWT_SECRET": keys["jwt"],
        }
    )  # fmt: skip
    child = Child.start("rest", [NODE, LITE_CLI, "start", "--no-admin"], log=folder / "log", cwd=folder, env=env)
    url = f"http://127.0.0.1:{port}"
    endpoint = Endpoint(url=url, key=keys["secret"], publishable_key="", pid=child.pid, owned=True)
    headers = {"apikey": endpoint.key, "authorization": f"Bearer {endpoint.key}"}
    try:

        async def answers() -> bool:
            async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
                try:
                    return (await http.post(f"{url}/rest/v1/rpc/wa_schema_version", json={})).is_success
                except httpx.TransportError:
                    return False

        await until("the REST server", answers, seconds=SERVER_SECONDS, tell=child.tail)
        yield endpoint, child.pid
    finally:
        await child.stop()


def _begin(rows: int) -> str:
    """So that the last message came just now."""
    return (datetime.now(UTC) - timedelta(minutes=rows + 1)).isoformat()


async def measure(endpoint: Endpoint, rows: int, roots: list[int]) -> None:
    """Every page, in turn. `roots`: the database's first processes."""

    def used() -> float:
        return time.process_time() + cpu_seconds([pid for root in roots for pid in tree(root)])

    async with connect_store(endpoint.url, endpoint.key) as store, served(endpoint, queries.SESSION) as site:
        await site.log_in()
        groups = await store.console.groups(queries.SESSION)
        busiest = next(group.id for group in groups if group.wa_group_id == "1@g.us")
        found: Any = (
            await (
                store._database.table("messages")
                .select("id,ts")
                .eq("group_id", busiest)
                .gte("id", rows // 2)
                .order("id")
            )
            .limit(1)
            .execute()
        )
        middle, day = found.data[0]["id"], found.data[0]["ts"][:10]
        print("| page | median, ms | worst, ms | processor, ms | |\n|---|---|---|---|---|")
        for name, path in pages(busiest, middle, day).items():
            for _ in range(WARM):
                await _ask(site, path)
            before = used()
            taken = [await _ask(site, path) for _ in range(TIMES)]
            cost = (used() - before) / TIMES * 1000
            median = statistics.median(taken)
            mark = "over 200" if median > GOAL_MS else ""
            print(f"| {name} | {median:.0f} | {max(taken):.0f} | {cost:.0f} | {mark} |", flush=True)


async def _ask(site: Site, path: str) -> float:
    """Milliseconds to the last byte."""
    began = time.perf_counter()
    answer = await site.http.get(path if path.startswith("/") else f"{site.base}/{path}", follow_redirects=True)
    took = (time.perf_counter() - began) * 1000
    if answer.status_code != 200:
        raise AssertionError(f"{path}: {answer.status_code}")
    return took


# Viewers


class Pace(NamedTuple):
    """Messages a second; processor seconds of the database for 1,000 messages; of the console for each second."""

    rate: float
    database: float
    console: float


async def viewers(endpoint: Endpoint, count: int) -> None:
    """Commits of 20 at full pace, in windows without and with viewers: one of the one, two of the other, one again."""
    async with connect_store(endpoint.url, endpoint.key) as store, AsyncExitStack() as running:
        session = f"v{secrets.token_hex(4)}"
        held = await writer(store, session)
        await switch(store, session, "1203630@g.us", True)
        port = free_port()
        env = environment(
            {
                "SUPABASE_URL": endpoint.url, "SUPABASE_SERVICE_KEY": endpoint.key, "WORKER_SESSION": session,
                "WORKER_CONSOLE_PORT": str(port), "WORKER_CONSOLE_TOKEN": TOKEN,
            }
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            child = Child.start(
                "console", [PYTHON, "-m", "worker", "console"], log=Path(folder, "log"), cwd=Path(folder), env=env
            )
            running.push_async_callback(child.stop)
            address = f"http://127.0.0.1:{port}"
            cookie = await _log_in(address, child)
            number = 0

            async def pace() -> Pace:
                nonlocal number
                done, began = 0, time.perf_counter()
                before, consoles = cpu_seconds([endpoint.pid]), cpu_seconds([child.pid])
                while time.perf_counter() - began < WINDOW_SECONDS:
                    now = datetime.now(UTC).isoformat()
                    sent = [
                        message(f"N{number + n}", ts=now, received_at=now, sender=f"{n}@lid", text="some words " * 8)
                        for n in range(BATCH)
                    ]
                    await held.commit(messages=sent)
                    number += BATCH
                    done += BATCH
                took = time.perf_counter() - began
                return Pace(
                    rate=done / took,
                    database=(cpu_seconds([endpoint.pid]) - before) / done * 1000,
                    console=(cpu_seconds([child.pid]) - consoles) / took,
                )

            await pace()
            alone: list[Pace] = []
            seen: list[Pace] = []
            for block in range(BLOCKS):
                await store.analyze()  # as a worker's housekeeping does each minute
                for watched in (False, True, True, False) if block % 2 else (True, False, False, True):
                    if not watched:
                        alone.append(await pace())
                        continue
                    watching = _watch(f"{address}/s/{session}/events?after=0", cookie, count)
                    try:
                        await asyncio.to_thread(watching.stdout.readline)  # type: ignore[union-attr]
                        seen.append(await pace())
                    finally:
                        watching.kill()
                        watching.wait()
                        watching.stdout.close()  # type: ignore[union-attr]
            print(f"\ncommits of {BATCH} messages, {BLOCKS} blocks of four windows of {WINDOW_SECONDS:.0f} s; medians:")
            for name, paces in (("without viewers", alone), (f"with {count}", seen)):
                rate, database, console = (statistics.median(column) for column in zip(*paces, strict=True))
                print(
                    f"{name}: {rate:.0f} messages/s; processor: database {database:.3f} s per 1,000 messages, "
                    f"console {console:.1%} of one",
                    flush=True,
                )
            print("with viewers, as a share of without, block by block:")
            for name, column in (("messages/s", 0), ("the database's processor time per message", 1)):
                ratios = [
                    statistics.geometric_mean(pace[column] for pace in seen[n : n + 2])
                    / statistics.geometric_mean(pace[column] for pace in alone[n : n + 2])
                    for n in range(0, 2 * BLOCKS, 2)
                ]
                each = " ".join(f"{ratio:.3f}" for ratio in ratios)
                print(f"{name}: {statistics.geometric_mean(ratios):.3f} ({each})", flush=True)


async def _log_in(address: str, child: Child) -> str:
    async def cookie() -> str | None:
        async with httpx.AsyncClient(base_url=address, trust_env=False) as http:
            try:
                answer = await http.post("/login", data={"token": TOKEN}, headers={"origin": address})
            except httpx.TransportError:
                return None
            return answer.headers.get("set-cookie", "").partition(";")[0] or None

    return await until("the console", cookie, seconds=SERVER_SECONDS, tell=child.tail)


def _watch(url: str, cookie: str, count: int) -> subprocess.Popen[bytes]:
    """A process with so many open feeds, which reads and forgets; a line says that all are open."""
    command: list[str | Path] = [PYTHON, "-m", "bench.console", "--watch", json.dumps([url, cookie, count])]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


async def watch(url: str, cookie: str, count: int) -> None:
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(
        trust_env=False, timeout=QUIET_SECONDS, limits=limits, headers={"cookie": cookie}
    ) as http:
        opened = 0

        async def look() -> None:
            nonlocal opened
            async with http.stream("GET", url) as answer:
                answer.raise_for_status()
                async for _ in answer.aiter_bytes():
                    opened += 1
                    if opened == count:
                        print("open", flush=True)

        await asyncio.gather(*(look() for _ in range(count)))


async def run(args: argparse.Namespace) -> None:
    for name, rows, place in (("PostgreSQL", args.postgres, on_postgres), ("embedded", args.embedded, on_embedded)):
        if not rows:
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            async with place(rows, Path(folder)) as (endpoint, roots):
                load = os.getloadavg()[0]
                print(f"\n{name}, {rows:,} messages, filled in {time.monotonic() - began:.0f} s; load {load:.1f}\n")
                await measure(endpoint, rows, roots)
                if name == "embedded" and args.viewers:
                    await viewers(endpoint, args.viewers)
        print(f"load at the end {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", type=int, default=1_000_000)
    parser.add_argument("--embedded", type=int, default=100_000)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    args = parser.parse_args()
    asyncio.run(watch(*json.loads(args.watch)) if args.watch else run(args))


if __name__ == "__main__":
    main()

"""The poll of many hosts, on a PostgreSQL: `python -m bench.polls [--sessions 1000] [--hosts 20] [--commits 100]`.

No worker runs: each host is a connection that polls every two seconds (WORKER_POLL_MS) for the sessions it holds and
takes those that it is given. Told are the milliseconds of a poll and the locks that anybody waited for (the server logs
each wait above a millisecond): while sessions are handed out, at rest, while sessions commit beside, and when a host
dies without a word. Prints figures; judges nothing. docs/scaling.md has them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.conftest import real_postgres
from tests.integration.database import GROUP, message
from tests.integration.test_sql_races import batch, call
from worker.session.commit_times import quantile

POLL_SECONDS = 2.0
COMMITS_AT_ONCE = 4  # connections that commit, each a session after the other
MESSAGES_A_COMMIT = 5


@dataclass
class Host:
    """A host as far as its polls go."""

    dsn: str
    owner: str
    capacity: int
    lease: float
    held: dict[str, dict[str, Any]] = field(default_factory=dict)  # as the poll is told of them
    taken_at: dict[str, float] = field(default_factory=dict)
    polls_ms: list[float] = field(default_factory=list)
    dead: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll until it dies."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("set role service_role")
            pause = random.uniform(0, POLL_SECONDS)  # noqa: S311 - spread, not secret
            while not self.dead.wait(pause):
                began = time.monotonic()
                self.poll(connection)
                took = time.monotonic() - began
                self.polls_ms.append(took * 1000)
                pause = max(0.0, POLL_SECONDS - took)

    def poll(self, connection: psycopg.Connection[Any]) -> None:
        room = self.capacity - len(self.held)
        held = json.dumps(list(self.held.values()))
        answer = call(connection, "wa_host_poll", self.owner, room, held, self.lease)
        for claimed in answer.get("claimed", ()):
            self.held[claimed["session"]] = {
                "session": claimed["session"], "fence": claimed["fence"], "monitored": None, "media": 2,
                "claimed": True, "settings": claimed["settings"]["version"],
            }  # fmt: skip
            self.taken_at[claimed["session"]] = time.monotonic()
        for session, news in answer.get("news", {}).items():
            if "monitored" in news:
                self.held[session]["monitored"] = news["monitored"]["version"]
        for session in answer.get("lost", ()):
            self.held.pop(session, None)
        for session in answer.get("give_up", ()):
            call(connection, "wa_lease_release", session, self.owner, self.held.pop(session)["fence"])


@dataclass(frozen=True)
class Committers:
    """Held sessions commit, one after the other, at a steady rate. Processes, which keep no host waiting for Python."""

    dsn: str
    held: list[tuple[str, int]]  # session and fence
    rate: float

    @contextmanager
    def running(self) -> Iterator[Callable[[], int]]:
        """Gives the number of commits so far."""
        context = multiprocessing.get_context("spawn")
        commits = context.Value("i", 0)
        stop = context.Event()
        processes = [
            context.Process(target=self.run, args=(self.held[part::COMMITS_AT_ONCE], commits, stop))
            for part in range(COMMITS_AT_ONCE)
        ]
        for process in processes:
            process.start()
        try:
            yield lambda: int(commits.value)
        finally:
            stop.set()
            for process in processes:
                process.join()

    def run(self, held: list[tuple[str, int]], commits: Any, stop: Any) -> None:
        """In a process of its own. A session that moves to another host is left out from then on."""
        began, done = time.monotonic(), 0
        sequences: Counter[str] = Counter()
        epochs: dict[str, int] = {}
        waiting = deque(held)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("set role service_role")
            while waiting:
                session, fence = waiting.popleft()
                try:
                    if session not in epochs:
                        epochs[session] = int(call(connection, "wa_begin_epoch", session, fence)["epoch"])
                    seq = sequences[session] + 1
                    sent = [message(f"{session}-{seq}-{n}") for n in range(MESSAGES_A_COMMIT)]
                    one = batch(seq, fence=fence, epoch=epochs[session], messages=sent)
                    call(connection, "wa_commit", session, one)
                except psycopg.ProgrammingError as error:
                    if "stale_fence" not in str(error):
                        raise
                    continue
                sequences[session] = seq
                waiting.append((session, fence))
                done += 1
                with commits.get_lock():
                    commits.value += 1
                if stop.wait(max(0.0, began + done * COMMITS_AT_ONCE / self.rate - time.monotonic())):
                    return


class Watch:
    """Locks that somebody waited for, by the server's log, and rows that were written."""

    def __init__(self, dsn: str, connection: psycopg.Connection[Any]) -> None:
        self._log = Path(dsn.split()[0].removeprefix("host=")) / "log"
        self._connection = connection

    def waits(self) -> int:
        return self._log.read_text(errors="replace").count("still waiting for")

    def written(self) -> int:
        query = "select coalesce(sum(n_tup_upd + n_tup_ins), 0) from pg_stat_user_tables where relname like 'wa\\_%'"
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def tell(what: str, hosts: list[Host], watch: Watch, seconds: float, more: str = "") -> None:
    """Measure for so long, and print a row."""
    for host in hosts:
        host.polls_ms.clear()
    waits, written = watch.waits(), watch.written()
    time.sleep(seconds)
    polls = sorted(ms for host in hosts for ms in host.polls_ms)
    row = " | ".join(f"{quantile(polls, percent):.1f}" for percent in (50, 99))
    print(
        f"| {what} | {len(polls) / seconds:.1f} | {row} | {polls[-1]:.1f} | {watch.waits() - waits} "
        f"| {(watch.written() - written) / seconds:.0f} |{more}",
        flush=True,
    )


def until_held(hosts: list[Host], count: int, seconds: float) -> float:
    """Seconds until these hosts hold so many sessions."""
    began = time.monotonic()
    while (held := sum(len(host.held) for host in hosts)) < count:
        if time.monotonic() - began > seconds:
            raise SystemExit(f"only {held} of {count} sessions are held after {seconds:g} s")
        time.sleep(0.05)
    return time.monotonic() - began


def fill(connection: psycopg.Connection[Any], sessions: int) -> None:
    """Wanted sessions with a group each."""
    connection.execute(
        "insert into public.wa_sessions (id, wanted) select 's' || to_char(n, 'FM0000'), true "
        "from generate_series(1, %s) as n",
        (sessions,),
    )
    connection.execute(
        "insert into public.groups (session_id, wa_group_id, name, monitor) select id, %s, 'Group', true "
        "from public.wa_sessions",
        (GROUP,),
    )
    connection.execute("analyze")


def main(sessions: int, count: int, seconds: float, lease: float, rate: float) -> None:
    with ExitStack() as stack:
        dsn = stack.enter_context(real_postgres())
        admin = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        for setting, value in {"log_lock_waits": "on", "deadlock_timeout": "1ms"}.items():
            admin.execute(f"alter system set {setting} = '{value}'")
        admin.execute("select pg_reload_conf()")
        fill(admin, sessions)
        capacity = -(-sessions * 5 // (count * 4 - 4))  # room for those of a host that died, and a quarter more
        hosts = [Host(dsn, f"host-{n}", capacity, lease) for n in range(count)]
        threads = [threading.Thread(target=host.run, daemon=True) for host in hosts]
        for host, thread in zip(hosts, threads, strict=True):
            thread.start()
            stack.callback(thread.join)
            stack.callback(host.dead.set)
        took = until_held(hosts, sessions, 120)
        held = [len(host.held) for host in hosts]
        print(f"{sessions} sessions, {count} hosts with room for {capacity}, a poll every {POLL_SECONDS:g} s")
        print(f"handed out in {took:.1f} s, {min(held)} to {max(held)} a host\n")
        print("| | polls/s | p50 ms | p99 | max | locks waited for | rows written/s |\n|---|---|---|---|---|---|---|")
        watch = Watch(dsn, admin)
        time.sleep(lease / 3)  # renewals spread over a third of a lease
        tell("at rest", hosts, watch, seconds)
        fences = [(session, int(seat["fence"])) for host in hosts for session, seat in list(host.held.items())]
        with Committers(dsn, fences, rate).running() as commits:
            while not commits():
                time.sleep(0.05)
            before = commits()
            tell("while sessions commit", hosts, watch, seconds)
            done = commits() - before
        print(f"  ({done / seconds:.0f} commits/s of {MESSAGES_A_COMMIT} messages)")
        dies(hosts, sessions, lease)


def dies(hosts: list[Host], sessions: int, lease: float) -> None:
    """A host ends without a word."""
    victim, *others = hosts
    victim.dead.set()
    died = time.monotonic()
    until_held(others, sessions, lease * 2 + 60)
    times = sorted(
        max(host.taken_at[session] for host in others if session in host.taken_at) - died for session in victim.held
    )
    print(
        f"\na host with {len(victim.held)} sessions died, lease {lease:g} s: others held them after "
        f"{times[0]:.1f} s (first), {statistics.median(times):.1f} s (median), {times[-1]:.1f} s (last)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--commits", type=float, default=100.0, help="a second, by all sessions together")
    given = parser.parse_args()
    main(given.sessions, given.hosts, given.seconds, given.lease, given.commits)

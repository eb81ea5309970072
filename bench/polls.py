"""The poll of many hosts, on a PostgreSQL: `python -m bench.polls [--sessions 1000] [--hosts 20] [--seconds 30]`.

No worker runs: each host is a connection that polls every two seconds (WORKER_POLL_MS) for the sessions it holds and
takes those that it is given. Told are the milliseconds of a poll and the locks that anybody waited for (the server logs
each wait above a millisecond): while sessions are handed out, at rest, while sessions commit beside, and when a host
dies without a word. Prints figures; judges nothing. docs/scaling.md has them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
from collections import Counter
from contextlib import ExitStack
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


class Committers:
    """Sessions commit, one after the other, as if each of them had messages."""

    def __init__(self, dsn: str, hosts: list[Host]) -> None:
        self._dsn = dsn
        self._hosts = hosts
        self._stop = threading.Event()
        self._seq: Counter[str] = Counter()
        self.commits = 0
        self._threads = [threading.Thread(target=self._run, args=(part,)) for part in range(COMMITS_AT_ONCE)]

    def __enter__(self) -> Committers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, part: int) -> None:
        epochs: dict[str, int] = {}
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("set role service_role")
            while not self._stop.is_set():
                for host in self._hosts[part::COMMITS_AT_ONCE]:
                    self._commit(connection, host, epochs)

    def _commit(self, connection: psycopg.Connection[Any], host: Host, epochs: dict[str, int]) -> None:
        held = [(one, seat["fence"]) for one, seat in list(host.held.items())]
        if not held:
            return
        session, fence = random.choice(held)  # noqa: S311
        if session not in epochs:
            epochs[session] = int(call(connection, "wa_begin_epoch", session, int(fence))["epoch"])
            self._seq[session] = 0
        self._seq[session] += 1
        seq = self._seq[session]
        sent = [message(f"{session}-{seq}-{n}") for n in range(MESSAGES_A_COMMIT)]
        call(connection, "wa_commit", session, batch(seq, fence=int(fence), epoch=epochs[session], messages=sent))
        self.commits += 1


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


def main(sessions: int, count: int, seconds: float, lease: float) -> None:
    with ExitStack() as stack:
        dsn = stack.enter_context(real_postgres())
        admin = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        for setting, value in {"log_lock_waits": "on", "deadlock_timeout": "1ms"}.items():
            admin.execute(f"alter system set {setting} = '{value}'")
        admin.execute("select pg_reload_conf()")
        fill(admin, sessions)
        capacity = -(
            -sessions * 5 // (count * 4)
        )  # a quarter more than their share: room for those of a host that died
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
        with Committers(dsn, hosts) as committers:
            tell("while sessions commit", hosts, watch, seconds)
        print(f"  ({committers.commits / seconds:.0f} commits/s of {MESSAGES_A_COMMIT} messages)")
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
    given = parser.parse_args()
    main(given.sessions, given.hosts, given.seconds, given.lease)

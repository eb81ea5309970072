"""What needs two connections: locks, leases, claims. On a real PostgreSQL; the embedded one is serial.

One connection stops in the middle of its transaction, the other is started and seen to wait (pg_blocking_pids), then
the first goes on: the order of events is made, not hoped for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest

from tests.integration.database import GROUP, message, photo

Connection = psycopg.Connection[Any]


def call(connection: Connection, function: str, *args: object) -> Any:
    """The answer of a function; of one in the schema `wa` if the name says so, else in `public`."""
    marks = ", ".join(["%s"] * len(args))
    schema = "" if function.startswith("wa.") else "public."
    row = connection.execute(f"select {schema}{function}({marks})", args).fetchone()
    assert row is not None
    return row[0]


def batch(seq: int, *, fence: int = 1, epoch: int = 1, **parts: object) -> str:
    return json.dumps({"fence": str(fence), "epoch": str(epoch), "seq": str(seq), **parts})


@pytest.fixture
def connect(postgres: str) -> Iterator[Callable[[], Connection]]:
    """Connections of the service role, each with its own transactions."""
    opened: list[Connection] = []

    def open_one() -> Connection:
        connection = psycopg.connect(postgres)
        connection.execute("set role service_role")
        connection.commit()
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def session(connect: Callable[[], Connection]) -> str:
    """A session whose lease 'a' holds with fence 1, in epoch 1, with one monitored group."""
    name = f"t-{uuid4().hex[:12]}"
    with connect() as connection:
        call(connection, "wa_lease_acquire", name, "a", 60)
        call(connection, "wa_begin_epoch", name, 1)
        call(connection, "wa_upsert_groups", name, 1, json.dumps([{"wa_group_id": GROUP}]), False)
        connection.execute("update public.groups set monitor = true where session_id = %s", (name,))
    return name


class Beside:
    """A call on another connection, in a thread of its own."""

    def __init__(self, postgres: str, connection: Connection) -> None:
        self._postgres = postgres
        self._connection = connection
        self._pool = ThreadPoolExecutor(1)

    def start(self, function: str, *args: object) -> Future[Any]:
        def work() -> Any:
            with self._connection.transaction():
                return call(self._connection, function, *args)

        return self._pool.submit(work)

    def start_after(self, statement: LiteralString, function: str, *args: object) -> Future[Any]:
        """As `start`, after a statement that is rolled back with the call."""

        def work() -> Any:
            with self._connection.transaction(force_rollback=True):
                self._connection.execute(statement)
                return call(self._connection, function, *args)

        return self._pool.submit(work)

    def wait_until_blocked(self, future: Future[Any]) -> None:
        """Returns when the call waits for a lock; fails if it ended instead."""
        tick = threading.Event()
        with psycopg.connect(self._postgres, autocommit=True) as watcher:
            for _ in range(2000):
                assert not future.done(), "it did not wait"
                row = watcher.execute("select pg_blocking_pids(%s)", (self._connection.info.backend_pid,)).fetchone()
                if row is not None and row[0]:
                    return
                tick.wait(0.005)
        raise AssertionError("it never waited for a lock")


@pytest.fixture
def beside(postgres: str, connect: Callable[[], Connection]) -> Beside:
    return Beside(postgres, connect())


def test_of_two_workers_that_ask_at_once_one_gets_the_lease(connect: Callable[[], Connection], beside: Beside) -> None:
    name = f"t-{uuid4().hex[:12]}"
    mine = connect()
    first = call(mine, "wa_lease_acquire", name, "a", 60)
    second = beside.start("wa_lease_acquire", name, "b", 60)
    beside.wait_until_blocked(second)
    mine.commit()
    assert (first["acquired"], first["fence"]) == (True, "1")
    answer = second.result(10)
    assert (answer["acquired"], answer["holder"]) == (False, "a")


def test_of_two_workers_that_take_an_expired_lease_one_gets_it(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    mine.execute("update public.wa_sessions set lease_expires_at = now() - interval '1 s' where id = %s", (session,))
    mine.commit()
    first = call(mine, "wa_lease_acquire", session, "b", 60)
    second = beside.start("wa_lease_acquire", session, "c", 60)
    beside.wait_until_blocked(second)
    mine.commit()
    assert (first["acquired"], first["fence"]) == (True, "2")
    assert not second.result(10)["acquired"]


def test_a_lease_is_judged_by_the_time_after_the_wait(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    """It was still held when the other transaction began, and expired while that waited for the row."""
    mine = connect()
    mine.execute("select 1 from public.wa_sessions where id = %s for update", (session,))
    other = beside.start("wa_lease_acquire", session, "b", 60)
    beside.wait_until_blocked(other)
    mine.execute(
        "update public.wa_sessions set lease_expires_at = clock_timestamp() - interval '1 microsecond' where id = %s",
        (session,),
    )
    mine.commit()
    answer = other.result(10)
    assert (answer["acquired"], answer["fence"]) == (True, "2")


def test_many_workers_never_hold_one_lease_together(connect: Callable[[], Connection]) -> None:
    name = f"t-{uuid4().hex[:12]}"
    owners = [f"w{n}" for n in range(4)]
    connections = {owner: connect() for owner in owners}
    barrier = threading.Barrier(len(owners))

    def fight(owner: str) -> list[int]:
        """The fences that this one held: asks, gives back what it got, asks again."""
        fences = []
        barrier.wait(10)
        for _ in range(25):
            with connections[owner].transaction():
                answer = call(connections[owner], "wa_lease_acquire", name, owner, 60)
            if answer["acquired"]:
                fences.append(int(answer["fence"]))
                with connections[owner].transaction():
                    assert call(connections[owner], "wa_lease_release", name, owner, answer["fence"])["released"]
        return fences

    with ThreadPoolExecutor(len(owners)) as pool:
        held = [fence for fences in pool.map(fight, owners) for fence in fences]
    assert sorted(held) == list(range(1, len(held) + 1))  # every fence had one holder


def test_two_commits_of_one_number_write_once(connect: Callable[[], Connection], beside: Beside, session: str) -> None:
    """A commit that ran into a time-out still runs while the worker sends it again."""
    mine = connect()
    first = call(mine, "wa_commit", session, batch(1, messages=[message("A1")], discards={"too_old": 1}))
    again = beside.start("wa_commit", session, batch(1, messages=[message("A1")], discards={"too_old": 1}))
    beside.wait_until_blocked(again)
    mine.commit()
    assert (first["duplicate"], again.result(10)["duplicate"]) == (False, True)
    count = mine.execute("select count from public.wa_discards where session_id = %s", (session,)).fetchone()
    assert count == (1,)


def test_a_commit_that_was_rolled_back_is_applied_by_the_next(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1")]))
    again = beside.start("wa_commit", session, batch(1, messages=[message("A1")]))
    beside.wait_until_blocked(again)
    mine.rollback()
    assert (again.result(10)["duplicate"], again.result()["stored"]) == (False, 1)


def test_a_take_over_waits_for_the_commit_and_the_next_commit_is_refused(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    expire = "update public.wa_sessions set lease_expires_at = now() - interval '1 s' where id = %s"
    mine.execute(expire, (session,))
    mine.commit()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1")]))
    tried = beside.start("wa_lease_acquire", session, "b", 60)
    beside.wait_until_blocked(tried)
    mine.commit()
    assert tried.result(10)["acquired"] is False, "a commit renews the lease"

    mine.execute(expire, (session,))
    taken = beside.start("wa_lease_acquire", session, "b", 60)
    beside.wait_until_blocked(taken)
    mine.commit()
    assert taken.result(10)["fence"] == "2"
    with pytest.raises(psycopg.Error) as refused:
        call(mine, "wa_commit", session, batch(2))
    assert (refused.value.sqlstate, str(refused.value).splitlines()[0]) == ("PT409", "stale_fence")


def test_pairs_are_made_over_two_concurrent_commits(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1", 0)]))
    second = beside.start("wa_commit", session, batch(2, messages=[photo("A2", 10)]))
    beside.wait_until_blocked(second)
    mine.commit()
    assert second.result(10)["stored"] == 1
    pair = mine.execute(
        "select p.wa_msg_id from public.messages as m inner join public.messages as p on m.parent_id = p.id "
        "where m.session_id = %s",
        (session,),
    ).fetchall()
    assert pair == [("A1",)]


def test_claims_skip_what_another_is_claiming(connect: Callable[[], Connection], session: str) -> None:
    one, two = connect(), connect()
    call(one, "wa_commit", session, batch(1, messages=[photo(f"A{n}", n * 200) for n in range(5)]))
    one.commit()
    first = call(one, "wa_media_claim", "m1", 2, 60, session)["jobs"]  # not committed yet
    second = call(two, "wa_media_claim", "m2", 10, 60, session)["jobs"]
    two.commit()
    one.commit()
    assert [len(first), len(second)] == [2, 3]
    assert not {job["id"] for job in first} & {job["id"] for job in second}


def test_two_processes_that_finish_the_same_content_share_a_row(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[photo("A1"), photo("A2", 200)]))
    one, two = call(mine, "wa_media_claim", "m", 2, 60, session)["jobs"]
    mine.commit()
    sha256 = uuid4().hex * 2
    file = json.dumps({"sha256": sha256, "mime": "image/jpeg", "bytes": "3", "storage_path": f"{sha256}/original.jpg"})
    first = call(mine, "wa_media_done", one["id"], "m", file)
    second = beside.start("wa_media_done", two["id"], "m", file)
    beside.wait_until_blocked(second)
    mine.commit()
    answer = second.result(10)
    assert (first["reused"], answer["reused"]) == (False, True)
    assert first["media_id"] == answer["media_id"]


def test_the_hot_queries_use_their_indexes(postgres: str, session: str) -> None:
    """On 20,000 messages of one sender, in order: linking looks at a handful of them."""
    with psycopg.connect(postgres) as connection:
        connection.execute(
            "insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, ts, kind) "
            "select %(s)s, g.id, n::text, g.wa_group_id, 'ana@lid', '2026-01-01'::timestamptz + n * interval '1 s', "
            "'text' from public.groups as g, generate_series(1, 20000) as n where g.session_id = %(s)s",
            {"s": session},
        )
        connection.execute("analyze public.messages")
        before = _rows_read(connection)
        call(connection, "wa_commit", session, batch(1, messages=[photo("new", 86400 * 400)]))
        assert _rows_read(connection) - before < 100  # a scan would read 20,000
        connection.rollback()


def _rows_read(connection: Connection) -> int:
    """Rows of messages that scans of the table have read in this transaction."""
    row = connection.execute("select pg_stat_get_xact_tuples_returned('public.messages'::regclass)").fetchone()
    assert row is not None
    return int(row[0])

"""The change cursor on a real PostgreSQL: many writers at once, some slow, some rolled back; nothing is missed."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.database import GROUP, at, message, photo, stub
from tests.integration.test_sql_races import Beside, Connection, batch, beside, call, connect, session
from tests.integration.test_store_changes import change

__all__ = ["beside", "connect", "session"]  # fixtures

PEOPLE = [f"{n}@lid" for n in range(4)]
NUMBERS = [f"49{n}@s.whatsapp.net" for n in range(4)]


class Replica:
    """What an app holds that knows the database by the cursor alone."""

    def __init__(self, session: str) -> None:
        self._session = session
        self.cursor = "0"
        self.rows: dict[int, Any] = {}

    def follow(self, connection: Connection, limit: int = 7) -> int:
        """One page; how many changes it had."""
        page = call(connection, "changes", self._session, self.cursor, limit)
        connection.commit()
        assert page["start_again"] is False
        numbers = [int(changed["change_id"]) for changed in page["changes"]]
        assert numbers == sorted(numbers)
        for changed in page["changes"]:
            if changed["deleted"]:
                self.rows.pop(changed["message_id"], None)
            elif changed["message"] is not None:
                self.rows[changed["message_id"]] = changed["message"]
        self.cursor = page["next"]
        return len(numbers)

    def catch_up(self, connection: Connection) -> None:
        while self.follow(connection):
            pass


def whole(connection: Connection, session: str) -> dict[int, Any]:
    """What an app shows, read without the cursor: every row in the form that `changes` gives."""
    fresh = Replica(session)
    fresh.catch_up(connection)
    stored = connection.execute("select id from public.messages where session_id = %s", (session,)).fetchall()
    assert set(fresh.rows) == {row[0] for row in stored}
    return fresh.rows


class Writers:
    """Everybody who writes, each in a transaction of their own; what they do is chosen by chance."""

    def __init__(self, session: str, seed: int) -> None:
        self._session = session
        self._random = random.Random(seed)  # noqa: S311
        self._seq = 0
        self._lock = threading.Lock()

    def commit(self, connection: Connection) -> None:
        """Messages, stubs and their good copies, edits, revokes, reactions, quotes, persons who become one."""
        chance = self._random
        with self._lock:  # the worker sends one batch at a time
            names = [f"M{chance.randrange(40)}" for _ in range(6)]
            make = [chance.choice([message, photo, stub])(name, chance.randrange(900)) for name in names]
            for row in make:
                row["sender"] = chance.choice(PEOPLE + NUMBERS)
            changes = []
            for kind in chance.choices(["edit", "revoke", "reaction", "quote"], k=4):
                who, target = chance.choice(PEOPLE + NUMBERS), chance.choice(PEOPLE + NUMBERS)
                author = target if kind in {"edit", "revoke"} else who
                payload = {"edit": {"text": uuid4().hex}, "reaction": {"emoji": chance.choice("ab")}}.get(kind, {})
                changes.append(
                    change(
                        kind, f"M{chance.randrange(40)}", names[0] if kind == "quote" else uuid4().hex,
                        target_sender=target, author=make[0]["sender"] if kind == "quote" else author,
                        at=at(chance.randrange(900)), payload=payload,
                    )
                )  # fmt: skip
            pair = chance.randrange(12)
            identities = [{"lid": PEOPLE[pair], "pn": NUMBERS[pair]}] if pair < len(PEOPLE) else []
            parts: dict[str, Any] = {"messages": make, "changes": changes, "identities": identities}
            call(connection, "wa_commit", self._session, batch(self._seq + 1, **parts))
            self.end(connection)

    def end(self, connection: Connection, *, counts: bool = True) -> None:
        """Commits or rolls back, now or after a while."""
        if self._random.random() < 0.5:  # a commit that takes its time after it has drawn the numbers
            connection.execute("set constraints all immediate")
        threading.Event().wait(self._random.choice([0, 0, 0.01, 0.03]))
        if self._random.random() < 0.2:
            connection.rollback()
        else:
            connection.commit()
            self._seq += counts

    def media(self, connection: Connection) -> None:
        for job in call(connection, "wa_media_claim", "w", 2, 60, self._session)["jobs"]:
            if self._random.random() < 0.5:
                call(connection, "wa_media_abandon", job["id"], "w", "expired", "GONE", "gone")
            else:
                sha256 = uuid4().hex * 2
                file = {"sha256": sha256, "mime": "image/jpeg", "bytes": 3, "storage_path": f"{sha256}/original.jpg"}
                call(connection, "wa_media_done", job["id"], "w", json.dumps(file))
        self.end(connection, counts=False)

    def prune(self, connection: Connection) -> None:
        before = at(self._random.randrange(120))
        call(connection, "wa_delete_messages", self._session, before, 3)
        self.end(connection, counts=False)

    def app(self, connection: Connection) -> None:
        """A person who deletes a message in the web app."""
        connection.execute(
            "delete from public.messages where id = (select id from public.messages where session_id = %s "
            "order by random() limit 1)",
            (self._session,),
        )
        self.end(connection, counts=False)

    def lost(self, connection: Connection) -> None:
        call(connection, "wa_mark_lost", self._session, 0)
        self.end(connection, counts=False)

    def work(self, connection: Connection, kind: Callable[[Connection], None], times: int) -> None:
        for _ in range(times):
            try:
                kind(connection)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.IntegrityError):  # as a client: it is repeated
                connection.rollback()


@pytest.mark.parametrize("seed", range(6))
def test_whoever_follows_the_cursor_ends_with_what_is_stored(
    connect: Callable[[], Connection], session: str, seed: int
) -> None:
    writers = Writers(session, seed)
    kinds = [writers.commit, writers.media, writers.prune, writers.app, writers.lost]
    replica, reader = Replica(session), connect()
    with ThreadPoolExecutor(len(kinds)) as pool:
        running = [pool.submit(writers.work, connect(), kind, 25) for kind in kinds]
        while not all(work.done() for work in running):
            replica.follow(reader)
    for work in running:
        work.result()
    replica.catch_up(reader)
    assert replica.rows == whole(reader, session)
    assert len(replica.rows) > 5


def test_a_long_transaction_holds_nobody_up_and_is_not_missed(connect: Callable[[], Connection], session: str) -> None:
    slow, quick, reader = connect(), connect(), connect()
    call(quick, "wa_commit", session, batch(1, messages=[message("A1"), message("A2", 500)]))
    quick.commit()
    replica = Replica(session)
    replica.catch_up(reader)
    first, second = sorted(replica.rows)
    slow.execute("update public.messages set text = 'slow' where id = %s", (first,))
    quick.execute("update public.messages set text = 'quick' where id = %s", (second,))
    quick.commit()
    replica.catch_up(reader)
    assert replica.rows[second]["text"] == "quick"
    slow.commit()
    replica.catch_up(reader)
    assert replica.rows[first]["text"] == "slow"


def test_a_number_is_drawn_only_when_all_lower_ones_are_to_be_seen(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    """`set constraints` draws the numbers early, as a commit that stops half-way would have."""
    stopped, reader = connect(), connect()
    call(stopped, "wa_commit", session, batch(1, messages=[message("A1")]))
    stopped.execute("set constraints all immediate")
    other = f"t-{uuid4().hex[:12]}"
    call(reader, "wa_lease_acquire", other, "a", 60)
    call(reader, "wa_begin_epoch", other, 1)
    call(reader, "wa_upsert_groups", other, 1, json.dumps([{"wa_group_id": GROUP}]), False)
    reader.execute("update public.groups set monitor = true where session_id = %s", (other,))
    reader.commit()
    call(reader, "wa_commit", other, batch(1, messages=[message("B1")]))
    reader.commit()  # another session does not wait
    late = beside.start("wa.note_change", session, 1, False)
    beside.wait_until_blocked(late)
    stopped.commit()
    late.result(30)


def forget(connection: Connection, session: str) -> int:
    """All deletions so far are too old to be kept."""
    pruned = call(connection, "wa_prune_changes", session, 0)["pruned"]
    connection.commit()
    return int(pruned)


def test_a_cursor_older_than_what_is_kept_of_deletions_starts_again(
    connect: Callable[[], Connection], session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1"), message("A2", 500)]))
    mine.commit()
    replica = Replica(session)
    replica.catch_up(mine)
    old = replica.cursor
    call(mine, "wa_delete_messages", session, at(100), 10)
    mine.commit()
    replica.catch_up(mine)
    assert [row["wa_msg_id"] for row in replica.rows.values()] == ["A2"]
    assert forget(mine, session) == 1
    assert call(mine, "changes", session, old, 10) == {"changes": [], "next": replica.cursor, "start_again": True}
    assert call(mine, "changes", session, replica.cursor, 10)["start_again"] is False, "it has seen the deletion"
    fresh = Replica(session)
    fresh.follow(mine, 1)
    call(mine, "wa_commit", session, batch(2, messages=[message("A3", 900)]))
    mine.commit()
    fresh.catch_up(mine)
    assert fresh.cursor > replica.cursor
    replica.catch_up(mine)
    assert whole(mine, session) == fresh.rows == replica.rows
    foreign = str(int(replica.cursor) + 10_000)
    assert call(mine, "changes", session, foreign, 10)["start_again"], "of a database that was restored"
    assert call(mine, "changes", session, None, 10) == {"changes": [], "next": replica.cursor, "start_again": False}


def test_a_message_that_is_gone_does_not_come_back(connect: Callable[[], Connection], session: str) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1")]))
    reaction = change("reaction", "A1", "R1", author="ben@lid", payload={"emoji": "x"})
    call(mine, "wa_commit", session, batch(2, changes=[reaction]))
    mine.commit()
    mine.execute("delete from public.messages where session_id = %s", (session,))
    mine.commit()
    page = call(mine, "changes", session, "0", 10)
    assert [(row["deleted"], row["message"]) for row in page["changes"]] == [(True, None)]
    mine.execute("select wa.note_change(%s, %s, false)", (session, page["changes"][0]["message_id"]))
    mine.commit()
    assert call(mine, "changes", session, "0", 10) == page

"""The change cursor on a real PostgreSQL: many writers at once, some slow, some rolled back; nothing is missed."""

from __future__ import annotations

import base64
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

DUE = {"expires_at": "2020-01-01T00:00:00Z"}
EVERYTHING = {
    "batch", "media", "requeue", "prune", "expire blank", "expire delete", "take back", "app", "console", "lost",
}  # fmt: skip
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
        self.done: set[str] = set()  # what was done and committed, at least once
        self._random = random.Random(seed)  # noqa: S311
        self._seq = 0
        self._lock = threading.Lock()

    def commit(self, connection: Connection) -> None:
        """Messages, stubs and their good copies, better copies of photos, edits, revokes, reactions, quotes, notices of
        members, what the database would not take, persons who become one."""
        chance = self._random
        with self._lock:  # the worker sends one batch at a time
            names = [f"M{chance.randrange(40)}" for _ in range(6)]
            make = [chance.choice([message, photo, stub])(name, chance.randrange(900)) for name in names]
            for row in make:
                row["sender"] = chance.choice(PEOPLE + NUMBERS)
                row |= DUE if chance.random() < 0.2 else {}
            better = photo(f"H{chance.randrange(40)}", 901, rendition="hd", sender=make[0]["sender"])
            changes = [self.rendition(better["wa_msg_id"], better["sender"])]
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
            joined = {"wa_group_id": GROUP, "at": at(chance.randrange(900)), "what": chance.choice(["joined", "left"])}
            parts: dict[str, Any] = {"messages": [*make, better], "changes": changes, "identities": identities}
            parts["members"] = [joined | {"members": [{"member": chance.choice(PEOPLE + NUMBERS), "role": "member"}]}]
            parts["refused"] = [self.refused(f"R{chance.randrange(20)}")]
            call(connection, "wa_commit", self._session, batch(self._seq + 1, **parts))
            self.end(connection)

    def rendition(self, name: str, sender: str) -> dict[str, Any]:
        of = {"target_sender": sender, "author": sender, "at": at(901)}
        return change("rendition", f"M{self._random.randrange(40)}", name, **of)

    def refused(self, name: str) -> dict[str, Any]:
        """A message that waits for the database to take it."""
        row = message(name, self._random.randrange(900), sender=self._random.choice(PEOPLE))
        body = base64.b64encode(json.dumps(row).encode()).decode()
        named = {"chat_id": GROUP, "sender": row["sender"], "wa_msg_id": name}
        return named | {"state": "waiting", "code": "57014", "reason": "", "encoding": "base64", "body": body}

    def end(self, connection: Connection, what: str | None = None) -> None:
        """Commits or rolls back, now or after a while. `what` was done, or nothing; None: a batch."""
        if self._random.random() < 0.5:  # a commit that takes its time after it has drawn the numbers
            connection.execute("set constraints all immediate")
        threading.Event().wait(self._random.choice([0, 0, 0.01, 0.03]))
        if self._random.random() < 0.2:
            connection.rollback()
        else:
            connection.commit()
            self._seq += what is None
            self.done.add("batch" if what is None else what)

    def media(self, connection: Connection) -> None:
        jobs = call(connection, "wa_media_claim", "w", 2, 60, self._session)["jobs"]
        for job in jobs:
            if self._random.random() < 0.5:
                call(connection, "wa_media_abandon", job["id"], "w", "expired", "GONE", "gone")
            else:
                sha256 = uuid4().hex * 2
                size = self._random.randrange(1, 9)  # whether a better copy takes the first one's place
                file = {"sha256": sha256, "mime": "image/jpeg", "bytes": size, "storage_path": f"{sha256}/original.jpg"}
                call(connection, "wa_media_done", job["id"], "w", json.dumps(file))
        self.end(connection, "media" if jobs else "")

    def requeue(self, connection: Connection) -> None:
        """`wa-worker media retry`."""
        asked = call(connection, "wa_media_requeue", self._session, json.dumps(["expired"]))
        self.end(connection, "requeue" if asked["requeued"] else "")

    def prune(self, connection: Connection) -> None:
        before = at(self._random.randrange(300))
        gone = call(connection, "wa_delete_messages", self._session, before, 3)
        self.end(connection, "prune" if gone["messages"] else "")

    def expire(self, connection: Connection) -> None:
        mode = self._random.choice(["blank", "delete"])
        gone = call(connection, "wa_expire", self._session, mode, 2)
        self.end(connection, f"expire {mode}" if gone["expired"] else "")

    def take_back(self, connection: Connection) -> None:
        """`wa-worker refused retry`."""
        row = connection.execute(
            "select id from public.wa_refused_stanzas where session_id = %s order by random() limit 1", (self._session,)
        ).fetchone()
        taken = row is not None and call(connection, "wa_retry_refused", self._session, row[0])["taken"]
        self.end(connection, "take back" if taken else "")

    def app(self, connection: Connection) -> None:
        """A person who deletes a message in the web app."""
        gone = connection.execute(
            "delete from public.messages where id = (select id from public.messages where session_id = %s "
            "order by random() limit 1)",
            (self._session,),
        )
        self.end(connection, "app" if gone.rowcount else "")

    def console(self, connection: Connection) -> None:
        """The group is switched off and on again; between, nothing is stored and nothing taken back."""
        switch = "update public.groups set monitor = %s where session_id = %s"
        connection.execute(switch, (False, self._session))
        self.end(connection, "console")
        connection.execute(switch, (True, self._session))
        connection.commit()

    def lost(self, connection: Connection) -> None:
        call(connection, "wa_mark_lost", self._session, 0)
        self.end(connection, "lost")

    def work(self, connection: Connection, kind: Callable[[Connection], None]) -> None:
        """Does it 25 times, and goes on until everybody has done something, as far as chance allows it."""
        for time in range(1000):
            if time >= 25 and self.done >= EVERYTHING:
                return
            try:
                kind(connection)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.IntegrityError):  # as a client: it is repeated
                pass
            finally:
                connection.rollback()  # one that fails must not keep the others waiting


@pytest.mark.parametrize("seed", range(6))
def test_whoever_follows_the_cursor_ends_with_what_is_stored(
    connect: Callable[[], Connection], session: str, seed: int
) -> None:
    writers = Writers(session, seed)
    kinds = [
        writers.commit, writers.media, writers.requeue, writers.prune, writers.expire, writers.take_back, writers.app,
        writers.console, writers.lost,
    ]  # fmt: skip
    replica, reader = Replica(session), connect()
    with ThreadPoolExecutor(len(kinds)) as pool:
        running = [pool.submit(writers.work, connect(), kind) for kind in kinds]
        while not all(work.done() for work in running):
            replica.follow(reader)
    for work in running:
        work.result()
    replica.catch_up(reader)
    assert replica.rows == whole(reader, session)
    assert writers.done >= EVERYTHING


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


def test_whoever_slept_while_a_session_was_removed_and_added_again_starts_again(
    connect: Callable[[], Connection], session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1"), message("A2", 500)]))
    mine.commit()
    replica, asleep = Replica(session), Replica(session)
    for follower in (replica, asleep):
        follower.catch_up(mine)
    call(mine, "wa_lease_release", session, "a", 1)
    mine.commit()
    while call(mine, "wa_remove_session", session, True, 1)["more"]:
        mine.commit()
    mine.commit()
    told = call(mine, "changes", session, asleep.cursor, 10)
    assert (told["start_again"], told["changes"]) == (True, [])
    fence = call(mine, "wa_lease_acquire", session, "b", 60)["fence"]
    epoch = call(mine, "wa_begin_epoch", session, fence)["epoch"]
    call(mine, "wa_upsert_groups", session, fence, json.dumps([{"wa_group_id": GROUP}]), False)
    mine.execute("update public.groups set monitor = true where session_id = %s", (session,))
    messages = [message(f"B{n}", n) for n in range(5)]
    call(mine, "wa_commit", session, batch(1, fence=fence, epoch=epoch, messages=messages))
    mine.commit()
    assert call(mine, "changes", session, asleep.cursor, 10)["start_again"], "its messages are gone"
    assert {row["wa_msg_id"] for row in whole(mine, session).values()} == {f"B{n}" for n in range(5)}


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

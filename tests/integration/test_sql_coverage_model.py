"""What is missing lies in a gap, whatever happens in whatever order: `coverage()` against a WhatsApp that remembers.

The model knows nothing of the ledger: it keeps what was sent, and asks the table of messages what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.database import GROUP, message, stub
from tests.integration.test_sql_host_poll import held
from tests.integration.test_sql_races import Connection, batch, call, connect

__all__ = ["connect"]  # fixture

LEASE_SECONDS = 60


class Account:
    """WhatsApp's view of an account with one group, and a worker that serves it as the real one does."""

    def __init__(self, connection: Connection) -> None:
        self.db = connection
        self.session = f"t-{uuid4().hex[:12]}"
        self.linked = self.away_from_group = False
        self.numbers = count()
        self.sent: dict[str, datetime] = {}
        self.waiting: list[tuple[str, str]] = []  # name, and how it will be received
        self.fence: int | None = None  # of the worker, while it runs
        self.epoch = self.seq = 0
        self.known: tuple[int, bool] | None = None  # the version that it has read, and whether it stores the group
        self.connected = False
        call(connection, "wa_add_session", self.session, False)
        self._write_group()

    # The world

    def send(self, how: str = "stored") -> None:
        name = f"m{next(self.numbers)}"
        self.sent[name] = self._now()
        if self.linked and not self.away_from_group:
            self.waiting.append((name, how))
            self._receive()

    def send_unreadable(self) -> None:
        self.send("unreadable")

    def send_refused(self) -> None:
        self.send("refused")

    def send_late(self) -> None:
        self.send("late")

    def leave(self) -> None:
        self.away_from_group = True
        self._hear_of_group()

    def join(self) -> None:
        self.away_from_group = False
        self._hear_of_group()

    def unlink(self) -> None:
        self.linked = False
        self.waiting.clear()
        if self.connected:
            self._wipe()

    # The worker

    def start(self) -> None:
        if self.fence is not None:
            return
        answer = call(self.db, "wa_lease_acquire", self.session, "a", LEASE_SECONDS)
        self.fence = int(answer["fence"])
        self.poll()
        self._connect()

    def stop(self) -> None:
        if self.fence is not None:
            call(self.db, "wa_lease_release", self.session, "a", self.fence)
        self._end()

    def crash(self) -> None:
        self.db.execute(
            "update public.wa_sessions set lease_expires_at = now() where id = %s and lease_owner is not null",
            (self.session,),
        )
        self._end()

    def poll(self) -> None:
        """The worker tells what it knows, and learns what is new."""
        if self.fence is None:
            return
        told: dict[str, Any] = {"fence": str(self.fence), "monitored": self.known and str(self.known[0])}
        if self.connected and not self.waiting:
            told |= {"epoch": str(self.epoch), "complete_to": self._now().isoformat()}
        answer = call(self.db, "wa_host_poll", "a", 0, json.dumps([held(self.session, **told)]))
        if monitored := answer.get("news", {}).get(self.session, {}).get("monitored"):
            self.known = int(monitored["version"]), GROUP in monitored["groups"]

    def lose_connection(self) -> None:
        if self.connected:
            self.connected = False
            self._status("disconnected")

    def connect_again(self) -> None:
        if self.fence is not None and not self.connected:
            self._connect()

    def link(self) -> None:
        if self.fence is None or self.linked:
            return
        self._wipe()
        self.linked = True
        self._connect(wa_number="4917")
        self._commit(creds="creds")

    def remove(self) -> None:
        """The session is removed, what it stored is kept. A worker may start it again."""
        self.stop()
        self.linked = False
        self.waiting.clear()
        while call(self.db, "wa_remove_session", self.session, False, 1000)["more"]:
            pass

    # People

    def switch_on(self) -> None:
        self._switch(True)

    def switch_off(self) -> None:
        self._switch(False)

    def delete_group(self) -> None:
        """Its messages go with it: by hand, which no ledger can know."""
        gone = self.db.execute(
            "delete from public.messages where session_id = %s returning wa_msg_id", (self.session,)
        ).fetchall()
        for (name,) in gone:
            del self.sent[name]
        self.db.execute("delete from public.groups where session_id = %s", (self.session,))
        self._write_group()

    def delete_old(self) -> None:
        call(self.db, "wa_delete_messages", self.session, self._now().isoformat(), 1000)

    def serve(self) -> None:
        """Everything that it takes to store the group."""
        for step in (self.start, self.link, self.join, self.connect_again, self.switch_on, self.poll, self.poll):
            step()

    # What must hold

    def missing(self) -> list[str]:
        rows = self.db.execute(
            "select wa_msg_id from public.messages where session_id = %s and kind <> 'undecryptable'", (self.session,)
        ).fetchall()
        return sorted(self.sent.keys() - {row[0] for row in rows})

    def unexplained(self) -> list[str]:
        """Missing messages of which the archive claims that nothing is missing."""
        whole = call(self.db, "coverage", self.session, GROUP)
        return [name for name in self.missing() if self._is_claimed(whole, self.sent[name])]

    def _is_claimed(self, whole: dict[str, Any], sent: datetime) -> bool:
        gaps = [
            gap
            for gap in whole["gaps"]
            if (gap["from"] is None or datetime.fromisoformat(gap["from"]) <= sent)
            and (gap["to"] is None or datetime.fromisoformat(gap["to"]) >= sent)
        ]
        since = whole["since"] and datetime.fromisoformat(whole["since"])
        return bool(whole["complete"] or not gaps or (since and since < sent))

    def claimed_alone(self) -> list[str]:
        """The same, asked about the moment of each."""
        moment = timedelta(microseconds=1)
        return [
            name
            for name in self.missing()
            if call(self.db, "coverage", self.session, GROUP, self.sent[name] - moment, self.sent[name])["complete"]
        ]

    # How

    def _now(self) -> datetime:
        found: datetime = self.db.execute("select clock_timestamp()").fetchone()[0]  # type: ignore[index]
        return found

    def _connect(self, **more: object) -> None:
        if not self.linked:
            self._wipe()
            return
        self.epoch = int(call(self.db, "wa_begin_epoch", self.session, self.fence)["epoch"])
        self.seq = 0
        self.connected = True
        self._status("connected", **more)
        self._hear_of_group()
        self._receive()

    def _status(self, status: str, **more: object) -> None:
        call(self.db, "wa_set_session", self.session, self.fence, json.dumps({"status": status, **more}))

    def _wipe(self) -> None:
        self.connected = False
        call(self.db, "wa_wipe_credentials", self.session, self.fence)
        self._status("disconnected")

    def _end(self) -> None:
        self.fence = self.known = None
        self.connected = False

    def _receive(self) -> None:
        if not self.connected:
            return
        for name, how in self.waiting:
            self._store(name, how)
        self.waiting.clear()

    def _store(self, name: str, how: str) -> None:
        if self.known is None or not self.known[1]:
            self._commit(discards={"unmonitored": 1})
            return
        ts = self.sent[name].isoformat()
        if how == "late":
            dropped = {"chat_id": GROUP, "reason": "too_old", "from_at": ts, "to_at": ts, "count": 1}
            self._commit(dropped=[dropped])
        else:
            kinds: dict[str, dict[str, Any]] = {"refused": {"kind": ""}, "unreadable": stub(name)}
            self._commit(messages=[message(name) | kinds.get(how, {}) | {"ts": ts}])

    def _commit(self, **parts: Any) -> None:
        self.seq += 1
        assert self.fence is not None
        whole = {"dropped": [], **parts}
        call(self.db, "wa_commit", self.session, batch(self.seq, fence=self.fence, epoch=self.epoch, **whole))

    def _hear_of_group(self) -> None:
        """WhatsApp says whether the account is in the group: at once, or when it connects."""
        if self.connected:
            self._commit(groups=[{"wa_group_id": GROUP, "name": "Family", "left": self.away_from_group}])

    def _switch(self, on: bool) -> None:
        self.db.execute("update public.groups set monitor = %s where session_id = %s", (on, self.session))

    def _write_group(self) -> None:
        self.db.execute(
            "insert into public.groups (session_id, wa_group_id, name) values (%s, %s, 'Family')",
            (self.session, GROUP),
        )


Step = Callable[[Account], None]
OFTEN: tuple[Step, ...] = (Account.send, Account.poll, Account.serve)
STEPS: tuple[Step, ...] = (
    *OFTEN,
    Account.send_unreadable,
    Account.send_refused,
    Account.send_late,
    Account.leave,
    Account.join,
    Account.unlink,
    Account.link,
    Account.start,
    Account.stop,
    Account.crash,
    Account.lose_connection,
    Account.connect_again,
    Account.remove,
    Account.switch_on,
    Account.switch_off,
    Account.delete_group,
    Account.delete_old,
)


def names(steps: st.SearchStrategy[list[Step]]) -> st.SearchStrategy[list[str]]:
    return steps.map(lambda found: [step.__name__ for step in found])


@pytest.fixture
def connection(connect: Callable[[], Connection]) -> Connection:
    opened = connect()
    opened.autocommit = True
    return opened


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(names(st.lists(st.sampled_from(STEPS) | st.sampled_from(OFTEN), min_size=20, max_size=30)))
def test_what_is_missing_lies_in_a_gap_whatever_happens(connection: Connection, steps: list[str]) -> None:
    account = Account(connection)
    for step in steps:
        getattr(account, step)()
        assert account.unexplained() == []
    assert account.claimed_alone() == []

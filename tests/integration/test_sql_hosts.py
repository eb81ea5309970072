"""Hosts: who gets which of the wanted sessions. On a real PostgreSQL; each test has the database's hosts for itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.test_sql_host_poll import mine, scans
from tests.integration.test_sql_races import Connection, batch, call, connect

__all__ = ["connect", "mine"]  # fixtures

LEASE = 30.0
ROUNDS_MAX = 100  # a share is reckoned from what the others told last, so that one round may leave some


@pytest.fixture(autouse=True)
def alone(postgres: str) -> Iterator[None]:
    """Other tests' hosts and sessions do not count."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("delete from public.wa_hosts")
        admin.execute("update public.wa_sessions set wanted = false where wanted")
        yield
        admin.execute("update public.wa_sessions set wanted = false where wanted")


class Host:
    """What a host does with the answers of its polls, in memory."""

    def __init__(self, connection: Connection, owner: str, capacity: int = 50) -> None:
        self.connection = connection
        self.owner = owner
        self.capacity = capacity
        self.held: dict[str, str] = {}
        self.settings: dict[str, str] = {}

    def poll(self, room: int | None = None) -> dict[str, Any]:
        left = self.capacity - len(self.held) if room is None else room
        answer = dict(call(self.connection, "wa_host_poll", self.owner, left, json.dumps(self.document()), LEASE))
        for claimed in answer.get("claimed", []):
            self.held[claimed["session"]] = claimed["fence"]
            self.settings[claimed["session"]] = claimed["settings"]["version"]
        for lost in answer.get("lost", []):
            del self.held[lost]
        return answer

    def document(self) -> list[dict[str, Any]]:
        """What it holds, as the poll is told of it."""
        return [
            {
                "session": session,
                "fence": fence,
                "monitored": "0",
                "media": 2,
                "claimed": True,
                "settings": self.settings[session],
            }
            for session, fence in self.held.items()
        ]

    def release(self, session: str, *, failed: bool = False) -> None:
        call(self.connection, "wa_lease_release", session, self.owner, self.held.pop(session), failed)

    def gives(self) -> list[str]:
        """Poll, and do as it says."""
        given = list(self.poll().get("give_up", []))
        for session in given:
            self.release(session)
        return given


@pytest.fixture
def host(connect: Callable[[], Connection]) -> Callable[..., Host]:
    def make(owner: str, capacity: int = 50) -> Host:
        connection = connect()
        connection.autocommit = True
        connection.execute("set lock_timeout = '1ms'")
        return Host(connection, f"{owner}:{uuid4().hex[:8]}", capacity)

    return make


def add(connection: Connection, count: int) -> list[str]:
    """Wanted sessions that were just made."""
    stem = f"h-{uuid4().hex[:8]}"
    names = [f"{stem}-{n:04}" for n in range(count)]
    connection.execute("insert into public.wa_sessions (id, wanted) select unnest(%s::text[]), true", (names,))
    return names


def pass_by(connection: Connection, seconds: float) -> None:
    """As if so much time had passed for hosts and sessions."""
    for table, columns in (
        ("wa_hosts", ("seen_at", "gave_up_at", "failed_at")),
        ("wa_sessions", ("host_since", "lease_expires_at", "created_at", "not_before")),
    ):
        moved = ", ".join(f"{column} = {column} - make_interval(secs => {seconds})" for column in columns)
        connection.execute(f"update public.{table} set {moved}".encode())  # noqa: S608 - names from above


def settle(*hosts: Host, rounds: int = 3) -> None:
    for _ in range(rounds):
        for one in hosts:
            one.poll()


def test_a_host_claims_wanted_sessions_with_a_new_fence(mine: Connection, host: Callable[..., Host]) -> None:
    (name,) = add(mine, 1)
    mine.execute("insert into public.wa_sessions (id) values (%s)", (f"{name}-unwanted",))
    mine.execute("""update public.wa_sessions set settings = '{"proxy": null}', fence = 7 where id = %s""", (name,))
    (claimed,) = host("a").poll()["claimed"]
    assert (claimed["session"], claimed["fence"], claimed["settings"]["values"]) == (name, "8", {"proxy": None})
    assert claimed["until"] > claimed["now"]
    assert not call(mine, "wa_lease_acquire", name, "somebody", 30)["acquired"]


def test_without_capacity_nothing_is_claimed_and_nobody_is_a_host(mine: Connection, host: Callable[..., Host]) -> None:
    add(mine, 1)
    assert host("run").poll(room=0) == {"alive": 0}
    assert mine.execute("select count(*) from public.wa_hosts").fetchone() == (0,)


def test_a_question_for_one_session_says_nothing_of_its_host(mine: Connection, host: Callable[..., Host]) -> None:
    names = add(mine, 4)
    one = host("a")
    one.poll()
    add(mine, 1)
    told = "select held, room, seen_at from public.wa_hosts"
    before = mine.execute(told).fetchall()
    held = [{"session": names[0], "fence": "1", "claimed": True, "settings": one.settings[names[0]]}]
    answer = call(mine, "wa_host_poll", one.owner, None, json.dumps(held), LEASE)
    assert (answer["alive"], "claimed" in answer) == (1, False)
    assert mine.execute(told).fetchall() == before
    assert before[0][:2] == (4, 46)


def test_a_session_that_somebody_holds_is_not_claimed_until_its_lease_runs_out(
    mine: Connection, host: Callable[..., Host]
) -> None:
    (name,) = add(mine, 1)
    call(mine, "wa_lease_acquire", name, "run", 30)
    one = host("a")
    assert "claimed" not in one.poll()
    pass_by(mine, 31)
    assert [claimed["fence"] for claimed in one.poll()["claimed"]] == ["2"]
    with pytest.raises(psycopg.Error, match="stale_fence"):
        call(mine, "wa_commit", name, batch(1))


def test_a_claim_whose_answer_was_lost_is_handed_over_again_at_the_next_poll(
    mine: Connection, host: Callable[..., Host]
) -> None:
    """Otherwise nobody serves the session until its lease runs out: nobody knows who holds it."""
    one, other = host("a"), host("b")
    (served,) = add(mine, 1)
    one.poll()
    other.poll()
    lost = add(mine, 3)
    assert len(call(mine, "wa_host_poll", one.owner, 49, json.dumps(one.document()), LEASE)["claimed"]) >= 1
    mine.execute("update public.wa_sessions set wanted = false where wanted and lease_owner is null")
    known = {row[0] for row in mine.execute("select id from public.wa_sessions where wanted").fetchall()} - {served}
    assert known <= set(lost)
    assert "claimed" not in other.poll()
    again = {claimed["session"]: claimed["fence"] for claimed in one.poll()["claimed"]}
    assert again == dict.fromkeys(known, "2"), "whoever got the answer after all is refused"
    assert "claimed" not in one.poll()


def test_two_hosts_that_claim_at_once_never_hold_the_same_session(
    mine: Connection, host: Callable[..., Host], connect: Callable[[], Connection]
) -> None:
    """Many times at once, each with room for all; and none waits for the other (lock_timeout)."""
    hosts = [host(f"h{n}") for n in range(4)]
    for _ in range(5):
        names = add(mine, 40)
        with ThreadPoolExecutor(len(hosts)) as pool:
            for _ in range(ROUNDS_MAX):
                list(pool.map(lambda one: one.poll(), hosts))
                held = [session for one in hosts for session in one.held]
                if len(held) >= len(names):
                    break
        assert sorted(held) == sorted(names)
        fences = mine.execute("select distinct fence from public.wa_sessions where id = any(%s)", (names,)).fetchall()
        assert fences == [(1,)], "one was taken twice"
        for one in hosts:
            for session in list(one.held):
                one.release(session)
        mine.execute("update public.wa_sessions set wanted = false where id = any(%s)", (names,))


def test_a_session_whose_row_is_locked_is_left_and_claimed_later(
    mine: Connection, host: Callable[..., Host], connect: Callable[[], Connection]
) -> None:
    locked, free = add(mine, 2)
    other = connect()
    other.execute("select 1 from public.wa_sessions where id = %s for no key update", (locked,))
    one = host("a")
    assert [claimed["session"] for claimed in one.poll()["claimed"]] == [free]
    other.commit()
    assert [claimed["session"] for claimed in one.poll()["claimed"]] == [locked]


def test_sessions_added_at_once_are_shared_evenly(mine: Connection, host: Callable[..., Host]) -> None:
    hosts = [host(name) for name in "abc"]
    settle(*hosts)
    add(mine, 40)
    settle(*hosts)
    assert sorted(len(one.held) for one in hosts) == [12, 14, 14]


def test_a_host_without_room_leaves_its_share_to_the_others(mine: Connection, host: Callable[..., Host]) -> None:
    hosts = [host("a", 5), host("b"), host("c")]
    settle(*hosts)
    add(mine, 40)
    settle(*hosts)
    assert sorted(len(one.held) for one in hosts) == [5, 17, 18]
    pass_by(mine, 40)
    for one in hosts:  # their leases were moved with the clock
        one.poll()
    assert [one.gives() for one in hosts] == [[], [], []], "nobody has room for them"


@pytest.mark.parametrize(
    ("hosts", "free", "share"),
    [
        ([(14, 36), (13, 37), (13, 37)], 0, 14),  # as many as there are, by hosts, rounded up
        ([(0, 50)], 40, 40),
        ([(0, 5), (0, 50), (0, 50)], 40, 18),  # 35 for two
        ([(13, 0), (13, 37), (13, 37)], 1, 14),  # one that drains
        ([(0, 10), (0, 10)], 40, None),  # no room for all
        ([(20, 0), (20, 0), (0, 50)], 0, 14),
        ([], 3, None),
        ([(0, 50), (0, 50)], 0, 0),
    ],
)
def test_the_fair_share(mine: Connection, hosts: list[tuple[int, int]], free: int, share: int | None) -> None:
    for n, (held, room) in enumerate(hosts):
        call(mine, "wa.note_host", f"h{n}", held, held, room, LEASE)
    call(mine, "wa.note_host", "dead", 30, 30, 50, LEASE)
    mine.execute("update public.wa_hosts set seen_at = seen_at - interval '16 s' where owner = 'dead'")
    assert call(mine, "wa.fair_share", free) == share


def test_a_dead_hosts_sessions_go_to_the_others_evenly(mine: Connection, host: Callable[..., Host]) -> None:
    hosts = [host(name) for name in "abc"]
    settle(*hosts)
    add(mine, 40)
    settle(*hosts)
    dead, *alive = hosts
    for seconds in range(0, 35, 5):
        pass_by(mine, 5)
        for one in alive:
            for session in one.held:  # in place of the renewal, which the clock that we moved would not do
                mine.execute(
                    "update public.wa_sessions set lease_expires_at = now() + interval '30 s' where id = %s", (session,)
                )
            assert not one.gives(), f"after {seconds} s"
    settle(*alive)
    assert sorted(len(one.held) for one in alive) == [20, 20]
    dead.poll(room=0)
    assert dead.held == {}


def test_the_sessions_of_a_host_that_left_are_claimed_at_once(mine: Connection, host: Callable[..., Host]) -> None:
    stays, goes = host("a"), host("b")
    settle(stays, goes)
    names = add(mine, 20)
    settle(stays, goes)
    assert (len(stays.held), len(goes.held)) == (10, 10)
    for session in list(goes.held):
        goes.release(session)
    assert [call(mine, "wa_host_leave", goes.owner) for _ in range(2)] == [{"left": True}, {"left": False}]
    stays.poll()
    assert sorted(stays.held) == names, "without it, they wait for its turn"


def test_a_new_host_has_its_share_within_a_minute_and_then_nothing_moves(
    mine: Connection, host: Callable[..., Host]
) -> None:
    hosts = [host(name) for name in "abc"]
    settle(*hosts)
    names = add(mine, 40)
    settle(*hosts)
    mine.execute("update public.wa_sessions set status = 'connected' where id = any(%s)", (names,))
    pass_by(mine, 29)
    settle(*hosts, rounds=1)
    hosts.append(host("new"))
    given: list[str] = []
    for seconds in range(2, 121, 2):
        pass_by(mine, 2)
        mine.execute("update public.wa_sessions set lease_expires_at = now() + interval '29 s' where wanted")
        for one in hosts:
            moved = one.gives()
            assert len(moved) <= 1
            given += moved
        held = sorted(len(one.held) for one in hosts)
        if seconds == 60:
            assert held == [10, 10, 10, 10]
    assert sorted(len(one.held) for one in hosts) == [10, 10, 10, 10]
    assert len(given) == len(set(given)) == 10, "each move was one step towards the end, and none was undone"


def test_what_has_just_come_connects_or_shows_a_code_is_not_moved(mine: Connection, host: Callable[..., Host]) -> None:
    one, other = host("a"), host("b")
    names = add(mine, 4)
    settle(one)
    other.poll()
    pass_by(mine, 6)
    assert one.gives() == [], "they have just come"
    mine.execute("update public.wa_sessions set status = 'connecting' where id = any(%s)", (names,))
    pass_by(mine, 20)
    mine.execute("update public.wa_sessions set lease_expires_at = now() + interval '29 s' where wanted")
    other.poll()
    assert one.gives() == []
    pass_by(mine, 6)
    other.poll()
    mine.execute("update public.wa_sessions set status = 'connected' where id = %s", (names[2],))
    assert one.gives() == [names[2]]


def test_nothing_is_given_to_a_host_that_cannot_start_any(mine: Connection, host: Callable[..., Host]) -> None:
    one, broken = host("a"), host("b")
    add(mine, 3)
    settle(one)
    (failing,) = add(mine, 1)
    broken.poll()
    assert list(broken.held) == [failing]
    broken.release(failing, failed=True)
    assert "claimed" not in broken.poll(), "not at once"
    assert [claimed["session"] for claimed in one.poll().get("claimed", [])] == [], "the broken one has room"
    pass_by(mine, 11)
    mine.execute("update public.wa_sessions set not_before = now() + interval '1 min' where id = %s", (failing,))
    broken.poll()
    assert failing in [claimed["session"] for claimed in one.poll()["claimed"]], "nobody took it for ten seconds"
    pass_by(mine, 28)
    mine.execute("update public.wa_sessions set lease_expires_at = now() + interval '29 s' where wanted")
    broken.poll()
    assert one.gives() == []
    pass_by(mine, 300)
    mine.execute("update public.wa_sessions set lease_expires_at = now() + interval '29 s' where wanted")
    broken.poll()
    assert len(one.gives()) == 1, "after five minutes it is tried again"


def test_a_session_that_fails_everywhere_is_tried_more_and_more_seldom(
    mine: Connection, host: Callable[..., Host]
) -> None:
    (name,) = add(mine, 1)
    one, other = host("a"), host("b")
    pauses = []
    for turn in range(8):
        holder = one if turn % 2 else other
        holder.poll()
        assert list(holder.held) == [name]
        holder.release(name, failed=True)
        assert "claimed" not in holder.poll()
        row = mine.execute(
            "select round(extract(epoch from not_before - host_since))::integer from public.wa_sessions where id = %s",
            (name,),
        ).fetchone()
        assert row is not None
        pause = int(row[0])
        pauses.append(pause)
        if turn:
            assert "claimed" not in (other if turn % 2 else one).poll(), "two have failed: everybody waits"
            pass_by(mine, pause + 1)
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    one.poll()
    one.release(name)
    assert mine.execute(
        "select start_failures, failed_owner, not_before from public.wa_sessions where id = %s", (name,)
    ).fetchone() == (0, None, None)


def test_a_session_that_only_queues_to_start_has_not_started(mine: Connection, host: Callable[..., Host]) -> None:
    """Its lease is renewed all the same, and it may fail then."""
    (name,) = add(mine, 1)
    hosts = [host("a"), host("b")]
    for turn, holder in enumerate(hosts):
        holder.poll()
        assert list(holder.held) == [name]
        pass_by(mine, 15)
        assert name in holder.poll()["renewed"]
        if turn == 0:
            holder.release(name, failed=True)
    failures = "select start_failures from public.wa_sessions where id = %s"
    assert mine.execute(failures, (name,)).fetchone() == (1,), "the pauses would never grow"
    fence = hosts[1].held[name]
    call(mine, "wa_set_session", name, fence, '{"status": "connecting"}')
    assert mine.execute(failures, (name,)).fetchone() == (1,)
    call(mine, "wa_set_session", name, fence, '{"status": "connected"}')
    assert mine.execute(failures, (name,)).fetchone() == (0,)


def test_a_session_that_is_no_longer_wanted_is_told_until_it_is_released(
    mine: Connection, host: Callable[..., Host]
) -> None:
    (name,) = add(mine, 1)
    one = host("a")
    one.poll()
    assert "stop" not in str(one.poll())
    mine.execute("update public.wa_sessions set wanted = false where id = %s", (name,))
    assert [one.poll()["news"][name]["stop"] for _ in range(2)] == [True, True]
    one.release(name)
    assert one.poll() == {"alive": 0}


def test_run_is_told_nothing_of_wanted_or_settings(mine: Connection, host: Callable[..., Host]) -> None:
    (name,) = add(mine, 1)
    call(mine, "wa_lease_acquire", name, "run", 30)
    mine.execute("""update public.wa_sessions set wanted = false, settings = '{"proxy": "x"}' where id = %s""", (name,))
    held = [{"session": name, "fence": "1", "monitored": "0", "media": 2}]
    assert call(mine, "wa_host_poll", "run", 0, json.dumps(held)) == {"alive": 1}


def test_other_settings_are_told_once_the_host_has_them_no_more(mine: Connection, host: Callable[..., Host]) -> None:
    (name,) = add(mine, 1)
    one = host("a")
    one.poll()
    assert "settings" not in str(one.poll())
    mine.execute("""update public.wa_sessions set settings = '{"catch_up_s": 60}' where id = %s""", (name,))
    told = one.poll()["news"][name]["settings"]
    assert told["values"] == {"catch_up_s": 60}
    one.settings[name] = told["version"]
    assert "settings" not in str(one.poll())


def test_requests_are_told_until_they_are_handled(mine: Connection, host: Callable[..., Host]) -> None:
    (name,) = add(mine, 1)
    one = host("a")
    one.poll()
    first = call(mine, "wa_ask", name, "fetch_groups")["id"]
    second = call(mine, "wa_ask", name, "pairing_code", json.dumps({"phone": "491511234567"}))["id"]
    told = one.poll()["news"][name]["requests"]
    assert told == [
        {"id": first, "name": "fetch_groups", "args": {}},
        {"id": second, "name": "pairing_code", "args": {"phone": "491511234567"}},
    ]
    assert call(mine, "wa_request_state", name, second)["handled"] is False
    assert call(mine, "wa_request_handled", name, second, "shown") == {"found": True}
    assert call(mine, "wa_request_handled", name, second, "again") == {"found": False}
    assert call(mine, "wa_request_handled", "another", first, "stolen") == {"found": False}
    assert call(mine, "wa_request_state", name, second) == {"handled": True, "result": "shown", "gone": False}
    assert [request["id"] for request in one.poll()["news"][name]["requests"]] == [first]
    assert mine.execute("select args from public.wa_requests where id = %s", (second,)).fetchone() == ({},)


def test_requests_are_bounded(mine: Connection) -> None:
    (name,) = add(mine, 1)
    for _ in range(10):
        call(mine, "wa_ask", name, "refresh_qr")
    with pytest.raises(psycopg.Error, match="too_many_requests"):
        call(mine, "wa_ask", name, "refresh_qr")
    with pytest.raises(psycopg.errors.CheckViolation):
        mine.execute("insert into public.wa_requests (session_id, name) values (%s, 'anything')", (name,))


def test_handled_requests_are_pruned_after_a_week(mine: Connection) -> None:
    (name,) = add(mine, 1)
    ids = [call(mine, "wa_ask", name, "refresh_qr")["id"] for _ in range(3)]
    for id_ in ids[:2]:
        call(mine, "wa_request_handled", name, id_, "done")
    mine.execute("update public.wa_requests set handled_at = now() - interval '8 days' where id = %s", (ids[0],))
    call(mine, "wa_prune", name, 60, None)
    left = mine.execute("select id::text from public.wa_requests where session_id = %s order by id", (name,)).fetchall()
    assert [row[0] for row in left] == ids[1:]


def test_a_host_with_fifty_sessions_is_told_nothing_in_less_than_a_hundred_bytes(
    mine: Connection, host: Callable[..., Host]
) -> None:
    add(mine, 50)
    one = host("a")
    settle(one)
    assert one.poll() == {"alive": 50}


def test_a_poll_at_rest_writes_nothing(mine: Connection, host: Callable[..., Host]) -> None:
    (name,) = add(mine, 1)
    one = host("a")
    settle(one)
    mine.execute("update public.wa_sessions set lease_expires_at = now() + interval '29 s' where id = %s", (name,))
    one.poll()
    writes = "select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_xact_user_tables where relname = 'wa_hosts'"
    one.connection.autocommit = False
    before = one.connection.execute(writes).fetchone()
    assert one.poll() == {"alive": 1}
    assert one.connection.execute(writes).fetchone() == before
    one.connection.commit()


def test_with_a_thousand_wanted_sessions_hosts_read_by_index(mine: Connection, host: Callable[..., Host]) -> None:
    names = add(mine, 1000)
    mine.execute(
        "update public.wa_sessions set lease_owner = 'h' || (n %% 20), lease_expires_at = now() + interval '25 s', "
        "lease_seconds = 30, fence = 1, host_since = now() - interval '1 h', status = 'connected' "
        "from unnest(%s::text[]) with ordinality as t (name, n) where id = name",
        (names,),
    )
    mine.execute("update public.wa_sessions set lease_owner = null, lease_expires_at = null where id = %s", (names[3],))
    mine.execute("update public.wa_sessions set lease_expires_at = now() where id = %s", (names[5],))
    mine.commit()
    one = host("a", 2)
    one.connection.autocommit = False
    for turn in range(8):  # from the sixth on, Postgres may take a plan that knows no values
        before = scans(one.connection)
        answer = one.poll()
        if turn == 0:
            assert {claimed["session"] for claimed in answer["claimed"]} == {names[3], names[5]}
            for session in list(one.held):
                one.release(session)
                one.connection.execute(
                    "update public.wa_sessions set host_since = now() - interval '1 min' where id = %s", (session,)
                )
        after = scans(one.connection)
        whole = {table for table in after if after[table][0] > before[table][0]}
        assert whole == set(), "it reads whole tables"
        assert after["wa_sessions"][1] > before["wa_sessions"][1]
    one.connection.rollback()

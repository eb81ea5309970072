"""`wa_host_poll` on a real PostgreSQL: it waits for nobody, writes little, reads by index, and misses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.database import GROUP, OTHER_GROUP, message, photo
from tests.integration.test_sql_races import Beside, Connection, batch, call, connect, session

__all__ = ["connect", "session"]  # fixtures

SESSIONS = 1000


@pytest.fixture
def mine(connect: Callable[[], Connection]) -> Connection:
    """A connection on which each statement is a transaction, and none may wait for another's lock."""
    connection = connect()
    connection.autocommit = True
    connection.execute("set lock_timeout = '1ms'")
    return connection


def held(session: str, **more: object) -> dict[str, object]:
    return {"session": session, "fence": "1", "monitored": None, "media": 2, **more}


def poll(connection: Connection, *sessions: dict[str, object]) -> dict[str, Any]:
    return dict(call(connection, "wa_host_poll", "a", 0, json.dumps(sessions)))


def news(connection: Connection, session: str, **more: object) -> dict[str, Any]:
    return dict(poll(connection, held(session, **more)).get("news", {}).get(session, {}))


def expire(connection: Connection, session: str, seconds: int) -> None:
    """What is left of the lease, of 60 s."""
    connection.execute(
        "update public.wa_sessions set lease_expires_at = now() + make_interval(secs => %s) where id = %s",
        (seconds, session),
    )


def left(connection: Connection, session: str) -> float:
    row = connection.execute(
        "select extract(epoch from lease_expires_at - now())::float from public.wa_sessions where id = %s", (session,)
    ).fetchone()
    assert row is not None
    return float(row[0])


def version(connection: Connection, session: str) -> int:
    return int(news(connection, session)["monitored"]["version"])


def test_while_one_session_commits_the_others_are_renewed(connect: Callable[[], Connection], mine: Connection) -> None:
    names = sorted(f"t-{uuid4().hex[:12]}" for _ in range(50))
    for name in names:
        call(mine, "wa_lease_acquire", name, "a", 60)
        expire(mine, name, 30)
    call(mine, "wa_begin_epoch", names[0], 1)
    other = connect()
    call(other, "wa_commit", names[0], batch(1))  # and stays open
    answer = poll(mine, *map(held, names))
    assert (answer["alive"], answer["busy"], "lost" in answer) == (50, [names[0]], False)
    assert sorted(answer["renewed"]) == names[1:]
    other.commit()
    assert all(left(mine, name) > 50 for name in names), "the commit has renewed its own"
    assert "busy" not in poll(mine, *map(held, names))


def test_a_commit_waits_for_no_poll_that_still_reads(
    connect: Callable[[], Connection], postgres: str, mine: Connection, session: str
) -> None:
    """The rows that a poll renews are locked until it ends: it renews last. Its reading is made to last here."""
    expire(mine, session, 30)
    gate = connect()
    gate.execute("select pg_advisory_lock(18)")
    with psycopg.connect(postgres) as owner:
        polling = Beside(postgres, owner)
        reading = polling.start_after(
            "create or replace function wa.search_fill(p_session text, p_limit integer) returns boolean language sql "
            "as $$ select pg_advisory_xact_lock(18) is null $$",  # for this transaction alone
            "wa_host_poll", "a", 0, json.dumps([held(session)]),
        )  # fmt: skip
        polling.wait_until_blocked(reading)
        mine.execute("select 1 from public.wa_sessions where id = %s for no key update nowait", (session,))
        gate.execute("select pg_advisory_unlock(18)")
        assert list(reading.result(10)["renewed"]) == [session]


def test_a_commit_that_fails_renews_nothing_and_the_next_poll_does(
    connect: Callable[[], Connection], mine: Connection, session: str
) -> None:
    expire(mine, session, 30)
    other = connect()
    call(other, "wa_commit", session, batch(1))
    assert poll(mine, held(session))["busy"] == [session]
    other.rollback()
    assert left(mine, session) < 40
    assert list(poll(mine, held(session))["renewed"]) == [session]


def test_a_commit_does_not_bring_back_a_lease_that_was_released(mine: Connection, session: str) -> None:
    call(mine, "wa_lease_release", session, "a", 1)
    call(mine, "wa_commit", session, batch(1))
    row = mine.execute("select lease_owner, lease_expires_at from public.wa_sessions where id = %s", (session,))
    assert row.fetchone() == (None, None)


@pytest.mark.parametrize(("seconds", "is_written"), [(59, False), (41, False), (39, True), (-5, True)])
def test_a_lease_is_written_after_a_third_of_its_time(
    mine: Connection, session: str, seconds: int, is_written: bool
) -> None:
    expire(mine, session, seconds)
    answer = poll(mine, held(session))
    assert answer["alive"] == 1
    assert ("renewed" in answer) is is_written
    assert (left(mine, session) > 50) is (is_written or seconds > 50)


def test_a_lease_of_another_owner_or_fence_and_a_missing_session_are_lost(mine: Connection, session: str) -> None:
    assert poll(mine, held(session, fence="2")) == {"alive": 0, "lost": [session]}
    assert poll(mine, held("never was")) == {"alive": 0, "lost": ["never was"]}
    expire(mine, session, -1)
    call(mine, "wa_lease_acquire", session, "b", 60)
    assert poll(mine, held(session)) == {"alive": 0, "lost": [session]}


def test_nothing_new_is_said_in_less_than_a_hundred_bytes(mine: Connection, session: str) -> None:
    call(mine, "wa_lease_acquire", session, "a", 60)
    answer = poll(mine, held(session, monitored=str(version(mine, session))))
    assert answer == {"alive": 1}
    assert len(json.dumps(answer)) < 100


def test_the_groups_are_told_if_their_version_is_another(mine: Connection, session: str) -> None:
    before = version(mine, session)
    assert news(mine, session)["monitored"]["groups"] == [GROUP]
    assert news(mine, session, monitored=str(before)) == {}
    mine.execute("update public.groups set name = 'New' where session_id = %s", (session,))
    assert news(mine, session, monitored=str(before)) == {}, "a new name changes nothing"
    changes = [
        "update public.groups set monitor = false where session_id = %s",
        "insert into public.groups (session_id, wa_group_id, monitor) values (%s, 'second@g.us', true)",
        "update public.groups set wa_group_id = 'third@g.us' where session_id = %s and monitor",
        "delete from public.groups where session_id = %s and monitor",
    ]
    told = []
    for change in changes:
        mine.execute(change.encode(), (session,))
        fresh = news(mine, session, monitored=str(before))["monitored"]
        assert int(fresh["version"]) > before, change
        before = int(fresh["version"])
        told.append(fresh["groups"])
    assert told == [[], ["second@g.us"], ["third@g.us"], []]


def test_a_group_is_switched_while_its_session_commits(
    connect: Callable[[], Connection], mine: Connection, session: str
) -> None:
    before = version(mine, session)
    other = connect()
    call(other, "wa_commit", session, batch(1, messages=[message("m1")]))  # and stays open
    mine.execute(
        "insert into public.groups (session_id, wa_group_id, monitor) values (%s, %s, true)", (session, OTHER_GROUP)
    )
    assert version(mine, session) > before


def test_a_user_who_may_only_write_groups_raises_the_version(postgres: str, mine: Connection, session: str) -> None:
    before = version(mine, session)
    with psycopg.connect(postgres) as admin:
        admin.execute("grant usage on schema public to authenticated")
        admin.execute("grant select, update on public.groups to authenticated")
        admin.execute("create policy mine on public.groups for all to authenticated using (true)")
        admin.execute("set role authenticated")
        admin.execute("update public.groups set monitor = not monitor where session_id = %s", (session,))
        admin.execute("reset role")
        admin.execute("drop policy mine on public.groups")
        admin.execute("revoke select, update on public.groups from authenticated")
    assert version(mine, session) > before


def test_flags_of_a_session_are_told_until_they_are_handled(mine: Connection, session: str) -> None:
    def flags() -> list[str]:
        return [flag["key"] for flag in news(mine, session).get("flags", [])]

    assert flags() == []
    for name in (session, f"{session}-2"):
        call(mine, "wa_raise_flag", name, "fetch_groups_requested")
    assert flags() == ["fetch_groups_requested"]
    (flag,) = news(mine, session)["flags"]
    call(mine, "wa_flag_handled", session, flag["key"], flag["at_text"])
    assert flags() == []


def test_whoever_floods_one_session_with_flags_leaves_the_poll_of_all_as_it_is(mine: Connection, session: str) -> None:
    """An owner of one session may write any flag of it (supabase/optional/users.sql), with any value."""
    healthy, deep = f"{session}-2", "[" * 2000 + "]" * 2000
    call(mine, "wa_lease_acquire", healthy, "a", 60)
    call(mine, "wa_raise_flag", healthy, "fetch_groups_requested")
    mine.execute(
        "insert into public.runtime_flags (key, value) "
        "select %s || ':any-' || n, '{}' from generate_series(1, 20000) as n",
        (session,),
    )
    values = {
        "any": deep,
        "wa_refresh_qr_requested": deep,
        "fetch_groups_requested": f'{{"at": "{"x" * 50_000}", "phone": {deep}}}',
        "wa_passkey_answered": f'{{"at": null, "assertion": {deep}}}',
        "wa_passkey_compared": f'{{"at": null, "code": "{"x" * 50_000}"}}',
    }
    for key, value in values.items():
        mine.execute("insert into public.runtime_flags (key, value) values (%s, %s)", (f"{session}:{key}", value))
    told = poll(mine, held(session), held(healthy))["news"]
    assert [flag["key"] for flag in told[healthy]["flags"]] == ["fetch_groups_requested"]
    flags = {flag["key"]: flag for flag in told[session]["flags"]}
    assert set(flags) == set(values) - {"any"}, "none that the worker does not know: nobody would mark it"
    assert len(json.dumps(told)) < 10_000
    given = {key: flag["given"] for key, flag in flags.items() if flag["given"] is not None}
    assert given == {"wa_passkey_answered": f'{{"assertion": {deep}}}'}, "as a text, and not if it is too long"
    for key, flag in flags.items():
        call(mine, "wa_flag_handled", session, key, flag["at_text"])
    assert "flags" not in poll(mine, held(session))["news"][session], "a text that was cut is marked all the same"


def test_what_is_read_for_all_sessions_in_one_answer_is_small_and_flat(mine: Connection, session: str) -> None:
    writes: list[tuple[str, str]] = []
    for value in ('{"a": [1]}', '{"a": {"b": 1}}', f'{{"a": "{"x" * 5000}"}}', f'{{"a": {"9" * 5000}}}'):
        writes.append(("update public.wa_sessions set settings = %s where id = %s", value))
        writes.append(("insert into public.wa_requests (name, args, session_id) values ('refresh_qr', %s, %s)", value))
    writes.append(("insert into public.runtime_flags (value, key) values (%s, %s)", f'"{"x" * 70_000}"'))
    for write, value in writes:
        with pytest.raises(psycopg.errors.CheckViolation):
            mine.execute(write.encode(), (value, session))
    mine.execute("""update public.wa_sessions set settings = '{"a": 1, "b": null}' where id = %s""", (session,))


def test_media_are_told_to_whom_can_take_them(mine: Connection, session: str) -> None:
    def is_told(media: int) -> bool:
        return "media" in news(mine, session, media=media)

    assert [is_told(media) for media in (0, 1, 2)] == [False, False, False]
    call(mine, "wa_commit", session, batch(1, messages=[photo("p1")]))
    assert [is_told(media) for media in (0, 1, 2)] == [False, True, True]
    (job,) = call(mine, "wa_media_claim", "a", 1, 60, session)["jobs"]
    assert [is_told(media) for media in (0, 1, 2)] == [False, False, False]
    call(mine, "wa_media_ask_phone", job["id"], "a", "MEDIA_EXPIRED")
    assert [is_told(media) for media in (0, 1, 2)] == [False, False, True]


def test_listed_items_that_are_due_are_told(mine: Connection, session: str) -> None:
    entry = {"item": "message", "state": "waiting", "chat_id": GROUP, "code": "XX000", "reason": "", "body": "{}"}
    call(mine, "wa_commit", session, batch(1, refused=[entry]))
    assert "refused" not in news(mine, session), "the first pause is a minute"
    mine.execute("update public.wa_refused_stanzas set next_at = now() where session_id = %s", (session,))
    assert news(mine, session)["refused"] is True


def test_with_a_thousand_sessions_the_poll_and_the_claim_read_by_index(postgres: str, mine: Connection) -> None:
    """Each session has six flags that were handled and twenty jobs that are due later."""
    stem = f"many-{uuid4().hex[:6]}"
    names = [f"{stem}-{n}" for n in range(SESSIONS)]
    fill(postgres, names)
    call(mine, "wa_raise_flag", names[7], "fetch_groups_requested")
    calls: list[tuple[str, tuple[object, ...]]] = [
        ("wa_host_poll", ("a", 0, json.dumps([held(name, monitored="1") for name in names[:50]]))),
        ("wa_media_claim", ("a", 4, 60, names[7])),
        ("wa_pending_flags", (names[7],)),
    ]
    mine.autocommit = False
    for function, args in calls:
        for _ in range(7):  # from the sixth on, Postgres may take a plan that knows no values
            before = scans(mine)
            call(mine, function, *args)
            after = scans(mine)
        whole = {table for table in after if after[table][0] > before[table][0]}
        assert whole == set(), f"{function} reads whole tables"
        assert any(after[table][1] > before[table][1] for table in after), f"{function} reads no index"


def scans(connection: Connection) -> dict[str, tuple[int, int]]:
    """How often this transaction has read a whole table, and an index of it."""
    rows = connection.execute(
        "select relname, seq_scan, coalesce(idx_scan, 0) from pg_stat_xact_user_tables "
        "where relname in ('wa_sessions', 'runtime_flags', 'media_jobs', 'wa_monitored_versions', 'messages') "
        "and schemaname = 'public'"
    ).fetchall()
    return {name: (whole, index) for name, whole, index in rows}


def fill(postgres: str, names: list[str]) -> None:
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("insert into public.wa_sessions (id) select unnest(%s::text[])", (names,))
        admin.execute(
            "update public.wa_sessions set lease_owner = 'a', fence = 1, lease_seconds = 60, "
            "lease_expires_at = now() + interval '30 s' where id = any(%s)",
            (names,),
        )
        admin.execute(
            "insert into public.groups (session_id, wa_group_id, monitor) select unnest(%s::text[]), 'g@g.us', true",
            (names,),
        )
        admin.execute(
            "insert into public.runtime_flags (key, value, handled_value, handled_at) "
            "select s || ':flag-' || n, '{}', '{}', now() from unnest(%s::text[]) as s, generate_series(1, 6) as n",
            (names,),
        )
        admin.execute(
            "insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, ts, kind) "
            "select g.session_id, g.id, n, 'g@g.us', 'ana@lid', now(), 'image' "
            "from public.groups as g, generate_series(1, 20) as n where g.session_id = any(%s)",
            (names,),
        )
        admin.execute(
            "insert into public.media_jobs (session_id, message_id, descriptor, next_attempt_at) "
            "select m.session_id, m.id, '{}', now() + interval '1 h' from public.messages as m "
            "where m.session_id = any(%s)",
            (names,),
        )
        admin.execute("analyze")

"""docs/leaving.md: its SQL runs as it stands, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.catalogue import database, migration_files
from tests.integration.database import GROUP, message
from tests.integration.pages import code_blocks
from tests.integration.test_sql_races import Connection, batch, call

PAGE = Path(__file__).resolve().parents[2] / "docs" / "leaving.md"
WEBHOOK, QUEUE, READ = code_blocks(PAGE.read_text(), "sql")

# pg_net: a call is a row of a table, sent after the commit.
NET = """
create schema net;
create table net.sent (url text, body jsonb);
create function net.http_post(
  url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}',
  timeout_milliseconds integer default 5000
) returns bigint language sql as $$ insert into net.sent values (url, body) returning 1::bigint $$;
"""

PGMQ = files("pgmq").joinpath("sql", "pgmq.sql").read_text()  # PyPI's package brings the extension's SQL


@pytest.fixture
def connection(postgres: str) -> Iterator[Connection]:
    with database(postgres, migration_files()) as opened:
        call(opened, "wa_lease_acquire", "default", "a", 60)
        call(opened, "wa_begin_epoch", "default", 1)
        call(opened, "wa_upsert_groups", "default", 1, f'[{{"wa_group_id": "{GROUP}"}}]', False)
        opened.execute("update public.groups set monitor = true where true")
        yield opened


def store(connection: Connection, seq: int, *names: str) -> None:
    rows = [message(name, seq * 1000 + place) for place, name in enumerate(names)]
    call(connection, "wa_commit", "default", batch(seq, messages=rows))


def test_the_webhook_tells_each_change_when_it_is_committed(connection: Connection) -> None:
    connection.execute(NET)
    for _ in range(2):
        connection.execute(WEBHOOK)
    store(connection, 1, "A1", "A2")
    connection.execute("update public.messages set text = 'edited' where wa_msg_id = 'A1'")
    connection.execute("delete from public.messages where wa_msg_id = 'A2'")
    with connection.transaction(force_rollback=True):
        connection.execute("update public.messages set text = 'never' where wa_msg_id = 'A1'")
        connection.execute("set constraints all immediate")
    sent = [row[0] for row in connection.execute("select body from net.sent").fetchall()]
    numbers = [int(body["change_id"]) for body in sent]
    assert numbers == sorted(set(numbers))
    assert len(sent) == 4
    assert [body["deleted"] for body in sent] == [False, False, False, True]
    assert "text of" not in str(sent)


def test_a_broken_webhook_does_not_keep_the_worker_from_storing(connection: Connection) -> None:
    connection.execute(WEBHOOK)
    with pytest.raises(psycopg.errors.InvalidSchemaName):
        connection.execute("select net.http_post('x')")
    store(connection, 1, "A1")
    assert connection.execute("select count(*) from public.messages").fetchone() == (1,)


def read(connection: Connection) -> list[tuple[int, Any]]:
    return [(number, body) for number, body in connection.execute(READ).fetchall()]


def known(connection: Connection, seen: dict[int, int]) -> list[Any]:
    """A reader that archives what it took, and drops what it knows."""
    fresh = []
    for number, body in read(connection):
        connection.execute("select pgmq.archive('wa_changes', %s::bigint)", (number,))
        if int(body["change_id"]) > seen.get(body["message_id"], 0):
            seen[body["message_id"]] = int(body["change_id"])
            fresh.append(body)
    return fresh


def test_the_queue_gets_every_change_once(connection: Connection) -> None:
    connection.execute(PGMQ.encode())
    connection.execute(QUEUE)
    store(connection, 1, "before")
    feed = "select wa_out.feed('default')"
    assert connection.execute(feed).fetchone() == (0,), "it starts with what changes from now on"
    store(connection, 2, "A1", "A2")
    with connection.transaction(force_rollback=True):
        assert connection.execute(feed).fetchone() == (2,)
    assert connection.execute(feed).fetchone() == (2,)
    assert connection.execute(feed).fetchone() == (0,)
    seen: dict[int, int] = {}
    assert [body["message"]["wa_msg_id"] for body in known(connection, seen)] == ["A1", "A2"]
    connection.execute("update public.messages set text = 'edited' where wa_msg_id = 'A1'")
    connection.execute("delete from public.messages where wa_msg_id = 'A2'")
    connection.execute(feed)
    first, second = known(connection, seen)
    assert (first["message"]["text"], second["deleted"], second["session"]) == ("edited", True, "default")
    assert read(connection) == []
    connection.execute("update wa_out.cursors set cursor = '0'")
    connection.execute(feed)
    told = known(connection, seen)
    assert [body["message"]["wa_msg_id"] for body in told] == ["before"], "repeats are dropped by change_id"


def test_two_feeders_at_a_time_feed_once(connection: Connection) -> None:
    connection.execute(PGMQ.encode())
    connection.execute(QUEUE)
    connection.execute("select wa_out.feed('default')")
    store(connection, 1, "A1")
    with psycopg.connect(connection.info.dsn) as other:
        assert other.execute("select wa_out.feed('default')").fetchone() == (1,)
        assert connection.execute("select wa_out.feed('default')").fetchone() == (0,)
    assert len(read(connection)) == 1


def test_a_feeder_that_stood_still_too_long_says_so(connection: Connection) -> None:
    connection.execute(PGMQ.encode())
    connection.execute(QUEUE)
    store(connection, 1, "A1")
    connection.execute("select wa_out.feed('default')")
    connection.execute("delete from public.messages")
    call(connection, "wa_prune_changes", "default", 0)
    connection.execute("select wa_out.feed('default')")
    assert [body for _, body in read(connection)] == [{"session": "default", "start_again": True}]
    assert connection.execute("select wa_out.feed('default')").fetchone() == (0,)
    assert read(connection) == []

"""Retention beside a worker that stores the same content at that moment: two connections, on a real PostgreSQL.

Whatever the order, no row of public.media may be left whose object retention is about to delete.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import pytest

from tests.integration.database import photo
from tests.integration.test_sql_races import Beside, Connection, batch, beside, call, connect, session

__all__ = ["beside", "connect", "session"]  # fixtures

SHA256 = "e" * 64
MEDIA = json.dumps({"sha256": SHA256, "mime": "image/jpeg", "bytes": "5", "storage_path": f"{SHA256}/original.jpg"})


@pytest.fixture
def jobs(connect: Callable[[], Connection], session: str) -> list[str]:
    """Two claimed jobs for one content; the first is done, and its message deleted: the row is needed by nobody."""
    with connect() as connection:
        connection.execute("delete from public.wa_media_doomed")
        call(connection, "wa_commit", session, batch(1, messages=[photo("P1"), photo("P2", 1)]))
        claimed = call(connection, "wa_media_claim", "w", 2, 60, session)["jobs"]
        call(connection, "wa_media_done", claimed[0]["id"], "w", MEDIA)
        connection.execute("delete from public.messages where id = %s", (claimed[0]["message_id"],))
    return [job["id"] for job in claimed]


def rows(connection: Connection) -> int:
    found = connection.execute("select count(*) from public.media where sha256 = %s", (SHA256,)).fetchone()
    assert found is not None
    return int(found[0])


def test_a_file_that_is_stored_while_its_row_is_being_deleted_waits_and_is_refused(
    connect: Callable[[], Connection], beside: Beside, jobs: list[str]
) -> None:
    retention = connect()
    doomed = call(retention, "wa_list_media_to_delete", 10_000)["objects"]  # other tests leave some, too
    assert SHA256 in {one["sha256"] for one in doomed}
    storing = beside.start("wa_media_done", jobs[1], "w", MEDIA)
    beside.wait_until_blocked(storing)
    retention.commit()
    with pytest.raises(psycopg.Error, match="object_doomed"):
        storing.result(10)
    assert rows(retention) == 0


def test_a_file_that_was_linked_while_retention_looked_is_kept(
    connect: Callable[[], Connection], beside: Beside, jobs: list[str]
) -> None:
    worker = connect()
    call(worker, "wa_media_done", jobs[1], "w", MEDIA)  # links the old row, and has not committed
    with connect() as retention:
        doomed = call(retention, "wa_list_media_to_delete", 10)["objects"]
    assert SHA256 not in {one["sha256"] for one in doomed}, "a row that somebody is linking is skipped, not waited for"
    worker.commit()
    assert rows(worker) == 1

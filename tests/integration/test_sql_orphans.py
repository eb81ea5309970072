"""No object without a row: what happens when a message goes while its file is being stored. On a real PostgreSQL.

Retention finds objects through rows of public.media. An upload whose job has ended meanwhile must leave one, or the
object would stay in the bucket for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.test_sql_lock_order import claimed, revoke
from tests.integration.test_sql_races import Beside, Connection, batch, beside, call, connect, session

__all__ = ["beside", "connect", "session"]  # fixtures


@pytest.fixture
def sha256() -> str:
    """A content that no other test has."""
    return uuid4().hex * 2


def file(sha256: str, extension: str = "jpg") -> str:
    path = f"{sha256}/original.{extension}"
    return json.dumps({"sha256": sha256, "mime": "image/jpeg", "bytes": "5", "storage_path": path})


def one(connection: Connection, query: str, *args: object) -> Any:
    row = connection.execute(query, args).fetchone()
    return None if row is None else row[0]


def media_rows(connection: Connection, sha256: str) -> list[str]:
    found = connection.execute("select storage_path from public.media where sha256 = %s", (sha256,)).fetchall()
    return [row[0] for row in found]


def doomed(connection: Connection, sha256: str) -> list[str]:
    """One turn of retention's second step: the object that it lists for this content."""
    return [
        o["storage_path"] for o in call(connection, "wa_list_media_to_delete", 1000)["objects"] if o["sha256"] == sha256
    ]


def delete(connection: Connection, session: str) -> None:
    """A user deletes everything."""
    connection.execute("delete from public.messages where session_id = %s", (session,))


def blank(connection: Connection, session: str) -> None:
    call(connection, "wa_commit", session, batch(2, changes=[revoke("A1")]))


@pytest.mark.parametrize("go", [delete, blank])
def test_an_object_whose_message_went_during_its_upload_is_found_by_retention(
    connect: Callable[[], Connection], session: str, sha256: str, go: Callable[[Connection, str], None]
) -> None:
    mine = connect()
    (job,) = claimed(mine, session, "A1")
    go(mine, session)
    for _ in range(2):
        answer = call(mine, "wa_media_done", job["id"], "m", file(sha256))
        assert (answer["gone"], answer["reused"]) == (True, False)
        assert media_rows(mine, sha256) == [f"{sha256}/original.jpg"]
    linked = "select count(*) from public.messages where session_id = %s and media_id is not null"
    assert one(mine, linked, session) == 0
    assert doomed(mine, sha256) == [f"{sha256}/original.jpg"]
    call(mine, "wa_mark_media_deleted", json.dumps([sha256]))
    assert (doomed(mine, sha256), media_rows(mine, sha256)) == ([], [])


def test_a_done_whose_answer_was_lost_leaves_everything_as_it_was(
    connect: Callable[[], Connection], session: str, sha256: str
) -> None:
    mine = connect()
    (job,) = claimed(mine, session, "A1")
    first = call(mine, "wa_media_done", job["id"], "m", file(sha256))
    again = call(mine, "wa_media_done", job["id"], "m", file(sha256))
    assert (again["media_id"], again["gone"], again["reused"]) == (first["media_id"], True, False)
    assert doomed(mine, sha256) == []


def test_a_job_that_was_claimed_anew_still_links_what_its_former_claimant_stored(
    connect: Callable[[], Connection], session: str, sha256: str
) -> None:
    mine = connect()
    (job,) = claimed(mine, session, "A1")
    mine.execute("update public.media_jobs set lease_expires_at = now() where id = %s", (job["id"],))
    call(mine, "wa_media_claim", "other", 10, 60, session)
    for _ in range(2):
        assert call(mine, "wa_media_done", job["id"], "m", file(sha256))["stale"]
        assert media_rows(mine, sha256) == [f"{sha256}/original.jpg"]
        assert one(mine, "select media_status from public.messages where id = %s", job["message_id"]) == "pending"
    answer = call(mine, "wa_media_done", job["id"], "other", file(sha256))
    assert (answer["stale"], answer["reused"], answer["gone"]) == (False, True, False)
    assert one(mine, "select media_id from public.messages where id = %s", job["message_id"]) == answer["media_id"]
    assert doomed(mine, sha256) == []


def test_an_upload_that_nobody_needs_waits_for_another_of_the_same_content(
    connect: Callable[[], Connection], beside: Beside, session: str, sha256: str
) -> None:
    mine = connect()
    first, second = claimed(mine, session, "A1", "A2")
    mine.execute("delete from public.messages where id = %s", (second["message_id"],))
    mine.commit()
    linked = call(mine, "wa_media_done", first["id"], "m", file(sha256))
    late = beside.start("wa_media_done", second["id"], "m", file(sha256))
    beside.wait_until_blocked(late)
    mine.commit()
    assert late.result(10)["media_id"] == linked["media_id"]
    assert doomed(mine, sha256) == []


@pytest.mark.parametrize("removed", [False, True])
def test_an_object_that_came_back_while_retention_removed_it_is_removed_again(
    connect: Callable[[], Connection], session: str, sha256: str, removed: bool
) -> None:
    """It may have been uploaded after the removal and before retention said so: no row, and no second look."""
    mine = connect()
    first, second = claimed(mine, session, "A1", "A2")
    call(mine, "wa_media_done", first["id"], "m", file(sha256))
    delete(mine, session)
    assert doomed(mine, sha256) == [f"{sha256}/original.jpg"]  # and now it is taken out of the bucket
    if removed:
        call(mine, "wa_mark_media_deleted", json.dumps([sha256]))
    for _ in range(2):
        assert call(mine, "wa_media_done", second["id"], "m", file(sha256))["gone"]
    if not removed:
        for _ in range(2):
            call(mine, "wa_mark_media_deleted", json.dumps([sha256]))
    assert media_rows(mine, sha256) == [], "a row would point to an object that is about to go"
    for _ in range(2):
        assert doomed(mine, sha256) == [f"{sha256}/original.jpg"]
    for _ in range(2):
        call(mine, "wa_mark_media_deleted", json.dumps([sha256]))
    assert doomed(mine, sha256) == []


def test_one_content_under_two_extensions_leaves_neither_object_behind(
    connect: Callable[[], Connection], session: str, sha256: str
) -> None:
    """Retention removes the one; the other is stored at that moment, for a message that has gone."""
    mine = connect()
    first, second = claimed(mine, session, "A1", "A2")
    call(mine, "wa_media_done", first["id"], "m", file(sha256))
    delete(mine, session)
    assert doomed(mine, sha256) == [f"{sha256}/original.jpg"]
    call(mine, "wa_media_done", second["id"], "m", file(sha256, "bin"))
    assert doomed(mine, sha256) == [f"{sha256}/original.jpg"], "the one that is on its way out is not forgotten"
    call(mine, "wa_mark_media_deleted", json.dumps([sha256]))
    assert doomed(mine, sha256) == [f"{sha256}/original.bin"]
    call(mine, "wa_mark_media_deleted", json.dumps([sha256]))
    assert doomed(mine, sha256) == []


def test_a_second_object_of_a_content_that_is_stored_is_reported_although_its_message_went(
    connect: Callable[[], Connection], session: str, sha256: str
) -> None:
    """`reused` tells the worker to look for a double."""
    mine = connect()
    first, second = claimed(mine, session, "A1", "A2")
    call(mine, "wa_media_done", first["id"], "m", file(sha256))
    mine.execute("delete from public.messages where id = %s", (second["message_id"],))
    answer = call(mine, "wa_media_done", second["id"], "m", file(sha256, "bin"))
    assert (answer["gone"], answer["reused"]) == (True, True)


def test_an_object_that_a_row_names_again_is_not_removed_for_a_late_upload(
    connect: Callable[[], Connection], session: str, sha256: str
) -> None:
    """A late call's clock stands still: to it the removal is recent, to whoever linked the row it was over."""
    mine = connect()
    first, second = claimed(mine, session, "A1", "A2")
    call(mine, "wa_media_done", first["id"], "m", file(sha256))
    mine.execute(
        "insert into public.wa_media_doomed (sha256, storage_path, deleted_at)"
        " values (%s, %s, now() - interval '119 seconds')",
        (sha256, f"{sha256}/original.jpg"),
    )
    mine.execute("delete from public.messages where id = %s", (second["message_id"],))
    for _ in range(2):
        assert call(mine, "wa_media_done", second["id"], "m", file(sha256))["gone"]
    assert doomed(mine, sha256) == []

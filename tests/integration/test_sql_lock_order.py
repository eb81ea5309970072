"""Two connections that lock the same rows, on a real PostgreSQL: commits, media jobs, and rows that a user deletes.

A deadlock is no loss (the call is asked again), but costs a second in which nothing is committed; a foreign key that
fails because somebody deleted the other end must not cost a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.database import GROUP, message, photo
from tests.integration.test_sql_races import Beside, Connection, batch, beside, call, connect, session
from tests.integration.test_store_changes import change

__all__ = ["beside", "connect", "session"]  # fixtures


def claimed(connection: Connection, session: str, *wa_msg_ids: str) -> list[dict[str, Any]]:
    """Photos that are stored, their jobs claimed by 'm'."""
    call(connection, "wa_commit", session, batch(1, messages=[photo(name) for name in wa_msg_ids]))
    jobs = call(connection, "wa_media_claim", "m", 10, 60, session)["jobs"]
    connection.commit()
    return list(jobs)


def edit(target: str) -> dict[str, Any]:
    return change("edit", target, "E1", target_sender="ana@lid", author="ana@lid", payload={"text": "new"})


def revoke(target: str) -> dict[str, Any]:
    return change("revoke", target, "V1", target_sender="ana@lid", author="ana@lid", payload={"blank": True})


def test_a_file_is_given_up_while_a_commit_holds_the_session(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    """A row that names a session asks for the session's row; a commit has it, and may come to edit the same message."""
    mine = connect()
    (job,) = claimed(mine, session, "A1")
    call(mine, "wa_lock_session", session, 1)  # where a commit stands while it stores keys
    abandoning = beside.start("wa_media_abandon", job["id"], "m", "expired", "GONE", "no more")
    assert abandoning.result(5) == {"gone": False}, "it need not wait for the commit"
    mine.commit()


def test_a_message_is_blanked_while_its_file_is_being_linked(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    """Both take the job first and the message second; the other way round is a deadlock."""
    mine = connect()
    (job,) = claimed(mine, session, "A1")
    call(mine, "wa_lock_job", job["id"], "m")  # where wa_media_done begins
    revoking = beside.start("wa_commit", session, batch(2, changes=[revoke("A1")]))
    beside.wait_until_blocked(revoking)
    mine.execute("set local lock_timeout = '500ms'")
    mine.execute("update public.messages set media_status = 'stored' where id = %s", (job["message_id"],))
    mine.commit()
    assert revoking.result(10)["changed"] == 1


@pytest.mark.parametrize("wa_msg_ids", [["A2"], ["A2", "A3"]])
def test_a_message_is_stored_although_a_user_deletes_the_one_before_it(
    connect: Callable[[], Connection], beside: Beside, session: str, wa_msg_ids: list[str]
) -> None:
    """Its parent: the link waits for the deletion and then finds nothing to point to."""
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1")]))
    mine.commit()
    mine.execute("delete from public.messages where session_id = %s", (session,))
    new = [photo(name, 10 * n) for n, name in enumerate(wa_msg_ids, 1)]
    storing = beside.start("wa_commit", session, batch(2, messages=new))
    beside.wait_until_blocked(storing)
    mine.commit()
    answer = storing.result(10)
    assert (answer["stored"], answer["refused"]) == (len(new), 0)
    found = mine.execute("select wa_msg_id from public.messages where session_id = %s order by id", (session,))
    assert [row[0] for row in found.fetchall()] == wa_msg_ids


def test_a_group_that_a_user_deletes_during_a_commit_costs_nothing_else(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    mine.execute("delete from public.groups where session_id = %s", (session,))
    storing = beside.start("wa_commit", session, batch(1, messages=[message("A1")], discards={"too_old": 1}))
    beside.wait_until_blocked(storing)
    mine.commit()
    answer = storing.result(10)
    assert (answer["stored"], answer["skipped"], answer["refused"]) == (0, 1, 0)


def test_a_quote_of_a_message_that_a_user_is_deleting(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1")]))
    mine.commit()
    mine.execute("delete from public.messages where session_id = %s", (session,))
    quote = change("quote", "A1", "A2", target_sender="ana@lid", author="ana@lid")
    new = message("A2", 1000, quoted_msg_id="A1", quoted_sender="ana@lid")
    storing = beside.start("wa_commit", session, batch(2, messages=[new], changes=[quote]))
    beside.wait_until_blocked(storing)
    mine.commit()
    assert storing.result(10)["stored"] == 1
    count = mine.execute("select count(*) from public.wa_refused_stanzas where session_id = %s", (session,)).fetchone()
    assert count == (0,), "a message that is stored is none that was refused"


def test_an_edit_of_a_message_that_a_user_is_deleting(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1")]))
    mine.commit()
    mine.execute("delete from public.messages where session_id = %s", (session,))
    storing = beside.start("wa_commit", session, batch(2, changes=[edit("A1")], messages=[message("B1", 500)]))
    beside.wait_until_blocked(storing)
    mine.commit()
    assert storing.result(10)["stored"] == 1
    assert GROUP

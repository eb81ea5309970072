"""Two connections that lock the same rows, on a real PostgreSQL: commits, media jobs, and rows that a user deletes.

A deadlock is no loss (the call is asked again), but costs a second in which nothing is committed; a foreign key that
fails because somebody deleted the other end must not cost a message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from tests.integration.database import GROUP, message, photo
from tests.integration.test_sql_races import Beside, Connection, batch, beside, call, connect, session
from tests.integration.test_store_changes import change
from worker.ingest.parts import Item

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
    call(mine, "wa.lock_session", session, 1)  # where a commit stands while it stores keys
    abandoning = beside.start("wa_media_abandon", job["id"], "m", "expired", "GONE", "no more")
    assert abandoning.result(5) == {"gone": False}, "it need not wait for the commit"
    mine.commit()


def test_a_message_is_blanked_while_its_file_is_being_linked(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    """Both take the message first and the job second, as a deletion does; the other way round is a deadlock."""
    mine = connect()
    (job,) = claimed(mine, session, "A1")
    call(mine, "wa.lock_message_of_job", job["id"])  # where wa_media_done begins
    revoking = beside.start("wa_commit", session, batch(2, changes=[revoke("A1")]))
    beside.wait_until_blocked(revoking)
    mine.execute("set local lock_timeout = '500ms'")
    mine.execute("update public.messages set media_status = 'stored' where id = %s", (job["message_id"],))
    mine.commit()
    assert revoking.result(10)["changed"] == 1


def test_a_listed_message_is_emptied_while_its_file_is_being_linked(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    """As above: the listed item first, its job second."""
    mine = connect()
    listed = asdict(Item("message", photo("A1")).as_base64("XX000", "internal error", "waiting"))
    call(mine, "wa_commit", session, batch(1, refused=[listed]))
    (job,) = call(mine, "wa_media_claim", "m", 10, 60, session)["jobs"]
    mine.commit()
    call(mine, "wa.lock_message_of_job", job["id"])  # where wa_media_done begins
    revoking = beside.start("wa_commit", session, batch(2, changes=[revoke("A1")]))
    beside.wait_until_blocked(revoking)
    mine.execute("set local lock_timeout = '500ms'")
    mine.execute("select 1 from public.media_jobs where id = %s for update", (job["id"],))
    mine.commit()
    assert revoking.result(10)["held"] == 1
    assert mine.execute("select 1 from public.media_jobs where id = %s", (job["id"],)).fetchone() is None


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
    answer = storing.result(10)
    assert (answer["stored"], answer["changed"], answer["held"]) == (1, 0, 1), "its message may be on its way again"
    count = mine.execute("select count(*) from public.wa_refused_stanzas where session_id = %s", (session,)).fetchone()
    assert count == (0,)


FILE = {"sha256": "d" * 64, "mime": "image/jpeg", "bytes": "5", "storage_path": f"{'d' * 64}/original.jpg"}


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("wa_media_done", ("{job}", "m", json.dumps(FILE))),
        ("wa_media_abandon", ("{job}", "m", "expired", "GONE", "no more")),
        ("wa_commit", ("{session}", batch(2, changes=[revoke("A1")]))),
        ("wa_media_requeue", ("{session}", '["expired"]')),
    ],
)
def test_messages_are_deleted_while_a_file_of_theirs_is_at_work(
    postgres: str,
    connect: Callable[[], Connection],
    beside: Beside,
    session: str,
    function: str,
    args: tuple[str, ...],
) -> None:
    """A deletion locks its messages first, and their jobs at its end. In the other order each waits for the other."""
    mine = connect()
    job, last = claimed(mine, session, "A1", "A2")
    if function == "wa_media_requeue":
        call(mine, "wa_media_abandon", job["id"], "m", "expired", "GONE", "no more")
        call(mine, "wa_media_abandon", last["id"], "m", "failed", "GONE", "no more")  # stays behind the first on disk
    mine.commit()
    mine.execute("select 1 from public.messages where id = %s for update", (last["message_id"],))  # holds it up
    deletion = Beside(postgres, connect())
    deleting = deletion.start("wa_delete_messages", session, "2030-01-01", 10)
    deletion.wait_until_blocked(deleting)
    working = beside.start(
        function, *(arg.replace("{job}", str(job["id"])).replace("{session}", session) for arg in args)
    )
    beside.wait_until_blocked(working)
    mine.commit()
    assert deleting.result(10)["messages"] == 2
    working.result(10)
    assert mine.execute("select count(*) from public.media_jobs where session_id = %s", (session,)).fetchone() == (0,)


PAIR = [{"lid": "ana@lid", "pn": "4917@s.whatsapp.net"}]


def with_edit(mine: Connection, session: str) -> None:
    """An edit from the number, about a message of the LID's: it waits, they may be two."""
    waiting = edit("A1") | {"author": "4917@s.whatsapp.net"}
    call(mine, "wa_commit", session, batch(1, messages=[message("A1")], changes=[waiting]))


def with_child(mine: Connection, session: str) -> None:
    """A photo from the number, that belongs to a text of the LID's."""
    child = photo("A2", 10, sender="4917@s.whatsapp.net")
    call(mine, "wa_commit", session, batch(1, messages=[message("A1"), child]))


def audits(mine: Connection, session: str) -> list[Any]:
    return mine.execute("select payload from public.audit_log where session_id = %s", (session,)).fetchall()


def delete_first(mine: Connection, session: str) -> None:
    mine.execute("delete from public.messages where session_id = %s and wa_msg_id = 'A1'", (session,))


@pytest.mark.parametrize("prepare", [with_edit, with_child])
def test_a_person_gets_a_second_address_while_a_user_deletes_a_message(
    connect: Callable[[], Connection], beside: Beside, session: str, prepare: Callable[[Connection, str], None]
) -> None:
    """A batch that the database refuses is taken apart, and its message stored as refused."""
    mine = connect()
    prepare(mine, session)
    mine.commit()
    delete_first(mine, session)
    merging = beside.start("wa_commit", session, batch(2, identities=PAIR, messages=[message("B1", 500)]))
    beside.wait_until_blocked(merging)
    mine.commit()
    assert merging.result(10)["stored"] == 1
    left = mine.execute("select wa_msg_id, sender, parent_id from public.messages where session_id = %s", (session,))
    assert {row[1:] for row in left.fetchall()} == {("ana@lid", None)}


def test_a_merge_in_steps_goes_on_although_a_user_deletes_a_message(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    with_child(mine, session)
    mine.execute(
        "insert into public.wa_merges_due (session_id, lid, pn) values (%s, %s, %s)",
        (session, PAIR[0]["lid"], PAIR[0]["pn"]),
    )
    call(mine, "wa_prune", session, 1e6, None)  # the rows; what is left are the links
    mine.commit()
    delete_first(mine, session)
    merging = beside.start("wa_prune", session, 1e6, None)
    beside.wait_until_blocked(merging)
    mine.commit()
    merging.result(10)
    while call(mine, "wa_prune", session, 1e6, None)["more"]:
        pass
    assert audits(mine, session) == [], "no merge was given up"
    count = "select count(*) from public.wa_merges_due where session_id = %s"
    assert mine.execute(count, (session,)).fetchone() == (0,)


def test_an_edit_is_opened_while_a_user_deletes_its_message(
    connect: Callable[[], Connection], beside: Beside, session: str
) -> None:
    mine = connect()
    call(mine, "wa_commit", session, batch(1, messages=[message("A1"), message("A2", 500)]))
    for target in ("A1", "A2"):
        mine.execute(
            "insert into public.wa_held_changes "
            "(session_id, chat_id, kind, target_sender, target_id, author, change_id, at) "
            "values (%s, %s, 'sealed_edit', 'ana@lid', %s, 'ana@lid', %s, now())",
            (session, GROUP, target, f"E{target}"),
        )
    held = mine.execute("select id from public.wa_held_changes where session_id = %s", (session,)).fetchall()
    opened = json.dumps([{"id": str(row[0]), "text": "new", "at": "2026-11-22T13:00:00Z"} for row in held])
    mine.commit()
    delete_first(mine, session)
    opening = beside.start("wa_open_edits", session, 1, opened)
    beside.wait_until_blocked(opening)
    mine.commit()
    assert opening.result(10) == {"changed": 1}
    assert call(mine, "wa_open_edits", session, 1, opened) == {"changed": 0}

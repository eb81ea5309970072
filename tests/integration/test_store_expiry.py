"""What disappears from phones: kept, blanked or deleted, with everything that was derived of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.database import GROUP, message, photo, rows, table, writer
from tests.integration.test_store_media import file
from worker.store import Store
from worker.store.retention import delete_unused_objects

DUE: dict[str, Any] = {"expires_at": "2020-01-01T00:00:00Z"}
LATER: dict[str, Any] = {"expires_at": "2100-01-01T00:00:00Z"}


def keep(wa_msg_id: str, seconds: float, type_: str) -> dict[str, Any]:
    target = {"sender": "ana@lid", "wa_msg_id": "A1"}
    return message(
        wa_msg_id, seconds, kind="keep", text=None, sender="ben@lid", content={"type": type_, "target": target}
    )


OTHERS_OWN = keep("K2", 20, "undo_keep_for_all") | {
    "sender": "mallory@lid",
    "content": {"type": "undo_keep_for_all", "target": {"sender": "mallory@lid", "wa_msg_id": "A1"}},
}


async def by_id(store: Store, session: str) -> dict[str, dict[str, Any]]:
    return {row["wa_msg_id"]: row for row in await rows(store, "messages", session)}


async def test_a_due_message_loses_what_it_said_and_all_that_was_derived(store: Store, session: str) -> None:
    me = await writer(store, session)
    told: dict[str, Any] = {"secret": "c2VjcmV0", "mentions": ["x@lid"]}
    await me.commit(messages=[message("A1", **DUE, **told), message("A2", **LATER), message("A3")])
    waiting: dict[str, Any] = {
        "kind": "edit",
        "chat_id": GROUP,
        "target_sender": "ana@lid",
        "target_id": "A1",
        "author": "49@s.whatsapp.net",
    }
    waiting |= {"change_id": "E1", "at": "2026-01-01T00:00:00Z", "payload": {"text": "waits: is this Ana's number?"}}
    await me.commit(changes=[waiting])
    assert len(await rows(store, "wa_held_changes", session)) == 1

    done = await store.expire(session, "blank", 10)

    assert (done.expired, done.more) == (1, False)
    found = await by_id(store, session)
    gone = found["A1"]
    assert (gone["text"], gone["raw"], gone["content"], gone["mentions"], gone["blanked"]) == (
        None,
        {},
        None,
        None,
        True,
    )
    assert found["A2"]["text"] == "text of A2"
    assert found["A3"]["text"] == "text of A3"
    assert await rows(store, "wa_held_changes", session) == []
    secrets = await table(store, "message_secrets").select("*").eq("session_id", session).execute()
    assert secrets.data == []
    assert (await store.expire(session, "blank", 10)).expired == 0, "once"


async def test_a_file_goes_unless_another_message_needs_it(store: Store, session: str) -> None:
    me = await writer(store, session)
    await store.bucket.ensure()
    shared, alone = file("shared" + session), file("alone" + session)
    await me.commit(messages=[photo("A1", **DUE), photo("A2"), photo("A3", **DUE)])
    claimed = {job.wa_msg_id: job for job in (await store.media_claim("m1", 10, 600, session)).jobs}
    for wa_msg_id, stored in (("A1", shared), ("A2", shared), ("A3", alone)):
        await store.media_done(claimed[wa_msg_id].id, "m1", stored)

    assert (await store.expire(session, "blank", 10)).expired == 2
    await delete_unused_objects(store)

    kept = await table(store, "media").select("sha256").in_("sha256", [shared.sha256, alone.sha256]).execute()
    assert [row["sha256"] for row in kept.data] == [shared.sha256]
    found = await by_id(store, session)
    assert {name: row["media_status"] for name, row in found.items()} == {
        "A1": "disappeared",
        "A2": "stored",
        "A3": "disappeared",
    }


async def test_delete_takes_the_row_too_and_its_copy_does_not_bring_it_back(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[message("A1", **DUE), message("A2")])
    assert (await store.expire(session, "delete", 10)).expired == 1
    assert (await by_id(store, session)).keys() == {"A2"}


@pytest.mark.parametrize(
    ("keeps", "stays"),
    [
        ([keep("K1", 10, "keep_for_all")], True),
        ([keep("K1", 10, "keep_for_all"), keep("K2", 20, "undo_keep_for_all")], False),
        ([keep("K1", 10, "keep_for_all"), keep("K2", 20, "undo_keep_for_all") | {"sender": "ana@lid"}], False),
        ([keep("K1", 10, "keep_for_all"), keep("K2", 20, "undo_keep_for_all") | {"sender": "mallory@lid"}], True),
        ([keep("K1", 10, "keep_for_all"), OTHERS_OWN], True),
        ([keep("K2", 20, "keep_for_all"), keep("K1", 10, "undo_keep_for_all")], True),
    ],
    ids=[
        "kept",
        "no longer kept",
        "no longer, says its sender",
        "a stranger's word",
        "of a message of the stranger's with the same id",
        "kept again, out of order",
    ],
)
async def test_what_somebody_keeps_in_the_chat_stays(
    store: Store, session: str, keeps: list[dict[str, Any]], stays: bool
) -> None:
    me = await writer(store, session)
    await me.commit(messages=[message("A1", **DUE), *keeps])
    assert (await store.expire(session, "blank", 10)).expired == (0 if stays else 1)


async def test_few_at_a_time_until_none_is_due(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[message(f"A{number}", number, **DUE) for number in range(5)])
    done = [await store.expire(session, "delete", 2) for _ in range(3)]
    assert [(each.expired, each.more) for each in done] == [(2, True), (2, True), (1, False)]

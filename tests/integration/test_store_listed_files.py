"""The file of a message that could not be stored: fetched when the message is listed, there when it is taken back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.database import GROUP, Writer, digest, message, photo, rows, table, writer
from tests.integration.test_store_media import file
from tests.integration.test_store_parts import change, the_only_listed
from worker.ingest.parts import Item
from worker.store import MediaJob, Store
from worker.store.rows import Expired, GroupChange


async def listed(store: Store, session: str, value: dict[str, Any], state: str = "waiting") -> Writer:
    """A session in which this message is listed, and nothing else has happened."""
    me = await writer(store, session)
    await me.commit(refused=[Item("message", value).as_base64("XX000", "internal error", state)])
    return me


async def the_only_job(store: Store, session: str) -> MediaJob:
    (job,) = (await store.media_claim("m1", 10, 60, session)).jobs
    return job


async def fetched(store: Store, session: str) -> int:
    """The id of the stored file."""
    job = await the_only_job(store, session)
    done = await store.media_done(job.id, "m1", file(session))
    assert done.media_id is not None
    return done.media_id


async def kept(store: Store, session: str) -> bool:
    """Whether retention leaves the file alone."""
    await store.console.list_media_to_delete(1000)
    return bool((await table(store, "media").select("id").eq("sha256", digest(session)).execute()).data)


@pytest.mark.parametrize("state", ["refused", "waiting"])
async def test_a_listed_message_has_its_file_fetched_at_once(store: Store, session: str, state: str) -> None:
    await listed(store, session, photo("A1", sender_alt="1@s.whatsapp.net"), state)
    job = await the_only_job(store, session)
    assert (job.chat_id, job.sender, job.sender_alt, job.wa_msg_id) == (
        photo("A1")["chat_id"],
        photo("A1")["sender"],
        "1@s.whatsapp.net",
        "A1",
    )
    assert (job.kind, job.file_name, job.from_me) == ("image", "a.jpg", False)
    assert job.descriptor == {"media_key": "c2VjcmV0"}
    for _ in range(2):
        done = await store.media_done(job.id, "m1", file(session))
    assert (await the_only_listed(store, session))["media_id"] == done.media_id
    assert await rows(store, "media_jobs", session) == []
    assert await kept(store, session)


async def test_a_message_that_is_taken_back_finds_its_file(store: Store, session: str) -> None:
    await listed(store, session, photo("A1"))
    media_id = await fetched(store, session)
    assert await store.retry_refused(session, (await the_only_listed(store, session))["id"]) is None
    (row,) = await rows(store, "messages", session)
    assert (row["media_id"], row["media_status"]) == (media_id, "stored")
    assert await rows(store, "media_jobs", session) == []


async def test_a_message_that_is_taken_back_before_its_file_has_come_gets_a_job_of_its_own(
    store: Store, session: str
) -> None:
    await listed(store, session, photo("A1"))
    early = await the_only_job(store, session)
    assert await store.retry_refused(session, (await the_only_listed(store, session))["id"]) is None
    assert (await store.media_done(early.id, "m1", file(session))).gone
    job = await the_only_job(store, session)
    assert job.id != early.id
    await store.media_done(job.id, "m1", file(session))
    (row,) = await rows(store, "messages", session)
    assert row["media_status"] == "stored"


async def test_a_file_that_was_given_up_is_tried_again_when_its_message_is_taken_back(
    store: Store, session: str
) -> None:
    await listed(store, session, photo("A1"))
    job = await the_only_job(store, session)
    for _ in range(2):
        await store.media_abandon(job.id, "m1", "expired", "MEDIA_EXPIRED", "gone")
    (audit,) = [row for row in await rows(store, "audit_log", session) if row["event"] == "error"]
    assert audit["payload"]["wa_msg_id"] == "A1"
    assert await store.retry_refused(session, (await the_only_listed(store, session))["id"]) is None
    assert (await the_only_job(store, session)).wa_msg_id == "A1"


async def blanked(store: Store, me: Writer) -> None:
    await me.commit(changes=[change("revoke", "A1", "R1", blank=True)])


async def expired(store: Store, me: Writer) -> None:
    assert await store.expire(me.session, "blank", 10) == Expired(expired=1, more=False)
    assert await store.expire(me.session, "blank", 10) == Expired(expired=0, more=False)


async def pruned(store: Store, me: Writer) -> None:
    await store.console.delete_messages(me.session, datetime.now(UTC) + timedelta(minutes=1), 1000)


@pytest.mark.parametrize("end", [blanked, expired, pruned])
@pytest.mark.parametrize("come", [False, True], ids=["before the file has come", "after the file has come"])
async def test_what_is_no_longer_kept_has_no_file_either(store: Store, session: str, end: Any, come: bool) -> None:
    ago = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    me = await listed(store, session, photo("A1", expires_at=ago))
    if come:
        await fetched(store, session)
    await end(store, me)
    assert [row["body"] for row in await rows(store, "wa_refused_stanzas", session)] == [None] * (end is not pruned)
    assert await rows(store, "media_jobs", session) == []
    assert not await kept(store, session)


@pytest.mark.parametrize("state", ["refused", "waiting", "undecrypted"])
async def test_what_was_revoked_before_it_was_listed_is_not_kept(store: Store, session: str, state: str) -> None:
    me = await writer(store, session)
    await blanked(store, me)
    await me.commit(refused=[Item("message", photo("A1")).as_base64("XX000", "internal error", state)])
    assert (await the_only_listed(store, session))["body"] is None
    assert await rows(store, "media_jobs", session) == []


@pytest.mark.parametrize("revoke", [{"blank": False}, {"blank": True, "author": "ben@lid"}], ids=["kept", "by another"])
async def test_a_revoke_that_empties_nothing_leaves_what_is_listed_later(
    store: Store, session: str, revoke: dict[str, Any]
) -> None:
    me = await writer(store, session)
    await me.commit(changes=[change("revoke", "A1", "R1", **revoke)])
    await me.commit(refused=[Item("message", photo("A1")).as_base64("XX000", "internal error", "waiting")])
    assert (await the_only_listed(store, session))["body"] is not None
    assert len(await rows(store, "media_jobs", session)) == 1


async def test_an_admins_revoke_empties_what_is_listed_once_the_admins_are_told(store: Store, session: str) -> None:
    me = await listed(store, session, photo("A1"))
    await me.commit(changes=[change("revoke", "A1", "R1", "ben@lid", blank=True, by_admin=True)])
    assert (await the_only_listed(store, session))["body"] is not None
    told = GroupChange(wa_group_id=GROUP, name="Family", admins=("ben@lid",))
    await store.upsert_groups(session, me.fence, [told], complete=False)
    assert (await the_only_listed(store, session))["body"] is None
    assert await rows(store, "media_jobs", session) == []


async def test_a_file_that_another_message_needs_stays(store: Store, session: str) -> None:
    me = await listed(store, session, photo("A1"))
    await fetched(store, session)
    await me.commit(messages=[photo("A2")])
    job = await the_only_job(store, session)
    await store.media_done(job.id, "m1", file(session))
    await blanked(store, me)
    assert await kept(store, session)


async def test_a_listed_message_that_was_kept_in_the_chat_does_not_disappear(store: Store, session: str) -> None:
    ago = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    me = await listed(store, session, photo("A1", expires_at=ago))
    target = {"wa_msg_id": "A1", "sender": photo("A1")["sender"]}
    await me.commit(messages=[message("K1", kind="keep", content={"target": target, "type": "keep_for_all"})])
    assert await store.expire(session, "blank", 10) == Expired(expired=0, more=False)
    assert (await the_only_listed(store, session))["body"] is not None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(message("A1"), id="a text"),
        pytest.param(photo("A1") | {"media_status": "failed"}, id="a file that cannot be fetched"),
        pytest.param(photo("A1") | {"text": "a\0b"}, id="a document that Postgres cannot read"),
        pytest.param(photo("A1", expires_at="soon"), id="a time that is none"),
        pytest.param(photo("A1", chat_id="elsewhere@g.us"), id="of a chat that is not monitored"),
        pytest.param(photo("A1") | {"media": "x"}, id="a file that is no object"),
    ],
)
async def test_what_has_no_file_is_listed_without_a_job(store: Store, session: str, value: dict[str, Any]) -> None:
    await listed(store, session, value)
    await the_only_listed(store, session)
    assert await rows(store, "media_jobs", session) == []

"""Several files of one message: a better copy of a photo, the film of a motion photo."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.database import GROUP, Writer, at, message, photo, rows, stub, writer
from tests.integration.test_store_media import file
from worker.store import Store


def link(child: str = "HD", first: str = "SD", author: str = "ana@lid", of: str = "ana@lid") -> dict[str, Any]:
    named = {"chat_id": GROUP, "target_sender": of, "target_id": first, "author": author, "change_id": child}
    return {"kind": "rendition", "at": at(1), "payload": {}, **named}


async def by_id(store: Store, session: str) -> dict[str, dict[str, Any]]:
    return {row["wa_msg_id"]: row for row in await rows(store, "messages", session)}


async def send(me: Writer, *order: str, rendition: str = "hd") -> None:
    """The photo and its rendition, each in a batch of its own, in this order."""
    for name in order:
        if name == "SD":
            await me.commit(messages=[photo("SD", 10)])
        else:
            await me.commit(messages=[photo("HD", 11, rendition=rendition)], changes=[link()])


async def fetch(store: Store, session: str, **bytes_of: int) -> dict[str, int]:
    """Store the files of these messages, in this order; the ids of their media rows."""
    jobs = {job.wa_msg_id: job for job in (await store.media_claim("m1", 10, 60, session)).jobs}
    found = {}
    for name, size in bytes_of.items():
        done = await store.media_done(jobs[name].id, "m1", file(f"{session} {name}", bytes=size))
        assert done.media_id is not None
        found[name] = done.media_id
    return found


@pytest.mark.parametrize("arrival", [("SD", "HD"), ("HD", "SD")])
@pytest.mark.parametrize("stored", [("SD", "HD"), ("HD", "SD")])
async def test_the_first_row_has_the_best_stored_file_whatever_came_first(
    store: Store, session: str, arrival: tuple[str, str], stored: tuple[str, str]
) -> None:
    me = await writer(store, session)
    await send(me, *arrival)
    sizes = {"SD": 1000, "HD": 9000}
    media = await fetch(store, session, **{name: sizes[name] for name in stored})
    found = await by_id(store, session)
    assert (found["SD"]["media_id"], found["SD"]["media_status"]) == (media["HD"], "stored")
    assert (found["HD"]["media_id"], found["HD"]["rendition_of"]) == (media["HD"], found["SD"]["id"])
    assert found["SD"]["rendition_of"] is None


@pytest.mark.parametrize(
    ("rendition", "size", "why"),
    [("hd", 500, "smaller than the first"), ("hevc", 9000, "another coding"), ("motion", 9000, "another file")],
)
async def test_the_first_keeps_its_own_file(store: Store, session: str, rendition: str, size: int, why: str) -> None:
    me = await writer(store, session)
    await send(me, "SD", "HD", rendition=rendition)
    media = await fetch(store, session, SD=1000, HD=size)
    found = await by_id(store, session)
    assert found["SD"]["media_id"] == media["SD"], why
    assert found["HD"]["rendition_of"] == found["SD"]["id"]


async def test_a_first_file_that_is_given_up_is_replaced_by_the_better_copy(store: Store, session: str) -> None:
    me = await writer(store, session)
    await send(me, "SD", "HD")
    jobs = {job.wa_msg_id: job for job in (await store.media_claim("m1", 10, 60, session)).jobs}
    done = await store.media_done(jobs["HD"].id, "m1", file(session, bytes=9000))
    await store.media_abandon(jobs["SD"].id, "m1", "expired", "MEDIA_EXPIRED", "gone")
    first = (await by_id(store, session))["SD"]
    assert (first["media_id"], first["media_status"]) == (done.media_id, "stored")


async def test_texts_around_it_link_to_the_first_row_alone(store: Store, session: str) -> None:
    me = await writer(store, session)
    await send(me, "SD", "HD")
    await me.commit(messages=[message("T1", 12)])
    found = await by_id(store, session)
    assert (found["T1"]["parent_id"], found["HD"]["parent_id"]) == (found["SD"]["id"], None)


async def test_nobody_replaces_the_file_of_another(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[photo("SD", 10)])
    await me.commit(messages=[photo("HD", 11, sender="eve@lid", rendition="hd")], changes=[link(author="eve@lid")])
    media = await fetch(store, session, SD=1000, HD=9000)
    found = await by_id(store, session)
    assert (found["SD"]["media_id"], found["HD"]["rendition_of"]) == (media["SD"], None)
    counts = {row["reason"]: row["count"] for row in await rows(store, "wa_discards", session, "reason")}
    assert counts == {"rendition_by_other": 1}


@pytest.mark.parametrize("target", ["text", "rendition"])
async def test_only_a_file_that_is_no_rendition_itself_has_renditions(store: Store, session: str, target: str) -> None:
    me = await writer(store, session)
    first = message("SD", 10) if target == "text" else photo("SD", 10, rendition="hd")
    await me.commit(messages=[first])
    await me.commit(messages=[photo("HD", 11, rendition="hd")], changes=[link()])
    assert (await by_id(store, session))["HD"]["rendition_of"] is None


async def test_two_messages_are_not_renditions_of_each_other(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[photo("A", 10), photo("B", 11)])
    for one, other in (("A", "B"), ("B", "A")):
        await me.commit(messages=[photo(one, 12, rendition="hd")], changes=[link(one, other)])
    assert [row["rendition_of"] for row in (await by_id(store, session)).values()] == [None, None]
    revoke = link(first="A") | {"kind": "revoke", "change_id": "R1", "payload": {"blank": True}}
    await me.commit(changes=[revoke])
    assert [row["blanked"] for row in (await by_id(store, session)).values()] == [True, False]


async def test_a_message_has_ten_renditions_at_most(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[photo("SD", 10)])
    names = [f"HD{n}" for n in range(12)]
    await me.commit(
        messages=[photo(name, 11, rendition="hd") for name in names], changes=[link(name) for name in names]
    )
    found = await by_id(store, session)
    assert sum(row["rendition_of"] is not None for row in found.values()) == 10


async def test_a_stub_that_becomes_readable_gets_its_renditions(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[stub("SD", 10)])
    await send(me, "HD")
    assert (await by_id(store, session))["HD"]["rendition_of"] is None
    await send(me, "SD")
    found = await by_id(store, session)
    assert found["HD"]["rendition_of"] == found["SD"]["id"]


@pytest.mark.parametrize("late", [True, False])
async def test_who_deletes_the_photo_deletes_its_better_copy(store: Store, session: str, late: bool) -> None:
    me = await writer(store, session)
    revoke = link() | {"kind": "revoke", "change_id": "R1", "payload": {"blank": True}}
    await send(me, "SD")
    if late:
        await me.commit(changes=[revoke])
    await send(me, "HD")
    if not late:
        await fetch(store, session, SD=1000, HD=9000)
        await me.commit(changes=[revoke])
    found = await by_id(store, session)
    for name in ("SD", "HD"):
        row = found[name]
        assert (row["blanked"], row["media_id"], row["revoked_by"]) == (True, None, "ana@lid"), name
    assert await rows(store, "media_jobs", session) == []

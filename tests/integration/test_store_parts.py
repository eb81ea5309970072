"""The commit in parts: rows first, then keys and the number; what is listed as refused, and taken back."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tests.integration.database import GROUP, message, rows, switch, table, writer
from worker.errors import SequenceGap, StaleEpoch, StaleFence, StoreUnavailable
from worker.ingest.parts import Item, digest_of, number_of, part_of, pieces_of, rest_of
from worker.store import Batch, KeyChange, Piece, Pieces, Store

KEYS = [KeyChange(type="session", id="x", value="spent")]
HASHES = ["cd" * 32]


def with_digest(batch: Batch) -> Batch:
    return replace(batch, digest=digest_of(batch))


def opaque(value: dict[str, Any], kind: Any = "message") -> Any:
    return Item(kind, value).as_base64()


def change(kind: str, target: str, change_id: str, author: str = "ana@lid", **payload: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "chat_id": GROUP,
        "target_sender": "ana@lid",
        "target_id": target,
        "author": author,
        "change_id": change_id,
        "at": "2026-11-26T12:00:00+00:00",
        "payload": payload,
    }


async def unrecorded(store: Store, session: str) -> list[dict[str, Any]]:
    """The gaps of a worker that does not say what it drops. This one always does, even if it is nothing."""
    return [gap for gap in await rows(store, "coverage_gaps", session) if gap["reason"] == "not_recorded"]


async def test_parts_store_rows_and_only_the_last_one_keys_and_the_number(store: Store, session: str) -> None:
    me = await writer(store, session)
    messages = [message(f"A{n}", n) for n in range(4)]
    batch = with_digest(me.batch(messages=messages, keys=KEYS, hashes=HASHES, discards={"x": 1}))
    items = [Item("message", value) for value in messages]
    for part in (items[:3], items[3:], items[:3]):
        done = await store.commit_part(session, part_of(batch, part))
        assert not done.duplicate
    assert len(await rows(store, "messages", session)) == 4
    assert await store.get_keys(session, "session", ["x"]) == {}
    assert await store.known_stanzas(session, HASHES) == set()
    assert (await store.status(session))["discards"] == {}
    assert not (await store.commit(session, rest_of(batch))).duplicate
    assert await store.get_keys(session, "session", ["x"]) == {"x": "spent"}
    assert await store.known_stanzas(session, HASHES) == set(HASHES)
    for again in (store.commit_part(session, part_of(batch, items)), store.commit(session, batch)):
        assert (await again).duplicate
    assert await unrecorded(store, session) == []


async def test_a_number_is_taken_only_with_the_items_that_it_had(store: Store, session: str) -> None:
    me = await writer(store, session)
    batch = with_digest(me.batch(messages=[message("A1")], keys=KEYS))
    other = with_digest(replace(batch, messages=[message("B1")]))
    await store.commit_part(session, part_of(batch, [Item("message", message("A1"))]))
    for wrong in (store.commit_part(session, other), store.commit(session, other)):
        with pytest.raises(SequenceGap):
            await wrong
    await store.commit(session, rest_of(batch))
    with pytest.raises(SequenceGap):
        await store.commit(session, other)
    assert [row["wa_msg_id"] for row in await rows(store, "messages", session)] == ["A1"]


@pytest.mark.parametrize(
    ("wrong", "error"), [({"seq": 2}, SequenceGap), ({"epoch": 99}, StaleEpoch), ({"fence": 99}, StaleFence)]
)
async def test_a_part_is_checked_like_a_commit(
    store: Store, session: str, wrong: dict[str, Any], error: type[Exception]
) -> None:
    me = await writer(store, session)
    part = replace(me.batch(messages=[message("A1")]), **wrong)
    for call in (
        store.commit_part(session, part),
        store.put_piece(session, Piece(batch=part, document="d", piece=0, body="")),
        store.commit_pieces(session, Pieces(batch=part, document="d", pieces=1, last=False)),
    ):
        with pytest.raises(error):
            await call
    assert await rows(store, "messages", session) == []


async def test_pieces_are_put_together_and_are_gone_when_the_number_is_done(store: Store, session: str) -> None:
    me = await writer(store, session)
    batch = with_digest(me.batch(messages=[message("A1", text="é" * 3000)], keys=KEYS))
    for part, last in ((replace(batch, keys=()), False), (rest_of(batch), True)):
        document, bodies = pieces_of(part, 700)
        pieces = Pieces(batch=number_of(batch), document=document, pieces=len(bodies), last=last)
        for n, body in enumerate(bodies):
            if n == 1:
                with pytest.raises(StoreUnavailable):
                    await store.commit_pieces(session, pieces)
            await store.put_piece(session, Piece(batch=number_of(batch), document=document, piece=n, body=body))
        await store.commit_pieces(session, pieces)
    (row,) = await rows(store, "messages", session)
    assert row["text"] == "é" * 3000
    assert await store.get_keys(session, "session", ["x"]) == {"x": "spent"}
    assert await rows(store, "wa_commit_pieces", session, "piece") == []
    assert await unrecorded(store, session) == []


async def test_an_item_as_base64_is_stored_like_any_other_or_refused_with_its_bytes(store: Store, session: str) -> None:
    me = await writer(store, session)
    edit = change("edit", "A1", "E1", text="new")
    bad = [message("B1", text="a\0b"), message("B2", text="\ud800"), message("B3", sender=None)]
    batch = with_digest(me.batch(keys=KEYS))
    items = [opaque(message("A1")), opaque(edit, "change"), *map(opaque, bad)]
    items.append(opaque(change("edit", "A1", "E2", text="a\0b"), "change"))
    for _ in range(2):
        done = await store.commit_part(session, replace(number_of(batch), opaque=items))
    assert (done.duplicates, done.refused) == (1, 4)
    (row,) = await rows(store, "messages", session)
    assert row["text"] == "new"
    refused = await rows(store, "wa_refused_stanzas", session)
    assert [(one["wa_msg_id"], one["item"], one["state"]) for one in refused] == [
        ("B1", "message", "refused"),
        ("B2", "message", "refused"),
        ("B3", "message", "refused"),
        ("E2", "change", "refused"),
    ]
    assert json.loads(base64.b64decode(refused[0]["body"]))["text"] == "a\0b"
    assert (await store.status(session))["refused"] == 4


async def make_listed(store: Store, session: str, value: dict[str, Any], state: str = "waiting") -> Any:
    """A session in which this message is listed."""
    me = await writer(store, session)
    await me.commit(refused=[Item("message", value).as_base64("XX000", "internal error", state)])
    return me


async def the_only_listed(store: Store, session: str) -> dict[str, Any]:
    (row,) = await rows(store, "wa_refused_stanzas", session)
    return row


async def test_a_message_is_taken_back_with_all_that_belongs_to_it(store: Store, session: str) -> None:
    quoting = message("A2", 10, quoted_msg_id="A1", quoted_sender="ana@lid")
    me = await make_listed(store, session, quoting)
    photo = message("A3", 20, kind="image", media={"file_name": "a.jpg", "descriptor": {}})
    await me.commit(
        messages=[message("A1"), photo],
        changes=[change("quote", "A1", "A2"), change("edit", "A2", "E1", text="better"), change("revoke", "A2", "R1")],
    )
    assert await store.retry_refused(session, (await the_only_listed(store, session))["id"]) is None
    one, two, three = sorted(await rows(store, "messages", session), key=lambda row: str(row["wa_msg_id"]))
    for column in ("ts", "received_at"):
        assert datetime.fromisoformat(two[column]) == datetime.fromisoformat(quoting[column])
    assert (two["quoted_id"], two["text"], three["parent_id"]) == (one["id"], "better", two["id"])
    assert two["revoked_at"] is not None
    assert await rows(store, "wa_refused_stanzas", session) == []
    assert await rows(store, "wa_held_changes", session) == []


async def test_what_is_held_for_a_listed_message_does_not_expire(store: Store, session: str) -> None:
    me = await make_listed(store, session, message("A2"))
    await me.commit(changes=[change("edit", "A2", "E1", text="x"), change("edit", "GONE", "E2", text="y")])
    await table(store, "wa_held_changes").update({"held_at": "2020-01-01"}).eq("session_id", session).execute()
    await store.prune(session, stanza_seconds=1e6)
    assert [row["target_id"] for row in await rows(store, "wa_held_changes", session)] == ["A2"]


async def test_what_is_refused_again_stays_as_it_is(store: Store, session: str) -> None:
    await make_listed(store, session, message("A2", sender=None), "refused")
    before = await the_only_listed(store, session)
    assert await store.retry_refused(session, before["id"]) == "XX000"
    assert await the_only_listed(store, session) == before
    await switch(store, session, GROUP, False)
    assert await store.retry_refused(session, before["id"]) == "unmonitored"
    assert await store.retry_refused(session, 0) == "gone"


async def test_a_revoke_that_blanks_empties_the_kept_bytes(store: Store, session: str) -> None:
    me = await make_listed(store, session, message("A2"))
    await me.commit(changes=[change("revoke", "A2", "R0", author="bob@lid", blank=True)])
    assert (await the_only_listed(store, session))["body"] is not None, "not Bob's to revoke"
    await me.commit(changes=[change("revoke", "A2", "R1", blank=True)])
    row = await the_only_listed(store, session)
    assert row["body"] is None
    assert await store.retry_refused(session, row["id"]) == "empty"


async def test_waiting_items_are_due_with_growing_pauses(store: Store, session: str) -> None:
    await make_listed(store, session, message("A2"))
    assert await store.due_refused(session, 10) == []
    mine = table(store, "wa_refused_stanzas")
    await mine.update({"next_at": "2020-01-01"}).eq("session_id", session).execute()
    (id_,) = await store.due_refused(session, 10)
    assert await store.due_refused(session, 10) == []
    row = await the_only_listed(store, session)
    assert (row["id"], row["tries"]) == (id_, 1)
    assert await store.retry_refused(session, id_) is None
    assert len(await rows(store, "messages", session)) == 1

"""Stanzas that killed sidecars are counted and bounded; what was not decrypted is kept until a good copy comes."""

from __future__ import annotations

import base64
import json

import psycopg
import pytest

from tests.integration.database import GROUP, OTHER_GROUP, Writer, at, message, rows, stub, writer
from worker.errors import StaleFence
from worker.store import Refused, Store, Suspect

A, B = "aa" * 32, "bb" * 32
REACTION = {
    "kind": "reaction", "chat_id": GROUP, "target_sender": "ben@lid", "target_id": "T1", "author": "ana@lid",
    "change_id": "A1", "at": at(60), "payload": {"emoji": "👍"},
}  # fmt: skip
STANZA = json.dumps({"tag": "message", "attrs": {"id": "A1"}})


def undecrypted(wa_msg_id: str, chat_id: str = GROUP) -> Refused:
    body = base64.b64encode(STANZA.encode()).decode()
    return Refused(
        code="suspect", reason="it killed", state="undecrypted", chat_id=chat_id, sender="ana@lid",
        wa_msg_id=wa_msg_id, body=body, encoding="base64",
    )  # fmt: skip


async def listed(store: Store, session: str) -> list[tuple[str, str]]:
    return [(item.state, item.wa_msg_id or "") for item in await store.console.refused(session, 0, 100)]


async def note(store: Store, me: Writer, digest: str, death: str, *, killed: bool = False) -> None:
    await store.note_death(me.session, me.fence, digest, death, killed=killed)


async def test_an_end_is_counted_once_whatever_became_of_the_answer(store: Store, session: str) -> None:
    me = await writer(store, session)
    for death in ("one", "one", "two"):
        await note(store, me, A, death)
    await note(store, me, B, "three", killed=True)
    found = sorted(await store.list_suspects(session), key=lambda suspect: suspect.hash)
    assert found == [Suspect(hash=A, deaths=2, kills=0), Suspect(hash=B, deaths=0, kills=1)]


async def test_a_worker_that_lost_its_lease_accuses_nobody(store: Store, session: str) -> None:
    await writer(store, session)
    with pytest.raises(StaleFence):
        await store.note_death(session, 0, A, "one", killed=False)
    assert await store.list_suspects(session) == []


async def test_a_suspect_that_decrypts_well_is_cleared_and_one_that_is_durable_is_none(
    store: Store, session: str
) -> None:
    me = await writer(store, session)
    await note(store, me, A, "one")
    await me.commit(messages=[message("A1")], hashes=[A])
    assert await store.list_suspects(session) == []
    await note(store, me, A, "two")
    assert await store.list_suspects(session) == []


def test_suspects_are_bounded_and_old_ones_go(postgres: str) -> None:
    noted = "select public.wa_note_death('bounded', 1, %s, 'x', false)"
    with psycopg.connect(postgres) as database:
        database.execute("insert into public.wa_sessions (id, fence) values ('bounded', 1)")
        database.execute(noted, (A,))
        database.execute("update public.wa_suspects set at = now() - interval '15 days' where session_id = 'bounded'")
        database.execute(
            "insert into public.wa_suspects (session_id, hash, last_death, at) "
            "select 'bounded', decode(lpad(to_hex(n), 64, '0'), 'hex'), 'x', now() - n * interval '1 minute' "
            "from generate_series(1, 1200) as n"
        )
        database.execute(noted, (B,))
        found = database.execute("select encode(hash, 'hex') from public.wa_suspects where session_id = 'bounded'")
        left = {row[0] for row in found.fetchall()}
        database.rollback()
    assert len(left) == 1000
    assert B in left, "the newest"
    assert A not in left, "too old"
    assert {f"{999:064x}", f"{1000:064x}"} & left == {f"{999:064x}"}


async def test_a_stanza_that_was_not_decrypted_is_listed_until_the_good_copy_takes_the_stubs_place(
    store: Store, session: str
) -> None:
    me = await writer(store, session)
    await me.commit(messages=[stub("A1"), stub("A2")], refused=[undecrypted("A1"), undecrypted("A2")])
    assert await listed(store, session) == [("undecrypted", "A1"), ("undecrypted", "A2")]
    figures = await store.console.figures(session)
    assert (figures.refused, figures.undecrypted, figures.refused_waiting) == (2, 2, 0)
    (item, _) = await store.console.refused(session, 0, 100)
    body, _ = await store.console.refused_body(session, item.id)
    assert base64.b64decode(body or "").decode() == STANZA
    assert await store.retry_refused(session, item.id) == "undecrypted"
    assert await store.due_refused(session, 10) == []

    done = await me.commit(messages=[message("A1")])
    assert done.upgraded == 1
    assert await listed(store, session) == [("undecrypted", "A2")]


async def test_the_same_stanza_again_is_listed_once_and_not_at_all_once_the_message_is_read(
    store: Store, session: str
) -> None:
    me = await writer(store, session)
    for _ in range(2):
        await me.commit(messages=[stub("A1")], refused=[undecrypted("A1")])
    assert await listed(store, session) == [("undecrypted", "A1")]
    await me.commit(messages=[message("A1")])
    await me.commit(messages=[stub("A1")], refused=[undecrypted("A1")])
    assert await listed(store, session) == []
    (row,) = await rows(store, "messages", session)
    assert (row["kind"], row["text"]) == ("text", "text of A1")


async def test_a_good_copy_that_postgres_refuses_is_listed_beside_the_stanza(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[stub("A1")], refused=[undecrypted("A1")])
    done = await me.commit(messages=[message("A1") | {"kind": "k" * 100}])
    assert done.refused == 1
    assert await listed(store, session) == [("undecrypted", "A1"), ("refused", "A1")]


async def test_a_stanza_of_an_unmonitored_chat_is_not_listed(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(refused=[undecrypted("A1", OTHER_GROUP)])
    assert await listed(store, session) == []


async def test_a_good_copy_that_is_a_reaction_takes_the_stub_and_the_stanza_away(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[message("T1", sender="ben@lid"), stub("A1")], refused=[undecrypted("A1")])
    await me.commit(changes=[REACTION])
    assert await listed(store, session) == []
    assert [row["wa_msg_id"] for row in await rows(store, "messages", session)] == ["T1"]

"""Changes through the store, on the embedded Supabase: what the worker hands over, and what is in the tables then."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from testkit.encrypted_edits import encrypted_edit, field, sealed_content
from testkit.stanzas import ANA, ANA_PHONE, BEN, NOW_MS
from tests.integration.database import GROUP, OTHER_GROUP, Writer, at, message, photo, rows, table, writer
from worker.ingest.encrypted_edits import EncryptedEdits
from worker.store import OpenedEdit, Store
from worker.store.session import SessionStore

SECRET = b"\x05" * 32


def change(kind: str, target_id: str, change_id: str, **columns: Any) -> dict[str, Any]:
    named = {"kind": kind, "chat_id": GROUP, "target_sender": ANA, "target_id": target_id, "author": ANA}
    return named | {"change_id": change_id, "at": at(60), "payload": {}} | columns


def with_secret(wa_msg_id: str, **columns: Any) -> dict[str, Any]:
    return message(wa_msg_id, sender=ANA, **columns) | {"secret": base64.b64encode(SECRET).decode()}


async def test_every_change_in_one_batch_with_its_targets(store: Store, session: str) -> None:
    me = await writer(store, session)
    batch = me.batch(
        messages=[message("A1", sender=ANA), photo("A2", 200, sender=ANA, quoted_msg_id="A1", quoted_sender=ANA)],
        changes=[
            change("edit", "A1", "E1", payload={"text": "new"}),
            change("reaction", "A1", "R1", author=BEN, payload={"emoji": "👍"}),
            change("quote", "A1", "A2"),
            change("revoke", "A2", "V1", payload={"blank": True}),
            change("edit", "A1", "E2", author=BEN, payload={"text": "not Ben's"}),
            change("edit", "A1", "E3", chat_id=OTHER_GROUP, payload={"text": "of another chat"}),
            change("edit", "A9", "E4", payload={"text": "too early"}),
        ],
    )
    done = await store.commit(session, batch)
    assert (done.stored, done.changed, done.held, done.sealed) == (2, 4, 1, 0)
    assert (await store.commit(session, batch)).duplicate
    first, second = await rows(store, "messages", session)
    assert (first["text"], first["edit_msg_id"]) == ("new", "E1")
    assert (second["quoted_id"], second["revoked_by"], second["media_status"]) == (first["id"], ANA, "revoked")
    assert [row["text"] for row in await rows(store, "message_edits", session)] == ["text of A1"]
    (reaction,) = await rows(store, "message_reactions", session, order="at")
    assert (reaction["sender"], reaction["emoji"], reaction["message_id"]) == (BEN, "👍", first["id"])
    assert await rows(store, "media_jobs", session) == []
    assert [row["target_id"] for row in await rows(store, "wa_held_changes", session)] == ["A9"]


async def test_a_held_change_is_applied_once_when_its_target_comes(store: Store, session: str) -> None:
    me = await writer(store, session)
    early = change("edit", "A1", "E1", payload={"text": "new"})
    assert (await me.commit(changes=[early, early])).held == 2  # the second copy changes nothing
    assert (await me.commit(changes=[early])).changed == 0
    done = await me.commit(messages=[message("A1", sender=ANA)])
    assert (done.stored, done.changed) == (1, 1)
    assert (await me.commit(changes=[early])).changed == 1  # a redelivered copy: the same text, no second version
    assert len(await rows(store, "message_edits", session)) == 1
    assert await rows(store, "wa_held_changes", session) == []


async def test_a_number_that_turns_out_to_be_a_lid(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(
        messages=[photo("A1", 0, sender=ANA_PHONE), message("A2", 10, sender=ANA, mentions=[ANA_PHONE, BEN])],
        changes=[change("reaction", "A1", "R1", target_sender=ANA_PHONE, author=ANA_PHONE, payload={"emoji": "👍"})],
    )
    assert [row["parent_id"] for row in await rows(store, "messages", session)] == [None, None]
    for _ in range(2):
        await me.commit(identities=[(ANA, ANA_PHONE)])
    first, second = await rows(store, "messages", session)
    assert (first["sender"], second["parent_id"], second["mentions"]) == (ANA, first["id"], [ANA, BEN])
    assert [row["sender"] for row in await rows(store, "message_reactions", session, order="at")] == [ANA]


async def sealed(store: Store, me: Writer, sender: str, change_id: str, text: str) -> int:
    """Commits an encrypted edit of A1; what the answer says of sealed ones."""
    body = encrypted_edit({"id": "A1"}, SECRET, sender, text, NOW_MS)["secretEncryptedMessage"]
    payload = {"ciphertext": body["encPayload"], "iv": body["encIv"], "forms": [ANA]}
    done = await me.commit(changes=[change("sealed_edit", "A1", change_id, payload=payload)])
    return int(done.sealed)


async def test_encrypted_edits_are_opened_once_their_message_is_there(store: Store, session: str) -> None:
    me = await writer(store, session)
    opener = EncryptedEdits(SessionStore(store, session, me.fence))
    assert await sealed(store, me, ANA, "E1", "opened") == 0
    await opener.open()
    assert (await me.commit(messages=[with_secret("A1")])).sealed == 1
    await opener.open()
    (row,) = await rows(store, "messages", session)
    assert (row["text"], row["edit_msg_id"]) == ("opened", "E1")
    assert (await me.commit()).sealed == 0
    assert await sealed(store, me, BEN, "E2", "a stranger's key") == 1
    await opener.open()
    assert [edit["unreadable"] for edit in await rows(store, "wa_held_changes", session)] == [True]
    assert (await me.commit()).sealed == 0
    assert await store.open_edits(session, me.fence, [OpenedEdit(id=1, text="of no such edit")]) == 0


def vote(number: int, author: str, *options: str) -> dict[str, Any]:
    """A vote's row and its sealed content, as arguments of a commit."""
    chosen = b"".join(field(1, hashlib.sha256(option.encode()).digest()) for option in options)
    box = sealed_content(SECRET, "Poll Vote", ("A1", ANA), author, chosen)
    payload = {"ciphertext": box["encPayload"], "iv": box["encIv"], "forms": [author], "use": "Poll Vote"}
    content = {"target": {"sender": ANA, "wa_msg_id": "A1"}}
    row = message(f"V{number}", number, sender=author, kind="poll_vote", text=None, content=content)
    return {
        "messages": [row],
        "changes": [change("sealed_edit", "A1", f"V{number}", author=author, payload=payload)],
    }


async def test_votes_are_opened_and_the_view_says_who_chose_what_now(store: Store, session: str) -> None:
    me = await writer(store, session)
    opener = EncryptedEdits(SessionStore(store, session, me.fence))
    assert (await me.commit(**vote(1, BEN, "yes"))).sealed == 0  # before the poll
    poll = with_secret("A1") | {"kind": "poll", "content": {"question": "?", "options": ["yes", "no"]}}
    assert (await me.commit(messages=[poll])).sealed == 1
    for cast in (vote(2, BEN, "no"), vote(3, ANA, "yes", "no"), vote(4, ANA)):
        await me.commit(**cast)
    await opener.open()
    by_id = {row["wa_msg_id"]: row for row in await rows(store, "messages", session)}
    assert by_id["V1"]["content"] == {
        "target": {"sender": ANA, "wa_msg_id": "A1"},
        "choices": ["yes"],
        "about": by_id["A1"]["id"],
    }
    assert (by_id["V3"]["text"], by_id["V4"]["content"]["choices"]) == ("yes\nno", [])
    votes = await rows(store, "poll_votes", session, order="at")
    assert [(v["poll_id"], v["sender"], v["choices"]) for v in votes] == [
        (by_id["A1"]["id"], BEN, ["no"]),
        (by_id["A1"]["id"], ANA, []),
    ]
    assert await rows(store, "wa_held_changes", session) == []
    await me.commit(**vote(2, BEN, "no"))  # a redelivered copy
    await opener.open()
    assert len(await rows(store, "poll_votes", session, order="at")) == 2


async def test_the_secret_of_a_poll_lives_as_long_as_the_poll(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[with_secret("A1") | {"kind": "poll"}, with_secret("A2")])
    await table(store, "message_secrets").update({"at": "2020-01-01T00:00:00Z"}).eq("session_id", session).execute()
    assert (await store.prune(session, stanza_seconds=86_400)).secrets == 1
    await table(store, "messages").delete().eq("session_id", session).execute()
    assert (await store.prune(session, stanza_seconds=86_400)).secrets == 1


async def test_a_secret_is_stored_once_beside_the_message_also_when_a_stub_came_first(
    store: Store, session: str
) -> None:
    me = await writer(store, session)
    stub = message("A1", sender=ANA, kind="undecryptable", text=None, pending=True)
    await me.commit(messages=[stub])
    await me.commit(messages=[with_secret("A1"), with_secret("A2"), with_secret("A2")])
    found = await rows(store, "message_secrets", session, order="message_id")
    ids = [row["id"] for row in await rows(store, "messages", session)]
    assert [row["message_id"] for row in found] == ids
    assert {row["secret"] for row in found} == {base64.b64encode(SECRET).decode()}


async def test_what_waited_a_week_goes(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[with_secret("A1")], changes=[change("revoke", "A9", "V1")])
    await (
        table(store, "wa_held_changes").update({"held_at": "2020-01-01T00:00:00Z"}).eq("session_id", session).execute()
    )
    await table(store, "message_secrets").update({"at": "2020-01-01T00:00:00Z"}).eq("session_id", session).execute()
    for expected in ((1, 1), (0, 0)):
        pruned = await store.prune(session, stanza_seconds=86_400)
        assert (pruned.changes, pruned.secrets) == expected
    status = await store.status(session)
    assert status["discards"] == {"revoke_unmatched": "1"}

"""Messages through the commit: stored once, upgraded from stubs, filtered, isolated when Postgres refuses one."""

from __future__ import annotations

import base64
import json
import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.integration.database import GROUP, OTHER_GROUP, START, at, message, photo, rows, stub, switch, table, writer
from worker.errors import StoreRefused
from worker.ingest.rules.normalise import MessageRow
from worker.store import Audit, Batch, KeyChange, Refused, Store

# A message that has every field which the worker sends, none of them empty or as by default.
FULL = photo("A1", 5) | {
    "from_me": True,
    "late": False,
    "text": "a caption",
    "content": {"contacts": [{"name": "Ana"}]},
    "quoted_msg_id": "Q1",
    "quoted_sender": "ben@lid",
    "mentions": ["ben@lid"],
    "mention_count": 2,
    "forwarded": True,
    "forward_score": 3,
    "expires_at": "2027-01-01T00:00:00+00:00",
    "rendition": "hd",
    "secret": "c2VjcmV0",
    "target": {"chat_id": GROUP, "sender": "ben@lid", "wa_msg_id": "T1"},
}
# What a stub has already.
KNOWN_OF_A_STUB = {"wa_msg_id", "chat_id", "sender", "sender_alt", "push_name", "from_me", "ts", "received_at"}
ELSEWHERE = {"late", "media", "secret", "target"}  # which are no columns of `messages`


async def test_every_field_of_a_message_is_stored_in_the_column_of_its_name(store: Store, session: str) -> None:
    bare = MessageRow(
        wa_msg_id="A1", chat_id=GROUP, sender="ana@lid", sender_alt=None, push_name=None, from_me=False,
        ts=at(0), received_at=at(0), kind="text", text=None, raw={},
    )  # fmt: skip
    assert FULL.keys() == bare.as_json().keys(), "give the new field a value"
    me = await writer(store, session)
    done = await me.commit(messages=[FULL, stub("A2", 9)])
    assert (done.stored, done.skipped, done.duplicates, done.jobs) == (2, 0, 0, 1)
    row, stubbed = await rows(store, "messages", session)
    (group, _) = await rows(store, "groups", session)
    for column in FULL.keys() - ELSEWHERE - {"ts", "received_at", "expires_at"}:
        assert row[column] == FULL[column], column
    for column in FULL.keys() - ELSEWHERE - KNOWN_OF_A_STUB:
        assert row[column] != stubbed[column], f"{column} has its default in the sample"
    assert datetime.fromisoformat(row["ts"]) == START + timedelta(seconds=5)
    assert datetime.fromisoformat(row["expires_at"]) == datetime.fromisoformat(FULL["expires_at"])
    assert datetime.fromisoformat(row["received_at"]) == START + timedelta(seconds=6)
    assert (row["group_id"], row["media_id"], row["parent_id"]) == (group["id"], None, None)
    assert (stubbed["pending"], stubbed["content_order"]) == (True, None)


async def test_content_that_replaces_a_stub_fills_every_column_of_the_content(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[stub("A2", 9)])
    await me.commit(messages=[FULL, FULL | {"wa_msg_id": "A2"}])
    upgraded, stored = await rows(store, "messages", session)
    for column in stored.keys() - KNOWN_OF_A_STUB - {"id", "parent_id", "content_order"}:
        assert upgraded[column] == stored[column], column
    assert upgraded["content_order"] == stored["content_order"] + 1
    secrets = await rows(store, "message_secrets", session, "message_id")
    assert [row["secret"] for row in secrets] == ["c2VjcmV0", "c2VjcmV0"]


async def test_a_replayed_message_is_stored_once_and_changes_nothing(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[message("A1")])
    done = await me.commit(messages=[message("A1", 9, text="other", push_name="Eve"), message("A1", text="third")])
    assert (done.stored, done.upgraded, done.duplicates) == (0, 0, 2)
    (row,) = await rows(store, "messages", session)
    assert (row["text"], row["push_name"]) == ("text of A1", "Ana")
    assert datetime.fromisoformat(row["ts"]) == START


async def test_the_same_id_from_two_senders_or_in_two_chats_is_three_messages(store: Store, session: str) -> None:
    me = await writer(store, session, [GROUP, OTHER_GROUP])
    same = [message("A1"), message("A1", sender="ben@lid"), message("A1", chat_id=OTHER_GROUP)]
    assert (await me.commit(messages=same)).stored == 3
    assert (await me.commit(messages=same)).duplicates == 3


async def test_only_monitored_groups_are_stored_but_keys_and_hashes_of_all_chats_are(
    store: Store, session: str
) -> None:
    me = await writer(store, session)
    others = [
        message("B1", chat_id=OTHER_GROUP),
        message("B2", chat_id="49@s.whatsapp.net"),
        message("B3", chat_id="?"),
    ]
    done = await me.commit(
        messages=[*others, message("A1")],
        keys=[KeyChange(type="session", id="x", value="y")],
        hashes=["ab" * 32],
        refused=[Refused(code="parse", reason="odd", chat_id=OTHER_GROUP, body="private words")],
    )
    assert (done.stored, done.skipped) == (1, 3)
    assert await store.known_stanzas(session, ["ab" * 32]) == {"ab" * 32}
    assert await store.get_keys(session, "session", ["x"]) == {"x": "y"}
    assert [row["body"] for row in await rows(store, "wa_refused_stanzas", session)] == [None]
    await switch(store, session, GROUP, False)
    assert (await me.commit(messages=[message("A2")])).skipped == 1


async def test_content_takes_the_place_of_a_stub_and_keeps_its_place_in_time(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[stub("A1", 1), message("A2", 5)])
    done = await me.commit(messages=[photo("A1", 3, push_name=None), photo("A1", 4)])
    assert (done.stored, done.upgraded, done.duplicates, done.jobs) == (0, 1, 1, 1)
    first, second = await rows(store, "messages", session)
    assert (first["kind"], first["pending"], first["media_status"]) == ("image", False, "pending")
    assert (first["push_name"], first["file_name"]) == ("Ana", "a.jpg")
    assert datetime.fromisoformat(first["ts"]) == START + timedelta(seconds=1)
    assert second["parent_id"] == first["id"]


async def test_content_is_never_replaced_by_a_stub(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[message("A1")])
    assert (await me.commit(messages=[stub("A1")])).duplicates == 1
    assert [row["kind"] for row in await rows(store, "messages", session)] == ["text"]


async def test_a_stub_and_its_content_may_come_in_one_batch(store: Store, session: str) -> None:
    me = await writer(store, session)
    done = await me.commit(messages=[stub("A1"), photo("A1"), stub("A1")])
    assert (done.stored, done.upgraded, done.duplicates, done.jobs) == (1, 1, 1, 1)
    assert [row["kind"] for row in await rows(store, "messages", session)] == ["image"]


async def test_a_late_copy_takes_the_place_of_its_stub_and_is_no_row_of_its_own(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[stub("A1"), message("A2"), stub("A3")])
    reaction = {
        "kind": "reaction", "chat_id": GROUP, "target_sender": "ana@lid", "target_id": "A2", "author": "ana@lid",
        "at": at(9), "payload": {"emoji": "x"}, "late": True,
    }  # fmt: skip
    done = await me.commit(
        messages=[photo("A1", late=True), message("A2", late=True), message("A4", late=True)],
        changes=[{**reaction, "change_id": "A3"}, {**reaction, "change_id": "A5", "payload": {"emoji": "y"}}],
    )
    assert (done.stored, done.upgraded, done.duplicates, done.jobs, done.changed) == (0, 1, 2, 1, 1)
    assert {row["wa_msg_id"]: row["kind"] for row in await rows(store, "messages", session)} == {
        "A1": "image",
        "A2": "text",
    }
    discards = (await table(store, "wa_discards").select("*").eq("session_id", session).execute()).data
    assert [(row["reason"], row["count"]) for row in discards] == [("too_old", 2)]


async def test_a_stub_that_was_given_up_is_still_upgraded(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[stub("A1"), stub("A2"), message("A3")])
    assert await store.mark_lost(session, 365 * 86400) == 0
    assert await store.mark_lost(session, 0) == 2
    assert await store.mark_lost(session, 0) == 0
    found = await rows(store, "messages", session)
    assert [(row["pending"], row["lost_at"] is None) for row in found] == [
        (False, False),
        (False, False),
        (False, True),
    ]
    audits = [row["payload"] for row in await rows(store, "audit_log", session) if row["event"] == "error"]
    assert sorted(audit["wa_msg_id"] for audit in audits) == ["A1", "A2"]
    assert {audit["code"] for audit in audits} == {"MESSAGE_LOST"}
    assert (await me.commit(messages=[message("A1")])).upgraded == 1
    assert (await rows(store, "messages", session))[0]["lost_at"] is None


async def test_a_media_message_has_its_job_in_the_same_transaction(store: Store, session: str) -> None:
    me = await writer(store, session)
    large = photo("A3") | {"media_status": "too_large"}
    done = await me.commit(messages=[photo("A1"), photo("A1"), message("A2"), large])
    assert (done.stored, done.jobs, done.duplicates) == (3, 1, 1)
    (job,) = await rows(store, "media_jobs", session)
    assert job["descriptor"] == {"media_key": "c2VjcmV0"}
    assert "c2VjcmV0" not in str(await rows(store, "messages", session))
    status = {row["wa_msg_id"]: row["media_status"] for row in await rows(store, "messages", session)}
    assert status == {"A1": "pending", "A2": None, "A3": "too_large"}


POISON: list[tuple[dict[str, Any], str, str]] = [
    ({"ts": "yesterday-ish"}, "22007", "no time"),
    ({"ts": "300000-01-01T00:00:00Z"}, "22008", "a year that no timestamptz holds"),
    ({"ts": "infinity"}, "23514", "Postgres would take it; no clock shows it"),
    ({"ts": "99999-01-01T00:00:00Z"}, "23514", "Python's datetime ends before"),
    ({"wa_msg_id": "x" * 3000}, "23514", "longer than an index entry"),
    ({"wa_msg_id": ""}, "23514", "an empty id"),
    ({"sender": None}, "23502", "nobody said it"),
    ({"kind": None}, "23502", "no kind"),
    ({"from_me": "perhaps"}, "22P02", "no boolean"),
]


@pytest.mark.parametrize(("columns", "code", "reason"), POISON, ids=[reason for _, _, reason in POISON])
async def test_a_message_that_postgres_refuses_is_kept_apart_and_the_rest_is_stored(
    store: Store, session: str, columns: dict[str, Any], code: str, reason: str
) -> None:
    me = await writer(store, session)
    batch = me.batch(
        messages=[message("A1"), message("BAD") | columns, photo("A2", 10)],
        keys=[KeyChange(type="session", id="x", value="y")],
        hashes=["cd" * 32],
        creds="new",
    )
    done = await store.commit(session, batch)
    assert (done.stored, done.refused, done.jobs) == (2, 1, 1)
    (refused,) = await rows(store, "wa_refused_stanzas", session)
    assert refused["code"] == code
    assert (refused["item"], refused["state"], refused["encoding"]) == ("message", "refused", "base64")
    assert json.loads(base64.b64decode(refused["body"]))["text"] == "text of BAD"
    first, second = await rows(store, "messages", session)
    assert second["parent_id"] == first["id"]
    assert await store.get_keys(session, "session", ["x"]) == {"x": "y"}
    assert await store.known_stanzas(session, ["cd" * 32]) == {"cd" * 32}
    assert (await store.commit(session, batch)).duplicate
    assert len(await rows(store, "wa_refused_stanzas", session)) == 1


async def test_several_offenders_are_found_and_the_order_of_the_rest_is_kept(store: Store, session: str) -> None:
    me = await writer(store, session)
    bad = {0, 3, 4, 9, 12}
    batch = [message(f"A{n}", n, sender=None if n in bad else "ana@lid") for n in range(13)]
    done = await me.commit(messages=batch)
    assert (done.stored, done.refused) == (8, 5)
    assert [row["wa_msg_id"] for row in await rows(store, "messages", session)] == [
        f"A{n}" for n in range(13) if n not in bad
    ]
    refused = await rows(store, "wa_refused_stanzas", session)
    assert [row["wa_msg_id"] for row in refused] == [f"A{n}" for n in sorted(bad)]


async def test_an_offender_of_an_unmonitored_chat_is_no_offender(store: Store, session: str) -> None:
    me = await writer(store, session)
    done = await me.commit(messages=[message("B1", chat_id=OTHER_GROUP, sender=None), message("A1")])
    assert (done.stored, done.skipped, done.refused) == (1, 1, 0)


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"text": "a\0b"}, "jsonb holds no NUL"),
        ({"text": "\ud800"}, "half a character is no UTF-8"),
        ({"raw": {"deep": nested(20_000)}}, "deeper than a JSON writer goes"),
        ({"raw": {"n": float("nan")}}, "not a number in JSON"),
    ],
)
async def test_what_cannot_even_be_sent_is_refused_as_a_whole_and_does_no_harm(
    store: Store, session: str, columns: dict[str, Any], reason: str
) -> None:
    """Text is made safe before (worker/text.py); should one slip through, it must not look like an outage."""
    me = await writer(store, session)
    with pytest.raises(StoreRefused):
        await me.commit(messages=[message("A1"), message("BAD") | columns])
    me.seq -= 1
    assert (await me.commit(messages=[message("A1")])).stored == 1


async def test_refused_stanzas_are_kept_with_their_reason(store: Store, session: str) -> None:
    me = await writer(store, session)
    refused = Refused(
        code="too_deep", reason="r" * 5000, chat_id=GROUP, wa_msg_id="w" * 999, body="AAEC", encoding="base64"
    )
    await me.commit(refused=[refused, Refused(code="no_key", reason="")])
    first, second = await rows(store, "wa_refused_stanzas", session)
    assert (first["code"], first["body"], first["encoding"]) == ("too_deep", "AAEC", "base64")
    assert (len(first["reason"]), len(first["wa_msg_id"])) == (1000, 256)
    assert (second["chat_id"], second["body"]) == (None, None)


async def test_hostile_text_and_numbers_come_back_as_they_were(store: Store, session: str) -> None:
    me = await writer(store, session)
    text = "' or 1=1 -- \\u0000 \u202e 😀 " + "x" * 100_000
    raw = {"n": "18446744073709551616", "deep": [[[[{"a": "\\"}]]]], "'": '"', "e": "\u0001"}
    await me.commit(messages=[message("A1", text=text, raw=raw, push_name="\u202e")])
    (row,) = await rows(store, "messages", session)
    assert (row["text"], row["raw"], row["push_name"]) == (text, raw, "\u202e")


async def test_five_hundred_messages_are_one_call(store: Store, session: str) -> None:
    """Printed, not asserted: how long a full batch takes on an empty and on a filled table."""
    me = await writer(store, session)
    took = []
    for part in range(4):
        batch = [
            (photo if n % 5 == 0 else message)(f"{part}-{n}", part * 500 + n, sender=f"s{n % 20}@lid")
            for n in range(500)
        ]
        hashes = [f"{part * 500 + n:064x}" for n in range(500)]
        keys = [KeyChange(type="sender-key", id=f"k{n % 40}", value="v" * 440) for n in range(500)]
        started = time.perf_counter()
        done = await me.commit(messages=batch, hashes=hashes, keys=keys, creds="c" * 2000)
        took.append(time.perf_counter() - started)
        assert (done.stored, done.jobs) == (500, 100)
    print("\n500 messages a commit:", ", ".join(f"{seconds * 1000:.0f} ms" for seconds in took))


async def test_stanza_hashes_are_forgotten_after_their_time(store: Store, session: str) -> None:
    me = await writer(store, session)
    old, new = "01" * 32, "02" * 32
    await me.commit(hashes=[old])
    past = {"at": "2020-01-01T00:00:00Z"}
    await table(store, "decrypted_stanzas").update(past).eq("session_id", session).execute()
    await table(store, "audit_log").insert({"session_id": session, "event": "connect"} | past).execute()
    await me.commit(hashes=[new])
    pruned = await store.prune(session, stanza_seconds=14 * 86400)
    assert (pruned.stanzas, pruned.audits, pruned.more) == (1, 0, False)
    again = await store.prune(session, stanza_seconds=14 * 86400, audit_seconds=86400)
    assert (again.stanzas, again.audits) == (0, 1)
    assert await store.known_stanzas(session, [old, new]) == {new}


async def test_the_audit_log_is_kept_for_a_time_and_its_newest_error_for_ever(store: Store, session: str) -> None:
    me = await writer(store, session)
    entries = [
        {"event": "error", "payload": {"code": "OLDER"}, "at": "2020-01-01T00:00:00Z"},
        {"event": "error", "payload": {"code": "NEWEST"}, "at": "2020-01-02T00:00:00Z"},
        {"event": "connect", "payload": {}, "at": "2020-01-03T00:00:00Z"},
    ]
    await table(store, "audit_log").insert([entry | {"session_id": session} for entry in entries]).execute()
    await me.commit(audits=[Audit(event="disconnect")])
    before = await rows(store, "audit_log", session)
    for removed in (2, 0):
        pruned = await store.prune(session, stanza_seconds=1e9, audit_seconds=90 * 86_400)
        assert (pruned.audits, pruned.more) == (removed, False)
    left = await rows(store, "audit_log", session)
    assert [row for row in before if row["payload"].get("code") == "NEWEST" or row["event"] == "disconnect"] == left
    assert (await store.status(session))["last_error"]["payload"] == {"code": "NEWEST"}


async def test_an_empty_batch_moves_the_number_on(store: Store, session: str) -> None:
    me = await writer(store, session)
    assert (await me.commit()).seq == 1
    assert (await store.commit(session, Batch(fence=me.fence, epoch=me.epoch, seq=2))).seq == 2


async def test_a_renaming_is_not_a_groups_last_message(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[message("A1"), message("N1", 60, kind="system", text="The group is now called “x”.")])
    last = {group.wa_group_id: group.last for group in await store.console.groups(session)}[GROUP]
    assert last is not None
    assert last["text"] == "text of A1"

"""A commit becomes what the database is told, and nothing of other chats is left in it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from testkit.stanzas import (
    ANA,
    ANA_PHONE,
    BEN,
    GROUP,
    NOW_MS,
    NOW_S,
    OTHER_GROUP,
    ingested,
    make_file,
    make_key,
    make_rules,
    make_stanza,
)
from worker.bridge.protocol import (
    Commit,
    Event,
    GroupEvent,
    IdentityEvent,
    Notice,
    NoticeEvent,
    ResendEvent,
    SystemEvent,
)
from worker.ingest.lids import LidCache
from worker.ingest.rules.batch import ingest
from worker.ingest.rules.jids import MOVED
from worker.store.rows import Batch, GroupChange

WIRE = Path(__file__).parents[1] / "wire" / "commit.json"


def test_the_result_names_the_arguments_of_the_stores_batch() -> None:
    batch = Batch(fence=1, epoch=1, seq=1, **ingested([make_stanza()]))
    assert [message["text"] for message in batch.messages] == ["hello"]


@pytest.mark.parametrize(
    "document", [case for case in json.loads(WIRE.read_text()) if case["valid"]], ids=lambda c: c["name"]
)
def test_every_commit_of_the_wires_fixtures_is_taken(document: dict[str, Any]) -> None:
    if document["kind"] != "request":
        return
    result = ingest(Commit.model_validate(document["document"]["params"]), make_rules(), NOW_MS + 200)
    assert json.dumps(result["messages"]).isascii()


def test_a_stanza_that_was_not_decrypted_is_kept_whole_beside_its_stub_and_only_of_a_monitored_chat() -> None:
    unread: dict[str, Any] = {"content": None, "failure": "?", "hashes": [], "undecrypted": "{the stanza}"}
    mine = make_stanza().model_copy(update=unread)
    other = make_stanza(key=make_key(remoteJid=OTHER_GROUP)).model_copy(update=unread)
    direct = make_stanza(key=make_key(remoteJid=ANA_PHONE, participant=None)).model_copy(update=unread)
    result = ingested([mine, other, direct])
    (row,) = result["messages"]
    (kept,) = result["refused"]
    assert (row["kind"], row["pending"]) == ("undecryptable", True)
    assert (kept.state, kept.chat_id, kept.sender, kept.wa_msg_id) == (
        "undecrypted", row["chat_id"], row["sender"], row["wa_msg_id"]
    )  # fmt: skip
    assert base64.b64decode(kept.body or "").decode() == "{the stanza}"
    assert sum(result["discards"].values()) == 2
    assert ingested([mine, make_stanza()])["refused"] == [], "the good copy is in the same batch"


def test_hashes_of_every_chat_are_kept_once() -> None:
    other = make_stanza(key=make_key(remoteJid=OTHER_GROUP), hashes=["cd" * 32, "ab" * 32])
    direct = make_stanza(key=make_key(remoteJid=ANA_PHONE, participant=None), hashes=["ef" * 32])
    assert ingested([make_stanza(), other, direct])["hashes"] == ["ab" * 32, "cd" * 32, "ef" * 32]


def test_nothing_of_other_chats_survives() -> None:
    word = "surprise"
    group = make_key(remoteJid=OTHER_GROUP, participant="7777@lid", participantAlt="4477777@s.whatsapp.net", id=word)
    direct = make_key(remoteJid=ANA_PHONE, participant=None, participantAlt=None, id=word)
    contents: list[dict[str, Any]] = [
        {"conversation": word},
        {"imageMessage": make_file(caption=word, mediaKey=None)},
        {"protocolMessage": {"type": 99, "key": {"id": word}}},
    ]
    attrs = {"t": str(NOW_S), "notify": word, "participant": "7777@lid"}
    stanzas = [make_stanza(content, key=key, attrs=attrs) for content in contents for key in (group, direct)]
    stanzas.append(make_stanza(None, key=group, attrs=attrs, failure=word).model_copy(update={"content": None}))
    events: list[Event] = [
        ResendEvent(type="resend", key=group, content={"conversation": word}, t=str(NOW_S), push_name=word),
        SystemEvent(type="system", key=group, stub_type="GROUP_CREATE", stub_parameters=[word], t=str(NOW_S)),
    ]
    result = ingested(stanzas, events)
    told = json.dumps({**result, "groups": [], "audits": [str(audit) for audit in result["audits"]]})
    assert word not in told
    assert "7777" not in told
    assert result["messages"] == []
    assert result["discards"] == {"unmonitored": 6, "not_a_group": 3}


def test_discards_are_counted_by_reason() -> None:
    old = make_stanza(attrs={"t": str(NOW_S - 100)})
    share = make_stanza({"senderKeyDistributionMessage": {}})
    assert ingested([old, share, old, make_stanza()])["discards"] == {"too_old": 2, "key_share": 1}


def test_what_was_discarded_without_a_ciphertext_to_know_it_by_has_a_name() -> None:
    """It comes again after a kill, and is counted once. The hash of what was decrypted is enough for the others."""
    key = make_key(remoteJid=OTHER_GROUP)
    one, two = ({"from": OTHER_GROUP, "participant": ANA, "id": name, "t": str(NOW_S)} for name in "12")
    bad = make_stanza(key=key, attrs=one, hashes=[], failure="?")
    partly = make_stanza(key=key, attrs=two, failure="?")
    bare = make_stanza(key=key, attrs=one | {"id": "3"}, hashes=[])
    notice = SystemEvent(type="system", key=key, stub_type="GROUP_CREATE", stub_parameters=[], t=str(NOW_S))
    result = ingested([bad, partly, bare, make_stanza(key=key), make_stanza(failure="?")], [notice])
    assert result["discards"] == {"unmonitored": 5}
    names = result["unread"]["unmonitored"]
    assert len(names) == len(set(names)) == 4
    assert ingested([bad])["unread"] == {"unmonitored": names[:1]}


def test_identities_come_from_events_and_from_monitored_stanzas() -> None:
    events: list[Event] = [IdentityEvent(type="identity", lid="1002:1@lid", pn="49222:1@s.whatsapp.net")]
    result = ingested([make_stanza()], events)
    assert result["identities"] == [(BEN, "49222@s.whatsapp.net"), (ANA, ANA_PHONE)]


def test_an_identity_that_is_none_is_left_out() -> None:
    events: list[Event] = [
        IdentityEvent(type="identity", lid=ANA_PHONE, pn=ANA),
        IdentityEvent(type="identity", lid="", pn=""),
    ]
    assert ingested(events=events)["identities"] == []


def test_an_identity_of_the_same_batch_names_the_sender() -> None:
    events: list[Event] = [IdentityEvent(type="identity", lid=ANA, pn=ANA_PHONE)]
    stanza = make_stanza(key=make_key(participant=ANA_PHONE, participantAlt=None, addressingMode="pn"))
    (message,) = ingested([stanza], events)["messages"]
    assert (message["sender"], message["sender_alt"]) == (ANA, ANA_PHONE)


def test_a_second_copy_in_the_batch_changes_nothing() -> None:
    messages = ingested([make_stanza({"conversation": "first"}), make_stanza({"conversation": "second"})])["messages"]
    assert [message["text"] for message in messages] == ["first"]


def test_content_takes_the_place_of_its_stub_in_the_batch_and_never_the_other_way() -> None:
    stub = make_stanza(failure="x").model_copy(update={"content": None})
    for order in ([stub, make_stanza()], [make_stanza(), stub]):
        messages = ingested(order)["messages"]
        assert [(message["kind"], message["pending"]) for message in messages] == [("text", False)]


def test_a_groups_last_word_counts() -> None:
    events: list[Event] = [
        GroupEvent(type="group", id=GROUP, subject="Harbour", left=False),
        GroupEvent(type="group", id=OTHER_GROUP, subject="Old", left=False),
        GroupEvent(type="group", id=OTHER_GROUP, subject="New\u202e name", left=False),
        GroupEvent(type="group", id=GROUP, subject=None, left=True),
        GroupEvent(type="group", id=ANA_PHONE, subject="no group", left=False),
    ]
    assert ingested(events=events)["groups"] == [
        GroupChange(wa_group_id=GROUP, name="Harbour", left=True),
        GroupChange(wa_group_id=OTHER_GROUP, name="New name", left=False),
    ]


def test_a_file_without_a_usable_key_is_audited() -> None:
    (audit,) = ingested([make_stanza({"imageMessage": make_file(mediaKey="")})])["audits"]
    assert (audit.event, audit.payload["code"], audit.payload["ctx"]["wa_msg_id"]) == (
        "error",
        "MEDIA_UNUSABLE",
        "3EB0AA",
    )


def test_events_become_rows_after_the_stanzas() -> None:
    event = SystemEvent(
        type="system", key=make_key(id="S1"), stub_type="GROUP_CREATE", stub_parameters=[], t=str(NOW_S)
    )
    assert [message["kind"] for message in ingested([make_stanza()], [event])["messages"]] == ["text", "system"]


NUMBER = "4912@s.whatsapp.net"


def changed_number() -> NoticeEvent:
    key = make_key(participant="4913@s.whatsapp.net", participantAlt=None)
    old = Notice(tag="participant", attrs={"jid": NUMBER}, text=None, children=[])
    notice = Notice(tag="modify", attrs={}, text=None, children=[old])
    return NoticeEvent(type="notice", key=key, notices=[notice], t=str(NOW_S))


def test_a_changed_number_stands_for_nobody_from_then_on() -> None:
    zed = IdentityEvent(type="identity", lid="1003@lid", pn=NUMBER)
    late = make_stanza(key=make_key(participant=NUMBER, participantAlt=None))
    cases: list[tuple[list[Event], dict[str, str]]] = [([changed_number(), zed], {}), ([zed], {NUMBER: MOVED})]
    for events, lids in cases:
        commit = Commit(epoch=1, seq=1, stanzas=[late], events=events)
        result = ingest(commit, make_rules(lids=lids), NOW_MS)
        assert result["messages"][0]["sender"] == NUMBER
    moved = ingest(Commit(epoch=1, seq=1, stanzas=[], events=[changed_number()]), make_rules(), NOW_MS)["identities"]
    assert moved == [(MOVED, "4913@s.whatsapp.net"), (MOVED, NUMBER)]


def test_a_number_with_two_lids_has_moved() -> None:
    cache = LidCache(None, None)  # type: ignore[arg-type]
    cache.learn([("1002@lid", NUMBER), ("1002@lid", NUMBER)])
    assert cache.known(NUMBER) == "1002@lid"
    cache.learn([("1003@lid", NUMBER)])
    cache.learn([("1003@lid", NUMBER)])
    assert cache.known(NUMBER) == MOVED


OLD = {"id": "3EB0AA", "from": GROUP, "participant": ANA, "t": str(NOW_S - 90_000)}


def test_a_good_copy_is_sent_whatever_its_age_to_take_the_place_of_its_stub() -> None:
    result = ingested([make_stanza(attrs=OLD, retry_count=1)])
    assert [(row["text"], row["late"]) for row in result["messages"]] == [("hello", True)]
    assert result["discards"] == {}


def test_a_second_bad_copy_that_is_too_old_is_discarded() -> None:
    bad = make_stanza(attrs=OLD, retry_count=1, failure="bad mac", hashes=[], content={})
    assert ingested([bad])["discards"] == {"too_old": 1}


def test_a_late_copy_whose_stub_is_in_the_same_batch_is_a_row_of_its_own() -> None:
    stub = make_stanza(failure="bad mac", hashes=[]).model_copy(update={"content": None})
    late = make_stanza(attrs=OLD, retry_count=1)
    for batch in ([stub, late], [late, stub]):
        assert [(row["text"], row["late"]) for row in ingested(batch)["messages"]] == [("hello", False)]


def test_a_late_copy_that_is_a_change_says_so() -> None:
    key = make_key(id="TARGET")
    reaction = {"reactionMessage": {"key": key, "text": "x", "senderTimestampMs": str(NOW_MS)}}
    (change,) = ingested([make_stanza(reaction, attrs=OLD, retry_count=1)])["changes"]
    assert (change["kind"], change["late"]) == ("reaction", True)

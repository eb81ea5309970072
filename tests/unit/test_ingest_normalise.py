"""One stanza: a row, or the reason why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testkit.stanzas import (
    ANA,
    ANA_PHONE,
    BEN,
    GROUP,
    HASH,
    NOW_MS,
    NOW_S,
    OTHER_GROUP,
    b64,
    make_file,
    make_key,
    make_rules,
    make_stanza,
)
from worker.bridge.protocol import ResendEvent, Stanza, SystemEvent
from worker.ingest.rules.live import LiveWindow
from worker.ingest.rules.normalise import (
    Discard,
    MessageRow,
    Target,
    normalise,
    normalise_resend,
    normalise_system,
)


def row_of(stanza: Stanza, **rules: Any) -> MessageRow:
    row = normalise(stanza, make_rules(**rules))
    assert isinstance(row, MessageRow)
    return row


def test_a_text_becomes_a_row() -> None:
    assert row_of(make_stanza()) == MessageRow(
        wa_msg_id="3EB0AA",
        chat_id=GROUP,
        sender=ANA,
        sender_alt=ANA_PHONE,
        push_name="Ana",
        from_me=False,
        ts="2026-09-21T14:13:20.000Z",
        received_at="2026-09-21T14:13:20.000Z",
        kind="text",
        text="hello",
        raw={"attrs": {"t": str(NOW_S), "participant": ANA}, "message": {"conversation": "hello"}},
    )


DISCARDS: dict[str, tuple[Stanza, str]] = {
    "a direct message": (make_stanza(key=make_key(remoteJid=ANA_PHONE, participant=None)), "not_a_group"),
    "a status": (make_stanza(key=make_key(remoteJid="status@broadcast")), "not_a_group"),
    "a channel": (make_stanza(key=make_key(remoteJid="120363@newsletter")), "not_a_group"),
    "a group that is not monitored": (make_stanza(key=make_key(remoteJid=OTHER_GROUP)), "unmonitored"),
    "unreadable, of a group that the sidecar took for unmonitored": (
        make_stanza(failure="No session record", wanted=False).model_copy(update={"content": None}),
        "unmonitored",
    ),
    "a key that Baileys refused": (make_stanza(key=None), "malformed"),
    "no sender": (make_stanza(key=make_key(participant=None, participantAlt=None)), "malformed"),
    "a sender that is no address": (make_stanza(key=make_key(participant="\x00", participantAlt=None)), "malformed"),
    "no id": (make_stanza(key=make_key(id="")), "malformed"),
    "an id that is a number": (make_stanza(key=make_key(id=7)), "malformed"),
    "an arrival before WhatsApp was founded": (make_stanza(arrived_at_ms=0), "malformed"),
    "too old": (make_stanza(attrs={"t": str(NOW_S - 31)}), "too_old"),
    "too old in the offline queue": (make_stanza(attrs={"t": str(NOW_S - 31), "offline": "0"}), "waited_too_long"),
    "too old by WhatsApp's clock, which is ahead of ours": (
        make_stanza(attrs={"t": str(NOW_S - 20)}, server_time_offset_ms=11_000.0),
        "too_old",
    ),
    "a key share": (make_stanza({"senderKeyDistributionMessage": {}}), "key_share"),
    "a history sync": (make_stanza({"protocolMessage": {"type": "HISTORY_SYNC_NOTIFICATION"}}), "history"),
    "noise": (make_stanza({"protocolMessage": {"type": "APP_STATE_SYNC_KEY_REQUEST"}}), "protocol"),
}


@pytest.mark.parametrize(("stanza", "reason"), DISCARDS.values(), ids=DISCARDS.keys())
def test_what_is_not_stored_has_its_reason(stanza: Stanza, reason: str) -> None:
    result = normalise(stanza, make_rules())
    assert isinstance(result, Discard)
    assert result.reason == reason


def test_what_is_too_old_says_of_when_it_is_and_nothing_else_does() -> None:
    told = {name: normalise(stanza, make_rules()) for name, (stanza, _) in DISCARDS.items()}
    aged = {name for name, result in told.items() if isinstance(result, Discard) and result.chat_id is not None}
    assert aged == {name for name in DISCARDS if name.startswith("too old")}
    assert told["too old"] == Discard(reason="too_old", chat_id=GROUP, sent_s=NOW_S - 31)


def test_an_unmonitored_chat_is_discarded_before_its_content_is_looked_at() -> None:
    poisoned = make_stanza(key=make_key(remoteJid=OTHER_GROUP), content={"protocolMessage": {"type": ["x"]}})
    assert normalise(poisoned, make_rules()) == Discard(reason="unmonitored")


def test_catching_up_takes_what_waited_offline() -> None:
    waited = make_stanza(attrs={"t": str(NOW_S - 3600), "offline": "1"})
    row = row_of(waited, window=LiveWindow(live_s=30, catch_up_s=86_400))
    assert (row.ts, row.received_at) == ("2026-09-21T13:13:20.000Z", "2026-09-21T14:13:20.000Z")


def test_a_stamp_from_the_year_300000_becomes_the_arrival() -> None:
    row = row_of(make_stanza(attrs={"t": "9467107200000"}))
    assert row.ts == "2026-09-21T14:13:20.000Z"
    assert row.raw["attrs"]["t"] == "9467107200000"


def test_the_owners_own_message_is_a_message_like_any_other() -> None:
    key = make_key(fromMe=True, participant="1009:3@lid", participantAlt=None)
    row = row_of(make_stanza(key=key))
    assert (row.from_me, row.sender, row.text) == (True, "1009@lid", "hello")


def test_the_owners_own_message_without_a_participant_is_the_owners() -> None:
    key = make_key(fromMe=True, participant=None, participantAlt=None)
    row = row_of(make_stanza(key=key), own=("1009:3@lid", "4915100000000:3@s.whatsapp.net"))
    assert (row.sender, row.sender_alt) == ("1009@lid", "4915100000000@s.whatsapp.net")


def test_a_known_number_is_written_as_its_lid() -> None:
    key = make_key(participant=ANA_PHONE, participantAlt=None)
    assert row_of(make_stanza(key=key), lids={ANA_PHONE: ANA}).sender == ANA


def test_a_push_name_is_never_the_sender() -> None:
    stanza = make_stanza(attrs={"t": str(NOW_S), "notify": "1002@lid"})
    assert (row_of(stanza).sender, row_of(stanza).push_name) == (ANA, BEN)


def test_a_file_becomes_columns_and_a_descriptor() -> None:
    content = {"videoMessage": make_file(mimetype="video/mp4; x=1", width=320, height=240, seconds=2, caption="look")}
    row = row_of(make_stanza(content))
    assert row.media is not None
    assert (row.kind, row.text, row.media_status) == ("video", "look", "pending")
    assert (row.media.mime, row.media.width, row.media.height, row.media.duration_s) == ("video/mp4", 320, 240, 2)
    assert row.media.descriptor == {
        "media_type": "video",
        "field": "videoMessage",
        "media_key": b64(b"\x02" * 32),
        "direct_path": "/v/t62.7118-24/abc.enc?ccb=1",
        "url": "https://mmg.whatsapp.net/d/f/abc.enc",
        "file_sha256": "01" * 32,
        "file_enc_sha256": "03" * 32,
        "file_length": 46706,
        "key": {"remoteJid": GROUP, "id": "3EB0AA", "fromMe": False, "participant": ANA},
        "mime": "video/mp4",
        "width": 320,
        "height": 240,
        "duration_s": 2.0,
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mediaKey": None}, "no key"),
        ({"mediaKey": b64(b"short")}, "a key of the wrong length"),
        ({"mediaKey": "not base64!"}, "no base64"),
        ({"mediaKey": ["AA=="]}, "not even a text"),
        ({"directPath": None, "url": None}, "no address"),
        ({"directPath": "/" + "x" * 5000, "url": ""}, "an address without end"),
        ({"directPath": "/a\x00b", "url": None}, "an address with a NUL byte"),
    ],
)
def test_a_file_that_cannot_be_fetched_is_said_to_have_failed(changes: dict[str, Any], why: str) -> None:
    row = row_of(make_stanza({"imageMessage": make_file(**changes)}))
    assert row.media is not None
    assert (row.kind, row.media.descriptor, row.media_status) == ("image", None, "failed"), why


@pytest.mark.parametrize(
    ("changes", "field", "expected", "why"),
    [
        ({"width": -1}, "width", None, "no such width"),
        ({"width": 2**40}, "width", None, "wider than a database's number"),
        ({"width": "960"}, "width", 960, "a number as text"),
        ({"width": True}, "width", None, "a truth is no number"),
        ({"height": 0}, "height", None, "unknown"),
        ({"seconds": 10**9}, "duration_s", None, "thirty years"),
        ({"seconds": 0}, "duration_s", 0.0, "shorter than a second"),
        ({"mimetype": "IMAGE/JPEG"}, "mime", "image/jpeg", "types are written in small letters"),
        ({"mimetype": "x" * 500}, "mime", None, "no type is that long"),
        ({"mimetype": "image/\x00"}, "mime", None, "nor holds a NUL byte"),
        ({"fileName": "../a\u202eb.pdf"}, "file_name", ".._ab.pdf", "data, without tricks"),
        ({"title": "t.pdf"}, "file_name", "t.pdf", "older clients put it there"),
    ],
)
def test_the_senders_word_on_a_file_is_taken_within_reason(
    changes: dict[str, Any], field: str, expected: object, why: str
) -> None:
    media = row_of(make_stanza({"documentMessage": make_file(**changes)})).media
    assert media is not None
    assert getattr(media, field) == expected, why


@pytest.mark.parametrize(
    ("length", "expected"),
    [("0", 0), ("18446744073709551615", None), ("-1", None), (None, None), (12, 12), ("1" * 5000, None)],
)
def test_a_length_is_a_whole_number_or_unknown(length: object, expected: int | None) -> None:
    media = row_of(make_stanza({"imageMessage": make_file(fileLength=length)})).media
    assert media is not None
    assert media.descriptor is not None
    assert media.descriptor["file_length"] == expected


def test_hashes_may_be_missing() -> None:
    media = row_of(make_stanza({"imageMessage": make_file(fileSha256=None, fileEncSha256="")})).media
    assert media is not None
    assert media.descriptor is not None
    assert (media.descriptor["file_sha256"], media.descriptor["file_enc_sha256"]) == (None, None)


def test_raw_holds_no_key_material() -> None:
    secret = b64(b"\x07" * 32)
    content = {
        "senderKeyDistributionMessage": {"axolotlSenderKeyDistributionMessage": secret},
        "messageContextInfo": {"messageSecret": secret, "deviceListMetadata": {"senderKeyHash": secret}},
        "imageMessage": make_file(
            mediaKey=secret, contextInfo={"quotedMessage": {"imageMessage": {"mediaKey": secret, "caption": "q"}}}
        ),
    }
    row = row_of(make_stanza(content))
    assert secret not in json.dumps(row.raw)
    assert row.raw["message"]["imageMessage"]["contextInfo"]["quotedMessage"]["imageMessage"] == {"caption": "q"}
    assert row.media is not None
    assert secret in json.dumps(row.media.descriptor)


STUBS: dict[str, tuple[dict[str, Any], str]] = {
    "not decrypted": ({"content": None, "failure": "No session record"}, "No session record"),
    "only the key share was readable": (
        {"content": {"senderKeyDistributionMessage": {}}, "failure": "No sender key"},
        "No sender key",
    ),
    "no content at all": ({"content": None}, "no content"),
    "masked by the server": ({"content": None, "unavailable": "hosted"}, "no content"),
    "nothing known was readable": ({"content": {"x": 1}, "failure": "bad MAC"}, "bad MAC"),
}


@pytest.mark.parametrize(("changes", "failure"), STUBS.values(), ids=STUBS.keys())
def test_what_could_not_be_decrypted_waits_as_a_stub(changes: dict[str, Any], failure: str) -> None:
    row = normalise(make_stanza().model_copy(update=changes), make_rules())
    assert isinstance(row, MessageRow)
    assert (row.kind, row.pending, row.text, row.media) == ("undecryptable", True, None, None)
    assert row.raw["failure"] == failure
    assert "message" not in row.raw


def test_a_readable_part_is_a_message_although_another_failed() -> None:
    row = row_of(make_stanza(failure="old counter"))
    assert (row.kind, row.pending, row.text) == ("text", False, "hello")


def test_an_answer_of_meta_ai_says_what_it_is_and_waits_for_nothing() -> None:
    stanza = make_stanza().model_copy(update={"content": None, "failure": "Unknown e2e type: msmsg"})
    row = row_of(stanza)
    assert (row.kind, row.text, row.content, row.pending) == ("bot_reply", None, {"encrypted": True}, False)


def test_a_failure_text_is_bounded() -> None:
    row = normalise(make_stanza().model_copy(update={"content": None, "failure": "x" * 10_000}), make_rules())
    assert isinstance(row, MessageRow)
    assert len(row.raw["failure"]) == 300


def test_the_good_copy_of_a_stub_is_taken_although_it_is_old() -> None:
    again = make_stanza(attrs={"t": str(NOW_S - 600)}, retry_count=1)
    assert row_of(again).text == "hello"


def test_a_view_once_without_content_is_a_row() -> None:
    row = normalise(make_stanza().model_copy(update={"content": None, "unavailable": "view_once"}), make_rules())
    assert isinstance(row, MessageRow)
    assert (row.kind, row.pending, row.text) == ("view_once", False, None)


def test_a_view_once_with_content_keeps_none_of_it() -> None:
    row = row_of(make_stanza({"viewOnceMessageV2": {"message": {"imageMessage": make_file(caption="secret")}}}))
    assert (row.kind, row.text, row.media, row.media_status) == ("view_once", None, None, None)
    assert "secret" not in json.dumps(row.raw)
    assert "mmg" not in json.dumps(row.raw)


@pytest.mark.parametrize(
    ("key", "expected", "why"),
    [
        ({"id": "X", "participant": "1002:4@lid"}, Target(chat_id=GROUP, sender=BEN, wa_msg_id="X"), "somebody's"),
        ({"id": "X", "fromMe": True}, Target(chat_id=GROUP, sender=ANA, wa_msg_id="X"), "the writer's own"),
        (
            {"id": "X", "fromMe": True, "participant": BEN},
            Target(chat_id=GROUP, sender=ANA, wa_msg_id="X"),
            "fromMe is the writer's point of view",
        ),
        ({"id": "X", "remoteJid": OTHER_GROUP}, Target(chat_id=GROUP, sender=None, wa_msg_id="X"), "always this chat"),
        ({"id": ""}, None, "no id"),
        ({}, None, "nothing"),
    ],
)
def test_a_target_is_an_identity_in_the_same_chat(key: dict[str, Any], expected: Target | None, why: str) -> None:
    row = row_of(make_stanza({"reactionMessage": {"key": key, "text": "👍"}}))
    assert (row.kind, row.text, row.target) == ("reaction", "👍", expected), why


def test_an_unknown_content_is_kept_raw() -> None:
    row = row_of(make_stanza({"hologramMessage": {"depth": 3}}))
    assert (row.kind, row.text) == ("unknown", None)
    assert row.raw["message"] == {"hologramMessage": {"depth": 3}}


def test_a_nul_byte_and_a_lone_surrogate_are_replaced() -> None:
    assert row_of(make_stanza({"conversation": "a\x00b\ud800"})).text == "a\ufffdb\ufffd"


def test_two_senders_may_use_one_id() -> None:
    ana, ben = row_of(make_stanza()), row_of(make_stanza(key=make_key(participant=BEN, participantAlt=None)))
    assert ana.wa_msg_id == ben.wa_msg_id
    assert ana.identity != ben.identity


def test_a_resend_becomes_the_row_that_its_stub_waits_for() -> None:
    event = ResendEvent(type="resend", key=make_key(), content={"conversation": "at last"}, t=str(NOW_S), push_name="A")
    row = normalise_resend(event, NOW_MS + 60_000, make_rules())
    assert isinstance(row, MessageRow)
    assert (row.identity, row.text, row.pending) == ((GROUP, ANA, "3EB0AA"), "at last", False)
    assert (row.ts, row.push_name) == ("2026-09-21T14:13:20.000Z", "A")


def test_a_resend_that_is_late_only_takes_the_place_of_its_stub() -> None:
    event = ResendEvent(type="resend", key=make_key(), content={"conversation": "x"}, t=str(NOW_S - 7200), push_name="")
    row = normalise_resend(event, NOW_MS, make_rules())
    assert isinstance(row, MessageRow)
    assert row.late


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": make_key(remoteJid=OTHER_GROUP)}, "unmonitored"),
        ({"content": {"senderKeyDistributionMessage": {}}}, "key_share"),
    ],
)
def test_a_resend_obeys_the_same_rules(changes: dict[str, Any], reason: str) -> None:
    fields = {"key": make_key(), "content": {"conversation": "x"}, "t": str(NOW_S), "push_name": None, **changes}
    assert normalise_resend(ResendEvent(type="resend", **fields), NOW_MS, make_rules()) == Discard(reason=reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stub", "kind"),
    [("GROUP_CHANGE_ICON", "system"), ("COMMUNITY_CREATE", "system"), ("CALL_MISSED_VOICE", "call")],
)
def test_what_baileys_tells_by_a_stub_is_a_row(stub: str, kind: str) -> None:
    event = SystemEvent(type="system", key=make_key(), stub_type=stub, stub_parameters=["New name"], t=str(NOW_S))
    row = normalise_system(event, NOW_MS, make_rules())
    assert isinstance(row, MessageRow)
    assert (row.kind, row.sender, row.content) == (kind, ANA, {"notice": stub.lower()})
    assert row.raw == {"attrs": {"t": str(NOW_S)}, "stub_type": stub, "stub_parameters": ["New name"]}


def test_a_system_message_without_an_author_is_the_groups() -> None:
    key = make_key(participant=None, participantAlt=None)
    event = SystemEvent(type="system", key=key, stub_type="GROUP_CREATE", stub_parameters=[], t=str(NOW_S))
    row = normalise_system(event, NOW_MS, make_rules())
    assert isinstance(row, MessageRow)
    assert row.sender == GROUP


@pytest.mark.parametrize("received_at_ms", [0.0, float("nan")])
def test_an_event_at_no_time_is_malformed(received_at_ms: float) -> None:
    resend = ResendEvent(type="resend", key=make_key(), content={}, t="1", push_name=None)
    system = SystemEvent(type="system", key=make_key(), stub_type="X", stub_parameters=[], t="1")
    assert normalise_resend(resend, received_at_ms, make_rules()) == Discard(reason="malformed")
    assert normalise_system(system, received_at_ms, make_rules()) == Discard(reason="malformed")


def test_a_row_is_plain_json() -> None:
    row = row_of(make_stanza({"imageMessage": make_file()}, hashes=[HASH]))
    assert json.loads(json.dumps(row.as_json())) == row.as_json()

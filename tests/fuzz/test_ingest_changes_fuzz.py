"""Changes and contexts under strangers' JSON: storable whatever it is, bounded, canonical."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testkit.stanzas import ANA, GROUP, ingested, make_stanza
from tests.fuzz.documents import ANY_JSON, proto_json
from tests.fuzz.test_ingest_fuzz import TIME
from worker.ingest.rules.context import MAX_MENTIONS, numbers_in
from worker.text import MAX_TEXT_BYTES

KINDS = {"edit", "sealed_edit", "revoke", "reaction", "quote", "album"}
JID = re.compile(r"[0-9A-Za-z.+-]{1,64}@[a-z][a-z.]{0,31}")
RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

KEY = st.fixed_dictionaries(
    {"id": st.just("T1") | ANY_JSON},
    optional={"participant": st.just("1002@lid") | ANY_JSON, "fromMe": st.booleans() | ANY_JSON, "remoteJid": ANY_JSON},
)
EDITED = proto_json("Message") | st.fixed_dictionaries({"conversation": st.text(st.characters())})
PROTOCOL = st.fixed_dictionaries(
    {"type": st.sampled_from(["REVOKE", "MESSAGE_EDIT"]), "key": KEY},
    optional={"editedMessage": EDITED, "timestampMs": ANY_JSON},
)
REACTION = st.fixed_dictionaries(
    {"key": KEY, "text": st.text(st.characters())}, optional={"senderTimestampMs": ANY_JSON}
)
SEALED = st.fixed_dictionaries(
    {"targetMessageKey": KEY, "secretEncType": st.just("MESSAGE_EDIT") | ANY_JSON},
    optional={"encPayload": st.just("AAAA") | ANY_JSON, "encIv": st.just("AAAAAAAAAAAAAAAA") | ANY_JSON},
)
INFO = st.fixed_dictionaries(
    {},
    optional={
        "stanzaId": st.just("Q1") | ANY_JSON,
        "participant": st.just("1002@lid") | ANY_JSON,
        "mentionedJid": st.lists(st.just("1003:1@lid") | ANY_JSON, max_size=5) | ANY_JSON,
        "isForwarded": ANY_JSON,
        "forwardingScore": ANY_JSON,
    },
)
BESIDE = st.fixed_dictionaries(
    {},
    optional={
        "messageSecret": ANY_JSON,
        "messageAssociation": st.fixed_dictionaries(
            {"associationType": st.just("MEDIA_ALBUM"), "parentMessageKey": KEY}
        )
        | ANY_JSON,
    },
)
MESSAGES = (
    PROTOCOL.map(lambda body: {"protocolMessage": body})
    | REACTION.map(lambda body: {"reactionMessage": body})
    | SEALED.map(lambda body: {"secretEncryptedMessage": body})
    | st.builds(
        lambda info, beside: {"extendedTextMessage": {"text": "x", "contextInfo": info}, "messageContextInfo": beside},
        INFO | ANY_JSON,
        BESIDE | ANY_JSON,
    )
)


@RELAXED
@given(MESSAGES)
def test_any_change_can_be_stored(message: dict[str, Any]) -> None:
    result = ingested([make_stanza(message)])
    assert len(result["messages"]) + sum(c["kind"] not in ("quote", "album") for c in result["changes"]) <= 1
    for change in result["changes"]:
        encoded = json.dumps(change, allow_nan=False, ensure_ascii=False).encode()
        assert b"\\u0000" not in encoded
        assert change["kind"] in KINDS
        assert (change["chat_id"], change["author"]) == (GROUP, ANA)
        assert TIME.fullmatch(change["at"]) or change["at"].startswith(("19", "20"))
        assert JID.fullmatch(change["target_sender"])
        assert 1 <= len(change["target_id"]) <= 128
        assert len(encoded) < 2 * MAX_TEXT_BYTES
    for row in result["messages"]:
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
        assert len(row["mentions"] or []) <= MAX_MENTIONS
        assert all(JID.fullmatch(jid) for jid in row["mentions"] or [])
        assert 0 <= row["mention_count"] <= 100_000
        assert 0 <= row["forward_score"] <= 1_000_000
        assert isinstance(row["forwarded"], bool)


@RELAXED
@given(proto_json("Message") | st.dictionaries(st.text(max_size=8), ANY_JSON, max_size=3))
def test_numbers_of_any_message_are_numbers(message: dict[str, Any]) -> None:
    assert all(JID.fullmatch(number) and number.endswith("@s.whatsapp.net") for number in numbers_in(message))

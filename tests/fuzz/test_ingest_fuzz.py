"""The normaliser under strangers' JSON: shaped by the proto, and not shaped at all."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testkit.stanzas import GROUP, NOW_MS, NOW_S, make_key, make_rules, make_stanza
from tests.fuzz.documents import ANY_JSON, ANY_SCALAR, ANY_TEXT, one_content, proto_json
from worker.bridge.protocol import ResendEvent, Stanza
from worker.ingest.rules.content import CONTENT
from worker.ingest.rules.normalise import Discard, MessageRow, normalise, normalise_resend
from worker.ingest.rules.raw import MAX_RAW_BYTES
from worker.text import MAX_TEXT_BYTES

KIND = re.compile(r"[a-z_]{1,32}")
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def check(result: MessageRow | Discard) -> None:
    """Storable whatever it is: bounded, UTF-8, no NUL, no number that JSON lacks."""
    if isinstance(result, Discard):
        return
    row = result.as_json()
    encoded = json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
    assert b"\\u0000" not in encoded
    assert len(json.dumps(row["raw"]).encode()) <= MAX_RAW_BYTES
    assert KIND.fullmatch(result.kind)
    assert TIME.fullmatch(result.ts)
    assert TIME.fullmatch(result.received_at)
    assert 1 <= len(result.wa_msg_id) <= 128
    assert 1 <= len(result.sender) <= 128
    assert len((result.text or "").encode()) <= MAX_TEXT_BYTES
    assert result.media_status in (None, "pending", "failed")
    assert (result.media is None) == (result.media_status is None)
    assert len(encoded) <= MAX_RAW_BYTES + len(json.dumps(result.text or "")) * 2 + 12_000


RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@RELAXED
@given(proto_json("Message"))
def test_a_message_of_the_protos_shape_never_harms(content: dict[str, Any]) -> None:
    check(normalise(make_stanza(content), make_rules()))


@pytest.mark.parametrize("name", sorted(CONTENT))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_each_content_in_any_filling_never_harms(name: str, data: st.DataObject) -> None:
    check(normalise(make_stanza(data.draw(one_content(name))), make_rules()))


@RELAXED
@given(
    st.dictionaries(
        st.sampled_from([*sorted(CONTENT), "conversation", "protocolMessage", "ephemeralMessage"]), ANY_JSON
    )
)
def test_any_json_under_known_names_never_harms(content: dict[str, Any]) -> None:
    check(normalise(make_stanza(content), make_rules()))


@RELAXED
@given(
    content=st.none() | st.dictionaries(ANY_TEXT, ANY_JSON, max_size=4),
    key=st.none()
    | st.fixed_dictionaries(
        {"remoteJid": st.just(GROUP) | ANY_SCALAR, "id": ANY_SCALAR, "participant": st.just("1@lid") | ANY_SCALAR},
        optional={"participantAlt": ANY_SCALAR, "fromMe": ANY_SCALAR},
    ),
    attrs=st.dictionaries(st.sampled_from(["t", "notify", "offline", "participant"]), ANY_TEXT),
    arrived=st.just(NOW_MS) | st.integers(-(2**70), 2**70),
    offset=st.none() | st.floats(),
    failure=st.none() | ANY_TEXT,
    unavailable=st.none() | ANY_TEXT,
    retries=st.integers(-1, 2**70),
)
def test_any_stanza_never_harms(
    content: Any, key: Any, attrs: Any, arrived: int, offset: float | None, failure: Any, unavailable: Any, retries: int
) -> None:
    stanza = Stanza.model_construct(
        attrs=attrs,
        key=key,
        arrived_at_ms=arrived,
        server_time_offset_ms=offset,
        content=content,
        failure=failure,
        hashes=[],
        retry_count=retries,
        unavailable=unavailable,
    )
    check(normalise(stanza, make_rules()))


@RELAXED
@given(proto_json("Message"), ANY_TEXT, st.none() | ANY_TEXT)
def test_any_resend_never_harms(content: dict[str, Any], t: str, name: str | None) -> None:
    event = ResendEvent.model_construct(type="resend", key=make_key(), content=content, t=t, push_name=name)
    check(normalise_resend(event, NOW_MS, make_rules()))


def test_a_payload_nested_by_thousands_is_bounded() -> None:
    content: dict[str, Any] = {"conversation": "deep"}
    for _ in range(5_000):
        content = {"ephemeralMessage": {"message": content}}
    check(normalise(make_stanza(content), make_rules()))
    quoted: dict[str, Any] = {}
    for _ in range(5_000):
        quoted = {"extendedTextMessage": {"text": "q", "contextInfo": {"quotedMessage": quoted}}}
    check(normalise(make_stanza(quoted), make_rules()))


def test_a_comment_on_a_comment_without_end_is_bounded() -> None:
    content: dict[str, Any] = {"conversation": "deep"}
    for _ in range(5_000):
        content = {"commentMessage": {"message": content}}
    check(normalise(make_stanza(content), make_rules()))


def test_a_key_with_a_number_of_a_million_digits_is_bounded() -> None:
    check(
        normalise(make_stanza({"imageMessage": {"width": 10**1_000_000, "fileLength": -(10**1_000_000)}}), make_rules())
    )


def test_a_stamp_with_seconds_of_the_century_is_still_stored() -> None:
    check(normalise(make_stanza(attrs={"t": str(NOW_S) + "0" * 300}), make_rules()))

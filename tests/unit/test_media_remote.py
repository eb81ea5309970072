"""A job's descriptor: written by the ingest, read by the runner, shown to the phone."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.stanzas import b64, make_file, make_rules, make_stanza
from worker.errors import MediaRefused
from worker.ingest.rules.normalise import MessageRow, normalise
from worker.media.remote import make_descriptor, parse_remote


def descriptor_of(**changes: Any) -> dict[str, Any]:
    row = normalise(make_stanza({"ptvMessage": make_file(seconds=2, **changes)}), make_rules())
    assert isinstance(row, MessageRow)
    assert row.media is not None
    assert row.media.descriptor is not None
    return row.media.descriptor


def test_what_the_ingest_writes_the_runner_reads() -> None:
    file = parse_remote(descriptor_of())
    assert (file.media_type, file.media_key, file.file_length) == ("video", b"\x02" * 32, 46706)
    assert (file.file_sha256, file.claims.enc_sha256) == ("01" * 32, "03" * 32)


def test_a_descriptor_survives_the_way_there_and_back() -> None:
    assert make_descriptor(parse_remote(descriptor_of())) == descriptor_of()
    assert make_descriptor(parse_remote(descriptor_of(fileSha256=None))) == descriptor_of(fileSha256=None)


def test_the_phone_is_shown_the_message_as_it_was() -> None:
    shown = parse_remote(descriptor_of()).as_message()
    wanted = ("mediaKey", "directPath", "url", "fileSha256", "fileEncSha256", "fileLength", "mimetype")
    assert shown == {"ptvMessage": {name: make_file()[name] for name in wanted}}


def test_a_renewed_file_has_the_new_path_and_the_old_keys() -> None:
    file = parse_remote(descriptor_of())
    renewed = file.renewed({"ptvMessage": {"directPath": "/new", "mediaKey": b64(b"9" * 32)}})
    assert (renewed.direct_path, renewed.url, renewed.media_key) == ("/new", None, file.media_key)


@pytest.mark.parametrize(
    "content", [{}, {"ptvMessage": None}, {"ptvMessage": {"directPath": ""}}, {"imageMessage": {"directPath": "/x"}}]
)
def test_an_answer_without_a_path_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(MediaRefused):
        parse_remote(descriptor_of()).renewed(content)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {**descriptor_of(), "media_key": "!"},
        {**descriptor_of(), "media_key": b64(b"short")},
        {**descriptor_of(), "media_key": None},
        {**descriptor_of(), "media_type": "hologram"},
        {**descriptor_of(), "key": None},
        {name: value for name, value in descriptor_of().items() if name != "direct_path"},
    ],
)
def test_a_descriptor_that_is_none_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(MediaRefused, match="descriptor"):
        parse_remote(broken)


def test_neither_key_nor_address_is_shown() -> None:
    text = repr(parse_remote(descriptor_of()))
    assert "media_key" not in text
    assert "whatsapp" not in text

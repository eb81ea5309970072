"""A file's type by its bytes, and where it is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.media_corpus import CORPUS, Sample
from worker.media.file_types import EXTENSIONS, OTHER, OTHER_MAX_BYTES, may_be_stored
from worker.media.paths import storage_path
from worker.media.sniff import sniff

SEEDS = Path(__file__).parents[2] / "seeds" / "media"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@pytest.mark.parametrize(
    ("name", "hint", "mime", "extension"),
    [
        ("hills.jpg", "image/jpeg", "image/jpeg", "jpg"),
        ("oranges.jpg", None, "image/jpeg", "jpg"),
        ("sticker.webp", "image/webp", "image/webp", "webp"),
        ("voice.ogg", "audio/ogg; codecs=opus", "audio/ogg", "ogg"),
        ("clip.mp4", "video/mp4", "video/mp4", "mp4"),
        ("loop.mp4", "image/gif", "video/mp4", "mp4"),
        ("list.pdf", "application/pdf", "application/pdf", "pdf"),
        ("notes.docx", DOCX, DOCX, "docx"),
        ("names.zip", "application/zip", "application/zip", "zip"),
    ],
)
def test_a_real_file_has_its_type(name: str, hint: str | None, mime: str, extension: str) -> None:
    sniffed = sniff((SEEDS / name).read_bytes()[:4096], hint)
    assert (sniffed.mime, sniffed.extension) == (mime, extension)


@pytest.mark.parametrize("sample", CORPUS, ids=lambda sample: sample.name)
def test_every_type_and_brand_that_we_know(sample: Sample) -> None:
    assert sniff(sample.head[:4096], sample.hint, sample.media_type).mime == sample.mime


def test_the_corpus_has_a_file_of_every_type() -> None:
    assert {sample.mime for sample in CORPUS} == set(EXTENSIONS) - {OTHER}


@pytest.mark.parametrize(
    ("head", "hint", "mime", "why"),
    [
        (b"RIFF\x24\0\0\0EVIL", None, OTHER, "a RIFF of another kind"),
        (b"FORM\0\0\0\x2eILBM", "audio/aiff", OTHER, "an IFF of another kind"),
        (b"0&\xb2u" + bytes(60), "video/x-ms-wmv", OTHER, "a quarter of ASF's name"),
        (b"PK\x03\x04", "image/jpeg", "application/zip", "a zip that lies about itself"),
        (b"%PDF-1.7", "image/png", "application/pdf", "a PDF that lies"),
        (b"\xff\xd8\xff\xe0", "application/pdf", "image/jpeg", "an image that lies"),
        (b"MZ\x90\0", "image/jpeg", OTHER, "a program that calls itself an image"),
        (b"\x7fELF\2\1\1\0", "text/plain", OTHER, "a program that calls itself a text"),
        (b"BM", None, "text/plain", "two letters are no bitmap"),
        (b"Welcome to the moov", None, "text/plain", "a word is no box"),
        (b"BZh? said he", None, "text/plain", "nor a block"),
        (b"G" * 200, None, "text/plain", "two marks are no stream"),
        (b"a\x00b", "text/csv", OTHER, "no text has a NUL"),
        (b"\x89\x90\xfe" * 200, "text/plain", OTHER, "no code page has so little ASCII"),
        (b"a" * 500 + b"\x01", None, OTHER, "nor such a character"),
        (b"<svgx/>", "image/svg+xml", "text/plain", "a root of another name"),
        (b"<?xml version='1.0'?><rss/>", "image/svg+xml", "text/plain", "a drawing's type on something else"),
        (b"<!-- never closed <svg>", None, "text/plain", "a comment that does not end"),
        (b"   ", None, OTHER, "nothing to read"),
        (b"", "image/jpeg", OTHER, "nothing"),
        (b"\xff", "image/jpeg", OTHER, "one byte"),
    ],
)
def test_the_bytes_win_over_the_senders_word(head: bytes, hint: str | None, mime: str, why: str) -> None:
    assert sniff(head, hint).mime == mime, why


@pytest.mark.parametrize(
    ("mime", "length", "document_max", "expected"),
    [
        ("image/jpeg", 20_000_000, 1, True),
        ("image/svg+xml", 20_000_000, 1, True),
        ("video/x-ms-wmv", 20_000_000, 1, True),
        ("application/pdf", 20_000_000, 1, True),
        ("application/zip", 20_000_000, 1, True),
        (DOCX, 20_000_000, 1, True),
        ("text/csv", 20_000_000, None, True),
        ("application/vnd.rar", 20_000_000, None, True),
        ("application/msword", 1_000_000, 1_000_000, True),
        ("application/msword", 1_000_001, 1_000_000, False),
        (OTHER, OTHER_MAX_BYTES, None, True),
        (OTHER, OTHER_MAX_BYTES + 1, None, False),
        (OTHER, 0, None, True),
    ],
)
def test_documents_have_a_limit_of_their_own_and_what_we_do_not_know_must_be_small(
    mime: str, length: int, document_max: int | None, expected: bool
) -> None:
    assert may_be_stored(mime, length, document_max) is expected


def test_extensions_are_short_and_plain() -> None:
    assert all(extension.isalnum() and extension.islower() and len(extension) <= 4 for extension in EXTENSIONS.values())


def test_an_object_lies_under_its_hash() -> None:
    assert storage_path("ab" * 32, "jpg") == "ab" * 32 + "/original.jpg"


@pytest.mark.parametrize(
    ("sha256", "extension"),
    [
        ("AB" * 32, "jpg"),
        ("ab" * 31, "jpg"),
        ("../" + "a" * 61, "jpg"),
        ("ab" * 32, "exe"),
        ("ab" * 32, "../x"),
        ("ab" * 32 + "\n", "jpg"),
    ],
)
def test_a_path_is_made_of_nothing_else(sha256: str, extension: str) -> None:
    with pytest.raises(ValueError, match="known extension"):
        storage_path(sha256, extension)


@pytest.mark.parametrize(
    ("frame", "mime", "why"),
    [
        ("fffb9064", "audio/mpeg", "MPEG 1, layer III, four bytes are enough"),
        ("fffd9064", "audio/mpeg", "layer II"),
        ("fff39064", "audio/mpeg", "MPEG 2"),
        ("fffb1064", "audio/mpeg", "the lowest bit rate"),
        ("fffbe064", "audio/mpeg", "the highest"),
        ("fffb9864", "audio/mpeg", "the third sampling rate"),
        ("fffb90f0", "audio/mpeg", "what follows says nothing about rates"),
        ("fffb9400", "audio/mpeg", "nor if it is nothing"),
        ("ffff9064", OTHER, "layer I, or a text in UTF-16"),
        ("fff99064", "audio/aac", "no layer: ADTS"),
        ("fffb0064", OTHER, "a free bit rate"),
        ("fffbf064", OTHER, "no bit rate"),
        ("fffb9c64", OTHER, "no sampling rate"),
        ("fefb9064", OTHER, "not in step"),
        ("ff1b9064", OTHER, "not in step either"),
        ("00009064", OTHER, "nor this"),
        ("fffb90", OTHER, "too short to say"),
    ],
)
def test_frames_of_audio_without_a_container(frame: str, mime: str, why: str) -> None:
    assert sniff(bytes.fromhex(frame)).mime == mime, why


@pytest.mark.parametrize(("length", "mime"), [(25, OTHER), (26, "image/bmp")])
def test_a_bitmap_has_a_header(length: int, mime: str) -> None:
    assert sniff(b"BM" + bytes(length - 2)).mime == mime

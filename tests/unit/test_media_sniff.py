"""A file's type by its bytes, and where it is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.media.paths import storage_path
from worker.media.sniff import EXTENSIONS, OTHER, OTHER_MAX_BYTES, may_be_stored, sniff

SEEDS = Path(__file__).parents[2] / "seeds" / "media"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def box(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + bytes(20)


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


@pytest.mark.parametrize(
    ("head", "hint", "mime", "why"),
    [
        (b"\x89PNG\r\n\x1a\n", None, "image/png", "PNG"),
        (b"GIF89a\1\0", None, "image/gif", "GIF"),
        (b"GIF87a\1\0", None, "image/gif", "its older form"),
        (box(b"3gp5"), "video/mp4", "video/3gpp", "3GP, which puremagic calls MP4"),
        (box(b"isom"), None, "video/mp4", "MP4"),
        (box(b"mp42"), "audio/mp4", "audio/mp4", "MP4 with sound alone: the sender knows"),
        (box(b"M4A "), "video/mp4", "audio/mp4", "M4A says so itself"),
        (box(b"qt  "), None, "video/quicktime", "QuickTime"),
        (box(b"heic"), "image/jpeg", "image/heic", "an iPhone's photo"),
        (b"RIFF\x24\0\0\0WAVEfmt ", None, "audio/wav", "WAV"),
        (b"RIFF\x24\0\0\0AVI LIST", None, "video/x-msvideo", "AVI"),
        (b"RIFF\x24\0\0\0EVIL", None, OTHER, "a RIFF of another kind"),
        (b"ID3\x03\0\0\0", None, "audio/mpeg", "MP3 with a tag"),
        (b"\xff\xfb\x90\x64" + bytes(100), None, "audio/mpeg", "MP3 without"),
        (b"\xff\xf1\x50\x80" + bytes(100), "audio/mpeg", "audio/aac", "AAC in ADTS"),
        (b"\xff\xfe\x68\x00", None, OTHER, "a text in UTF-16 begins almost like MP3"),
        (b"#!AMR\n", None, "audio/amr", "AMR"),
        (b"\x1a\x45\xdf\xa3" + bytes(20) + b"webm", None, "video/webm", "WebM"),
        (b"\x1a\x45\xdf\xa3" + bytes(20), None, "video/x-matroska", "Matroska"),
        (b"PK\x05\x06" + bytes(18), None, "application/zip", "an empty zip"),
        (b"PK\x03\x04", "image/jpeg", "application/zip", "a zip that lies about itself"),
        (b"PK\x03\x04", "application/epub+zip", "application/epub+zip", "a zip of a known family"),
        (b"PK\x03\x04", "application/vnd.android.package-archive", "application/zip", "an app is a zip to us"),
        (b"%PDF-1.7", "image/png", "application/pdf", "a PDF that lies"),
        (b"\xff\xd8\xff\xe0", "application/pdf", "image/jpeg", "an image that lies"),
        (b"MZ\x90\0", "image/jpeg", OTHER, "a program that calls itself an image"),
        (b"<html><script>", "image/svg+xml", OTHER, "a page that a browser would run"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "image/svg+xml", OTHER, "a drawing that may hold scripts"),
        (b"hello world", "text/plain", OTHER, "a text has no signature"),
        (b"BM", None, OTHER, "two letters are no bitmap"),
        (b"BM\x36\0\0\0\0\0\0\0" + bytes(20), None, "image/bmp", "a bitmap"),
        (b"", "image/jpeg", OTHER, "nothing"),
        (b"\xff", "image/jpeg", OTHER, "one byte"),
    ],
)
def test_the_bytes_win_over_the_senders_word(head: bytes, hint: str | None, mime: str, why: str) -> None:
    assert sniff(head, hint).mime == mime, why


@pytest.mark.parametrize(
    ("mime", "length", "expected"),
    [
        ("image/jpeg", 20_000_000, True),
        ("application/pdf", 20_000_000, True),
        ("application/zip", 20_000_000, True),
        (DOCX, 20_000_000, True),
        (OTHER, OTHER_MAX_BYTES, True),
        (OTHER, OTHER_MAX_BYTES + 1, False),
        (OTHER, 0, True),
    ],
)
def test_what_we_do_not_know_is_stored_only_if_it_is_small(mime: str, length: int, expected: bool) -> None:
    assert may_be_stored(mime, length) is expected


def test_every_type_that_we_recognise_is_one_that_the_contract_allows() -> None:
    for mime in set(EXTENSIONS) - {OTHER}:
        zip_inside = EXTENSIONS[mime] in {"docx", "xlsx", "pptx", "odt", "ods", "odp"}
        assert mime.startswith(("image/", "video/", "audio/", "application/pdf")) or "zip" in mime or zip_inside, mime


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


@pytest.mark.parametrize("brand", [b"3gp4", b"3g2a"])
def test_films_of_old_telephones(brand: bytes) -> None:
    assert sniff(bytes(4) + b"ftyp" + brand).mime == "video/3gpp"


@pytest.mark.parametrize("hint", ["audio/mp4", "audio/x-m4a", "audio/aac"])
def test_an_mp4_that_its_sender_calls_sound_is_sound(hint: str) -> None:
    assert sniff(bytes(4) + b"ftypisom", hint).mime == "audio/mp4"

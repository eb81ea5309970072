"""A file's type, told by its bytes.

Owns the table of signatures, the allow-list of docs/contract.md §7 and the extension of each type. The sender's MIME
type is a hint that decides only between types with the same signature. puremagic was tried and is not used: it calls
every zip a Word document, 3GP MP4, and gives M4A no type at all.
"""

from __future__ import annotations

from dataclasses import dataclass

OTHER = "application/octet-stream"
OTHER_EXTENSION = "bin"
# "other if small" (docs/contract.md §7): a text, a card, a spreadsheet's export; no disk image
OTHER_MAX_BYTES = 1024 * 1024

# The only extensions there are. Never one from a file name.
EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    "video/mp4": "mp4",
    "video/3gpp": "3gp",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/x-msvideo": "avi",
    "audio/ogg": "ogg",
    "audio/mpeg": "mp3",
    "audio/mp4": "m4a",
    "audio/aac": "aac",
    "audio/amr": "amr",
    "audio/wav": "wav",
    "audio/flac": "flac",
    "application/pdf": "pdf",
    "application/zip": "zip",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/epub+zip": "epub",
    "application/gzip": "gz",
    OTHER: OTHER_EXTENSION,
}

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"#!AMR", "audio/amr"),
    (b"fLaC", "audio/flac"),
    (b"%PDF-", "application/pdf"),
    (b"\x1f\x8b\x08", "application/gzip"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS = {
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heic",
    b"avif": "image/avif",
}
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
# Types that are a zip inside: the signature cannot tell them apart, so here, and only here, the sender's word counts.
_ZIP_FAMILY = frozenset(
    mime
    for mime in EXTENSIONS
    if mime.startswith(("application/vnd.", "application/epub")) or mime == "application/zip"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sniffed:
    """The type under which a file is stored."""

    mime: str
    extension: str


def sniff(head: bytes, hint: str | None = None) -> Sniffed:
    """The type of a file that begins with `head`; `OTHER` if it is none that we know."""
    mime = _by_bytes(head, hint) or OTHER
    return Sniffed(mime=mime, extension=EXTENSIONS[mime])


def may_be_stored(mime: str, length: int) -> bool:
    """Whether the contract lets a file of this type and size in: what we recognise always, the rest if it is small."""
    return mime != OTHER or length <= OTHER_MAX_BYTES


def _by_bytes(head: bytes, hint: str | None) -> str | None:
    for signature, mime in _SIGNATURES:
        if head.startswith(signature):
            return mime
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _by_brand(head[8:12], hint)
    if head.startswith(_ZIP_STARTS):
        return hint if hint in _ZIP_FAMILY else "application/zip"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head.startswith(b"BM") and len(head) >= 26 and head[6:10] == bytes(4):
        return "image/bmp"
    return _mpeg_audio(head)


def _by_brand(brand: bytes, hint: str | None) -> str:
    if brand.startswith((b"3gp", b"3g2")):
        return "video/3gpp"
    mime = _BRANDS.get(brand, "video/mp4")
    # Android records voice as plain MP4 without a picture: there the sender knows better.
    return "audio/mp4" if mime == "video/mp4" and hint in ("audio/mp4", "audio/x-m4a", "audio/aac") else mime


def _mpeg_audio(head: bytes) -> str | None:
    """Frames without a container: eleven or twelve set bits, then a layer; layer 0 is AAC's ADTS."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "audio/aac"
    layer, bitrate, rate = head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    # Layer I (3) is left out: nobody uses it, and a text in UTF-16 begins like it.
    return "audio/mpeg" if layer in (1, 2) and 0 < bitrate < 15 and rate != 3 else None

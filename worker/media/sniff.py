"""Detects a file's type from its bytes.

Owns the table of signatures. The sender's type is only a hint: it decides between types that the bytes cannot
distinguish; if it says nothing, the message's kind decides. For the libraries that we tried, and what each got wrong,
see docs/kinds.md, "How a file's type is told".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.media.file_types import EXTENSIONS, OTHER, ZIP_FAMILY

TEXT_START_CHARS = 512  # that must look like text
LEAST_ASCII = 0.7  # share in a text in an old code page: German or French has 0.95, random bytes 0.4

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\xff\x0a", "image/jxl"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"\x00\x00\x01\x00\x01\x00", "image/x-icon"),
    (b"8BPS\x00", "image/vnd.adobe.photoshop"),
    (b"FUJIFILMCCD-RAW", "image/x-fuji-raf"),
    (b"FLV\x01", "video/x-flv"),
    (b"\x00\x00\x01\xba", "video/mpeg"),
    (b"\x00\x00\x01\xb3", "video/mpeg"),
    (b"ID3", "audio/mpeg"),
    (b"#!AMR-WB\n", "audio/amr-wb"),
    (b"#!AMR", "audio/amr"),
    (b"fLaC", "audio/flac"),
    (b"caff\x00\x01", "audio/x-caf"),
    (b".snd\x00\x00", "audio/basic"),
    (b"MThd\x00\x00\x00\x06", "audio/midi"),
    (b"%PDF-", "application/pdf"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    *((b"BZh%d1AY&SY" % level, "application/x-bzip2") for level in range(1, 10)),
    (b"\xfd7zXZ\x00", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"{\\rtf", "application/rtf"),
)
_FORMS = {  # the content of RIFF and IFF files, at byte 8
    (b"RIFF", b"WEBP"): "image/webp",
    (b"RIFF", b"WAVE"): "audio/wav",
    (b"RF64", b"WAVE"): "audio/wav",
    (b"RIFF", b"AVI "): "video/x-msvideo",
    (b"FORM", b"AIFF"): "audio/aiff",
    (b"FORM", b"AIFC"): "audio/aiff",
}
# Source: ISO/IEC 23008-12 for HEIF, AVIF's specification, mp4ra.org. 3GPP brands start with 3gp or 3g2.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic"),
    b"mif1": "image/heic",
    b"msf1": "image/heic",
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"crx ": "image/x-canon-cr3",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"M4P ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
_OLD_QUICKTIME = (b"moov", b"wide", b"mdat", b"pnot")  # first box of films older than `ftyp`
_MATROSKA = b"\x1a\x45\xdf\xa3"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_VIDEO = bytes.fromhex("c0ef19bc4d5bcf11a8fd00805f5c442b")
_ASF_AUDIO = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")

# Types that share a signature: the sender's type decides if it is in the family.
_HEIF_FAMILY = {"image/heic": "image/heic", "image/heif": "image/heic", "image/avif": "image/avif"}
_TIFF_FAMILY = {"image/x-adobe-dng", "image/x-nikon-nef", "image/x-sony-arw"}
_OLE_FAMILY = frozenset(mime for mime in EXTENSIONS if mime.startswith("application/vnd.ms-")) | {"application/msword"}
_TEXT_FAMILY = {
    "text/csv": "text/csv",
    "text/comma-separated-values": "text/csv",
    "application/csv": "text/csv",
    "application/json": "application/json",
}
_TEXT_STARTS = {"BEGIN:VCARD": "text/vcard", "BEGIN:VCALENDAR": "text/calendar"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sniffed:
    """The detected type of a file."""

    mime: str
    extension: str


def sniff(head: bytes, hint: str | None = None, media_type: str | None = None) -> Sniffed:
    """The type of a file that starts with `head` (ideally 4 KiB); `OTHER` if unknown.

    `hint`: the sender's type. `media_type`: the message's: image, video, audio or document.
    """
    plain = (hint or "").partition(";")[0].strip().lower()
    mime = _by_bytes(head, plain, media_type) or OTHER
    return Sniffed(mime=mime, extension=EXTENSIONS[mime])


def _by_bytes(head: bytes, hint: str, media_type: str | None) -> str | None:
    for signature, mime in _SIGNATURES:
        if head.startswith(signature):
            return mime
    if (form := _FORMS.get((head[:4], head[8:12]))) is not None:
        return form
    if (container := _CONTAINERS.get(head[:4])) is not None:
        return container(head, hint, media_type)
    if head[4:8] == b"ftyp":
        return _iso_media(head, hint, media_type)
    if head[4:8] in _OLD_QUICKTIME and head[0] < 0x20:  # otherwise a box of over 512 MB, or a text
        return "video/quicktime"
    if head.startswith(_ZIP_STARTS):
        return hint if hint in ZIP_FAMILY else "application/zip"
    if head.startswith(_OLE):
        return hint if hint in _OLE_FAMILY else "application/x-ole-storage"
    if head[257:262] == b"ustar":
        return "application/x-tar"
    if head.startswith(b"BM") and len(head) >= 26 and head[6:10] == bytes(4):
        return "image/bmp"
    return _transport_stream(head) or _mpeg_audio(head) or _text(head, hint)


def _is_sound(hint: str, media_type: str | None) -> bool:
    """Whether a container that may be sound or film is sound, by the sender's type, then the message's kind."""
    return hint.startswith("audio/") if hint.startswith(("audio/", "video/")) else media_type == "audio"


def _iso_media(head: bytes, hint: str, media_type: str | None) -> str:
    size, brand = int.from_bytes(head[:4], "big"), head[8:12]
    if brand in (b"mif1", b"msf1") and (b"avif" in head[16:size] or b"avis" in head[16:size]):
        return "image/avif"  # general major brand, with the codec's brand among the compatible ones
    if brand in _BRANDS:
        return _BRANDS[brand]
    if brand.startswith((b"3gp", b"3g2")):
        return "audio/3gpp" if _is_sound(hint, media_type) else "video/3gpp"
    if hint in _HEIF_FAMILY:
        return _HEIF_FAMILY[hint]
    return "audio/mp4" if _is_sound(hint, media_type) else "video/mp4"  # Android records voice as plain MP4


def _matroska(head: bytes, hint: str, media_type: str | None) -> str:
    family = "audio/" if _is_sound(hint, media_type) else "video/"
    return family + ("webm" if b"webm" in head[:64] else "x-matroska")


def _ogg(head: bytes, hint: str, media_type: str | None) -> str:
    """Judged by the codec names in the first packets of the streams, which are at the start."""
    if b"\x80theora" in head:
        return "video/ogg"
    if any(codec in head for codec in (b"OpusHead", b"\x01vorbis", b"Speex   ", b"\x7fFLAC")):
        return "audio/ogg"
    return "video/ogg" if hint == "video/ogg" or media_type == "video" else "audio/ogg"


def _windows_media(head: bytes, hint: str, media_type: str | None) -> str | None:
    if not head.startswith(_ASF):
        return None
    if _ASF_VIDEO in head:
        return "video/x-ms-wmv"
    return "audio/x-ms-wma" if _ASF_AUDIO in head or _is_sound(hint, media_type) else "video/x-ms-wmv"


def _tiff(head: bytes, hint: str, _media_type: str | None) -> str:
    """TIFF, and camera formats based on it."""
    if head[8:10] == b"CR":
        return "image/x-canon-cr2"
    return hint if hint in _TIFF_FAMILY else "image/tiff"


_CONTAINERS: dict[bytes, Callable[[bytes, str, str | None], str | None]] = {
    b"OggS": _ogg,
    _MATROSKA: _matroska,
    _ASF[:4]: _windows_media,
    b"II*\x00": _tiff,
    b"MM\x00*": _tiff,
}


def _transport_stream(head: bytes) -> str | None:
    """MPEG-TS: packets of 188 bytes that start with 0x47; camcorders put a four-byte time before each."""
    for first, step in ((0, 188), (4, 192)):
        marks = head[first::step][:5]
        if len(marks) == 5 and set(marks) == {0x47}:
            return "video/mp2t"
    return None


def _mpeg_audio(head: bytes) -> str | None:
    """MPEG audio frames without a container: eleven or twelve set bits, then a layer; layer 0 is AAC's ADTS."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "audio/aac"
    layer, bitrate, rate = head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    # Layer I (3) is left out: nobody uses it, and UTF-16 text starts like it.
    return "audio/mpeg" if layer in (1, 2) and 0 < bitrate < 15 and rate != 3 else None


def _text(head: bytes, hint: str) -> str | None:
    """SVG by its root element, vCard or calendar by the first line, else the sender's kind of text.

    A web page becomes plain text, which no browser executes.
    """
    text = _decoded(head)
    if text is None:
        return None
    if _root(text) == "svg":
        return "image/svg+xml"
    first_line = text.lstrip().partition("\n")[0].strip().upper()
    return _TEXT_STARTS.get(first_line) or _TEXT_FAMILY.get(hint, "text/plain")


def _decoded(head: bytes) -> str | None:
    """The start as text; None if it is empty or contains bytes that no text has."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head[: len(head) // 2 * 2].decode("utf-16", "replace")
    else:
        text = _utf8(head) or _code_page(head)
    start = text.removeprefix("\ufeff")[:TEXT_START_CHARS]
    unlikely = any(character < " " and character not in "\t\n\r\f" for character in start) or "\ufffd" in start
    return text.removeprefix("\ufeff") if start.strip() and not unlikely else None


def _utf8(head: bytes) -> str:
    """The start of a UTF-8 text, whose last character may be cut; empty if it is not UTF-8."""
    try:
        return head.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = error.start > TEXT_START_CHARS and len(head) - error.start < 4
        return head[: error.start].decode("utf-8") if cut else ""


def _code_page(head: bytes) -> str:
    """A text in an old Western European code page, such as an Excel export; empty if it does not look like one."""
    ascii_bytes = sum(byte < 0x80 for byte in head)
    return head.decode("cp1252", "replace") if head and ascii_bytes >= LEAST_ASCII * len(head) else ""


def _root(text: str) -> str | None:
    """The name of an XML document's root element."""
    at = text.lstrip()
    while at.startswith(("<?", "<!")):
        closing = "?>" if at.startswith("<?") else "-->" if at.startswith("<!--") else ">"
        if closing == ">" and "[" in at.partition(">")[0]:
            closing = "]>"  # a document type with an internal subset
        at = at.partition(closing)[2].lstrip()
    name = at[1:65].replace("/", " ").replace(">", " ").split()
    return name[0].rpartition(":")[2] if at.startswith("<") and name else None

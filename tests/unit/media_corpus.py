"""Beginnings of files, at least one for every type and brand that is stored, made as their formats say.

Each is long enough for its signature and as small as that allows. `test_media_sniff.py` checks the type of each.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from dataclasses import dataclass

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
ODF = "application/vnd.oasis.opendocument."
APK = "application/vnd.android.package-archive"
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_STREAM = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
ASF_AUDIO = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
ASF_VIDEO = bytes.fromhex("c0ef19bc4d5bcf11a8fd00805f5c442b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """How a file begins, what its message says of it, and the type that is right."""

    name: str
    head: bytes
    mime: str
    hint: str | None = None
    media_type: str = "document"


def box(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def ftyp(brand: bytes, *compatible: bytes) -> bytes:
    return box(b"ftyp", brand + bytes(4) + b"".join(compatible or (brand,))) + box(b"free") + box(b"mdat", bytes(64))


def ogg(packet: bytes) -> bytes:
    return b"OggS\x00\x02" + bytes(8) + b"\x01\0\0\0" + bytes(8) + b"\x01" + bytes([len(packet)]) + packet


def ebml(doc_type: bytes) -> bytes:
    body = b"\x42\x86\x81\x01\x42\xf7\x81\x01\x42\x82" + bytes([0x80 | len(doc_type)]) + doc_type
    return b"\x1a\x45\xdf\xa3" + bytes([0x80 | len(body)]) + body + b"\x18\x53\x80\x67\x01" + bytes(64)


def asf(*streams: bytes) -> bytes:
    objects = [ASF_STREAM + struct.pack("<Q", 24 + 54) + kind + bytes(38) for kind in streams]
    return ASF + struct.pack("<QI", 30 + sum(map(len, objects)), len(objects)) + b"\1\2" + b"".join(objects)


def tiff(extra: bytes = b"") -> bytes:
    return b"II*\x00" + (struct.pack("<I", 16) + extra.ljust(8, b"\0")) + struct.pack("<H", 0) + bytes(64)


def packets(lead: bytes) -> bytes:
    """MPEG-TS: six null packets."""
    return (lead + b"\x47\x1f\xff\x10" + b"\xff" * 184) * 6


def iff(form: bytes, kind: bytes) -> bytes:
    return form + b"\x24\0\0\0" + kind + b"fmt \x10\0\0\0\1\0\1\0\x44\xac\0\0\x88\x58\1\0\2\0\x10\0data" + bytes(16)


def zipped(name: str, content: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)  # without the time of today
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"))
    return buffer.getvalue()[:4096]


def _plain(name: str, head: bytes, mime: str, hint: str | None = None, media_type: str = "document") -> Sample:
    return Sample(name=name, head=head, mime=mime, hint=hint, media_type=media_type)


OLE = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + b"\x3e\0\3\0\xfe\xff\x09\0" + bytes(480)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0h9v9z"/></svg>'
CSV = "name,number\nAna,491511234567\nBen,491517654321\n"

PICTURES = (
    _plain("JPEG", b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0", "image/jpeg"),
    _plain("PNG", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0", "image/png"),
    _plain("GIF", b"GIF89a\1\0\1\0\x80\0\0", "image/gif"),
    _plain("GIF, older", b"GIF87a\1\0\1\0\x80\0\0", "image/gif"),
    _plain("WebP", iff(b"RIFF", b"WEBP").replace(b"fmt ", b"VP8 "), "image/webp"),
    *(
        _plain(f"HEIF brand {brand.decode()}", ftyp(brand, b"mif1", brand), "image/heic", "image/heic")
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
    ),
    _plain("HEIF by the sender's word", ftyp(b"1pic"), "image/heic", "image/heif"),
    _plain("AVIF", ftyp(b"avif", b"mif1"), "image/avif"),
    _plain("AVIF, a sequence", ftyp(b"avis", b"msf1"), "image/avif"),
    _plain("AVIF under a general brand", ftyp(b"mif1", b"avif"), "image/avif"),
    _plain("Canon CR3", ftyp(b"crx ", b"isom"), "image/x-canon-cr3"),
    _plain("Canon CR2", tiff(b"CR\2\0"), "image/x-canon-cr2"),
    _plain("TIFF", tiff(), "image/tiff"),
    _plain("TIFF, big-endian", b"MM\x00*\0\0\0\x08\0\0", "image/tiff"),
    _plain("DNG by the sender's word", tiff(), "image/x-adobe-dng", "image/x-adobe-dng"),
    _plain("NEF by the sender's word", tiff(), "image/x-nikon-nef", "image/x-nikon-nef"),
    _plain("ARW by the sender's word", tiff(), "image/x-sony-arw", "image/x-sony-arw"),
    _plain("RAF", b"FUJIFILMCCD-RAW 0201FF393101", "image/x-fuji-raf"),
    _plain("PSD", b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\1\0\0\0\1\0\x08\0\3", "image/vnd.adobe.photoshop"),
    _plain("SVG", SVG.encode(), "image/svg+xml", "image/svg+xml"),
    _plain(
        "SVG with a prologue", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- made -->\n' + SVG.encode(), "image/svg+xml"
    ),
    _plain(
        "SVG with definitions",
        b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "y" [ <!ENTITY a "b"> ]>\n<svg:svg xmlns:svg="z"/>',
        "image/svg+xml",
    ),
    _plain("BMP", b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\1\0\0\0\1\0\0\0\1\0\x18\0" + bytes(24), "image/bmp"),
    _plain("icon", b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + bytes(24), "image/x-icon"),
    _plain("JPEG XL", b"\xff\x0a\xfa\x7f\x01\x90\x08\x06", "image/jxl"),
    _plain("JPEG XL in boxes", b"\0\0\0\x0cJXL \r\n\x87\n" + ftyp(b"jxl "), "image/jxl"),
    _plain("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + ftyp(b"jp2 "), "image/jp2"),
)

FILMS = (
    _plain("MP4", ftyp(b"isom", b"isom", b"mp41"), "video/mp4", "video/mp4", "video"),
    _plain("MP4 2", ftyp(b"mp42"), "video/mp4"),
    _plain("MP4 that lies about a picture", ftyp(b"isom"), "video/mp4", "image/jpeg", "image"),
    _plain("3GP", ftyp(b"3gp5"), "video/3gpp", "video/3gpp", "video"),
    _plain("3G2", ftyp(b"3g2a"), "video/3gpp"),
    _plain("QuickTime", ftyp(b"qt  "), "video/quicktime"),
    _plain("QuickTime, moov first", b"\0\0\x40\0moov\0\0\0\x6cmvhd" + bytes(64), "video/quicktime"),
    _plain("QuickTime, wide first", box(b"wide") + box(b"mdat", bytes(64)), "video/quicktime"),
    _plain("QuickTime, mdat first", box(b"mdat", bytes(64)), "video/quicktime"),
    _plain("WebM", ebml(b"webm"), "video/webm", "video/webm", "video"),
    _plain("WebM without a word", ebml(b"webm"), "video/webm"),
    _plain("Matroska", ebml(b"matroska"), "video/x-matroska"),
    _plain("AVI", iff(b"RIFF", b"AVI "), "video/x-msvideo"),
    _plain("WMV", asf(ASF_AUDIO, ASF_VIDEO), "video/x-ms-wmv"),
    _plain("FLV", b"FLV\1\5\0\0\0\x09\0\0\0\0\x12" + bytes(32), "video/x-flv"),
    _plain("MPEG-PS", b"\0\0\1\xba\x44\0\4\0\4\1\0\1\x89\xc3\xf8" + bytes(32), "video/mpeg"),
    _plain("MPEG video alone", b"\0\0\1\xb3\x14\0\xf0\x13\xff\xff\xe0\x18" + bytes(32), "video/mpeg"),
    _plain("MPEG-TS", packets(b""), "video/mp2t"),
    _plain("MPEG-TS of a camcorder", packets(b"\1\2\3\4"), "video/mp2t"),
    _plain("Theora", ogg(b"\x80theora\3\2\1" + bytes(32)), "video/ogg", "audio/ogg"),
    _plain("Ogg of an unknown codec", ogg(b"BBCD\0" + bytes(32)), "video/ogg", "video/ogg", "video"),
)

SOUND = (
    _plain("Opus", ogg(b"OpusHead\1\1" + bytes(9)), "audio/ogg", "audio/ogg; codecs=opus", "audio"),
    _plain("Vorbis", ogg(b"\1vorbis" + bytes(23)), "audio/ogg", "video/ogg"),
    _plain("Speex", ogg(b"Speex   1.2" + bytes(60)), "audio/ogg"),
    _plain("M4A", ftyp(b"M4A "), "audio/mp4", "video/mp4"),
    _plain("audio book", ftyp(b"M4B "), "audio/mp4"),
    _plain("MP4, called audio/m4a", ftyp(b"isom"), "audio/mp4", "audio/m4a", "audio"),
    _plain("MP4, called audio/m4a, 2", ftyp(b"mp42"), "audio/mp4", "audio/m4a"),
    _plain("MP4 in an audio message", ftyp(b"mp42"), "audio/mp4", None, "audio"),
    _plain("3GP with sound alone", ftyp(b"3gp4"), "audio/3gpp", "audio/3gpp", "audio"),
    _plain("3GP in an audio message", ftyp(b"3gp4"), "audio/3gpp", None, "audio"),
    _plain("WebM with sound alone", ebml(b"webm"), "audio/webm", "audio/webm", "audio"),
    _plain("Matroska with sound alone", ebml(b"matroska"), "audio/x-matroska", "audio/x-matroska"),
    _plain("WMA", asf(ASF_AUDIO), "audio/x-ms-wma"),
    _plain("WMA whose streams come late", asf(), "audio/x-ms-wma", "audio/x-ms-wma"),
    _plain("MP3 with a tag", b"ID3\3\0\0\0\0\0\x0a" + bytes(32), "audio/mpeg"),
    _plain("MP3", b"\xff\xfb\x90\x64" + bytes(413), "audio/mpeg"),
    _plain("AAC", b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(64), "audio/aac", "audio/mpeg"),
    _plain("AMR", b"#!AMR\n\x3c" + bytes(31), "audio/amr"),
    _plain("AMR-WB", b"#!AMR-WB\n\x24" + bytes(31), "audio/amr-wb"),
    _plain("WAV", iff(b"RIFF", b"WAVE"), "audio/wav"),
    _plain("WAV over 4 GB", iff(b"RF64", b"WAVE"), "audio/wav"),
    _plain("AIFF", b"FORM\0\0\0\x2eAIFFCOMM\0\0\0\x12\0\1" + bytes(32), "audio/aiff"),
    _plain("AIFC", b"FORM\0\0\0\x2eAIFCFVER\0\0\0\4" + bytes(32), "audio/aiff"),
    _plain("FLAC", b"fLaC\0\0\0\x22" + bytes(34), "audio/flac"),
    _plain("CAF", b"caff\0\1\0\0desc" + bytes(32), "audio/x-caf"),
    _plain("AU", b".snd\0\0\0\x18\xff\xff\xff\xff\0\0\0\1\0\0\x1f\x40\0\0\0\1", "audio/basic"),
    _plain("MIDI", b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk", "audio/midi"),
)

DOCUMENTS = (
    _plain("PDF", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "application/pdf"),
    _plain("zip", zipped("a.bin"), "application/zip"),
    _plain("an empty zip", b"PK\5\6" + bytes(18), "application/zip"),
    _plain("docx", zipped("word/document.xml"), DOCX, DOCX),
    _plain("xlsx", zipped("xl/workbook.xml"), XLSX, XLSX),
    _plain("pptx", zipped("ppt/presentation.xml"), PPTX, PPTX),
    *(
        _plain(f"OpenDocument {sort}", zipped("mimetype", ODF + sort), ODF + sort, ODF + sort)
        for sort in ("text", "spreadsheet", "presentation")
    ),
    _plain("EPUB", zipped("mimetype", "application/epub+zip"), "application/epub+zip", "application/epub+zip"),
    _plain("APK", zipped("AndroidManifest.xml"), APK, APK),
    _plain("doc", OLE, "application/msword", "application/msword"),
    _plain("xls", OLE, "application/vnd.ms-excel", "application/vnd.ms-excel"),
    _plain("ppt", OLE, "application/vnd.ms-powerpoint", "application/vnd.ms-powerpoint"),
    _plain("msg", OLE, "application/vnd.ms-outlook", "application/vnd.ms-outlook"),
    _plain("an office file without a word", OLE, "application/x-ole-storage"),
    _plain("RTF", b"{\\rtf1\\ansi Hello}", "application/rtf"),
    _plain("RAR 5", b"Rar!\x1a\7\1\0" + bytes(32), "application/vnd.rar"),
    _plain("RAR 4", b"Rar!\x1a\7\0\xcf\x90\x73" + bytes(32), "application/vnd.rar"),
    _plain("7z", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(32), "application/x-7z-compressed"),
    _plain("gzip", b"\x1f\x8b\x08\0" + bytes(12), "application/gzip"),
    _plain("tar", tar(), "application/x-tar"),
    _plain("bzip2", b"BZh91AY&SY" + bytes(12), "application/x-bzip2"),
    _plain("xz", b"\xfd7zXZ\0\0\4" + bytes(12), "application/x-xz"),
    _plain("Zstandard", b"\x28\xb5\x2f\xfd\x24" + bytes(12), "application/zstd"),
    _plain("text", b"Dear all,\r\nwe meet at eight.\r\n", "text/plain"),
    _plain("text of another script", "встреча в восемь".encode(), "text/plain", "text/plain"),
    _plain("text in UTF-16", b"\xff\xfe" + "Hello".encode("utf-16-le"), "text/plain"),
    _plain("text in an old code page", "Grüße aus Köln;1,50 €\n".encode("cp1252"), "text/plain"),
    _plain("text cut within a letter", b"a" * 600 + "ü".encode()[:1], "text/plain"),
    _plain("web page", b"<!DOCTYPE html><html><script>alert(1)</script>", "text/plain", "text/html"),
    _plain("web page called a drawing", b"<html><script>", "text/plain", "image/svg+xml"),
    _plain("CSV", CSV.encode(), "text/csv", "text/csv"),
    _plain("CSV as Android calls it", CSV.encode(), "text/csv", "text/comma-separated-values"),
    _plain("JSON", b'{"a": 1}', "application/json", "application/json"),
    _plain("contact card", b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ana\r\nEND:VCARD\r\n", "text/vcard", "text/x-vcard"),
    _plain("calendar", b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nEND:VCALENDAR\r\n", "text/calendar"),
)

CORPUS = PICTURES + FILMS + SOUND + DOCUMENTS

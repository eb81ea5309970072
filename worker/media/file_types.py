"""The types that may be stored: their extensions and size limits.

Owns the allow-list of docs/contract.md §7 and our additions to it. `sniff` detects the type.
"""

from __future__ import annotations

OTHER = "application/octet-stream"
OTHER_EXTENSION = "bin"
# "other if small" (docs/contract.md §7): files without a known signature; no disk images
OTHER_MAX_BYTES = 1024 * 1024

# The only extensions ever used. Never one from a file name.
EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/avif": "avif",
    "image/jxl": "jxl",
    "image/jp2": "jp2",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    "image/svg+xml": "svg",
    "image/x-icon": "ico",
    "image/vnd.adobe.photoshop": "psd",
    "image/x-canon-cr2": "cr2",
    "image/x-canon-cr3": "cr3",
    "image/x-adobe-dng": "dng",
    "image/x-nikon-nef": "nef",
    "image/x-sony-arw": "arw",
    "image/x-fuji-raf": "raf",
    "video/mp4": "mp4",
    "video/3gpp": "3gp",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/x-msvideo": "avi",
    "video/x-ms-wmv": "wmv",
    "video/x-flv": "flv",
    "video/mpeg": "mpg",
    "video/mp2t": "ts",
    "video/ogg": "ogv",
    "audio/ogg": "ogg",
    "audio/mpeg": "mp3",
    "audio/mp4": "m4a",
    "audio/3gpp": "3ga",
    "audio/webm": "weba",
    "audio/x-matroska": "mka",
    "audio/aac": "aac",
    "audio/amr": "amr",
    "audio/amr-wb": "awb",
    "audio/wav": "wav",
    "audio/aiff": "aiff",
    "audio/x-caf": "caf",
    "audio/basic": "au",
    "audio/midi": "mid",
    "audio/flac": "flac",
    "audio/x-ms-wma": "wma",
    "application/pdf": "pdf",
    "application/zip": "zip",
    "application/gzip": "gz",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/epub+zip": "epub",
    "application/vnd.android.package-archive": "apk",
    "application/msword": "doc",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.ms-outlook": "msg",
    "application/x-ole-storage": "ole",
    "application/rtf": "rtf",
    "application/vnd.rar": "rar",
    "application/x-7z-compressed": "7z",
    "application/x-tar": "tar",
    "application/x-bzip2": "bz2",
    "application/x-xz": "xz",
    "application/zstd": "zst",
    "text/plain": "txt",
    "text/csv": "csv",
    "text/vcard": "vcf",
    "text/calendar": "ics",
    "application/json": "json",
    OTHER: OTHER_EXTENSION,
}

# Zip files inside, which the contract allows (`application/*zip*`).
ZIP_FAMILY = frozenset(
    mime
    for mime in EXTENSIONS
    if mime.startswith(("application/vnd.openxml", "application/vnd.oasis", "application/vnd.android"))
) | {"application/zip", "application/epub+zip"}
# Types that people send but the contract does not name: office files, archives, texts.
DOCUMENTS = frozenset(
    mime for mime in EXTENSIONS if not mime.startswith(("image/", "video/", "audio/"))
) - ZIP_FAMILY.union({"application/pdf", "application/gzip", OTHER})


def may_be_stored(mime: str, length: int, document_max_bytes: int | None = None) -> bool:
    """Whether a file of this type and size may be stored.

    Types in the contract: always. `DOCUMENTS`: up to `document_max_bytes` (None: always). Others: if small. The
    download enforces the limit for every file (WORKER_MAX_MEDIA_MB).
    """
    if mime in DOCUMENTS:
        return document_max_bytes is None or length <= document_max_bytes
    return mime != OTHER or length <= OTHER_MAX_BYTES

"""Validates a file's JSON: the part that becomes columns, and the part that the media job needs.

Trusts nothing: sizes, names and types are the sender's claims. Without an address and a key of the right length
there is no job. Hashes may be missing: the MAC still authenticates the file.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.ingest.rules.classify import Media
from worker.text import clean_file_name, clean_text

HASH_BYTES = 32
KEY_BYTES = 32
MAX_ADDRESS_CHARS = 2048  # directPaths have about 200
MAX_MIME_CHARS = 128
MAX_SIDE = 100_000  # pixels; more than any camera
MAX_DURATION_S = 7 * 86_400  # far longer than 25 MB can hold
MAX_LENGTH = 2**53  # the largest integer that survives JavaScript

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """A file's columns and its job's descriptor (None: it cannot be fetched)."""

    mime: str | None
    file_name: str | None
    width: int | None
    height: int | None
    duration_s: float | None
    descriptor: dict[str, Any] | None


def describe(media: Media, key: Json) -> Described:
    """Columns and descriptor of a file. `key`: the message's key, needed to request a re-upload."""
    body = media.body
    described: dict[str, Any] = {
        "mime": _mime(body.get("mimetype")),
        "width": _whole(body.get("width"), MAX_SIDE),
        "height": _whole(body.get("height"), MAX_SIDE),
        "duration_s": _duration(body.get("seconds")),
    }
    descriptor = _descriptor(media, key)
    return Described(
        **described,
        file_name=clean_file_name(body.get("fileName") or body.get("title")),
        descriptor=None if descriptor is None else {**descriptor, **described},
    )


def _descriptor(media: Media, key: Json) -> dict[str, Any] | None:
    media_key = _bytes(media.body.get("mediaKey"), KEY_BYTES)
    enc_sha256 = _bytes(media.body.get("fileEncSha256"), HASH_BYTES)
    sha256 = _bytes(media.body.get("fileSha256"), HASH_BYTES)
    direct_path = _address(media.body.get("directPath"))
    url = _address(media.body.get("url"))
    if media_key is None or (direct_path is None and url is None):
        return None
    length = _number(media.body.get("fileLength"))
    return {
        "media_type": media.media_type,
        "field": media.field,
        "media_key": base64.b64encode(media_key).decode(),
        "direct_path": direct_path,
        "url": url,
        "file_sha256": sha256.hex() if sha256 else None,
        "file_enc_sha256": enc_sha256.hex() if enc_sha256 else None,
        "file_length": int(length) if length is not None and 0 <= length <= MAX_LENGTH else None,
        "key": {name: key[name] for name in ("remoteJid", "id", "fromMe", "participant") if _plain(key.get(name))},
    }


def _plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ADDRESS_CHARS and clean_text(value) == value
    return isinstance(value, bool)


def _bytes(value: object, length: int) -> bytes | None:
    if not isinstance(value, str) or len(value) > 2 * length:
        return None
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if len(decoded) == length else None


def _address(value: object) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ADDRESS_CHARS:
        return None
    return value if value.isascii() and value.isprintable() else None


def _mime(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > MAX_MIME_CHARS or not (value.isascii() and value.isprintable()):
        return None
    return value.partition(";")[0].strip().lower() or None


def _number(value: object) -> float | None:
    """A protobuf JSON number: 64-bit ones are strings (docs/whatsapp.md, "Shapes")."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit():
        return float(int(value))
    if isinstance(value, int) and abs(value) <= MAX_LENGTH:
        return float(value)
    return value if isinstance(value, float) and math.isfinite(value) else None


def _whole(value: object, most: int) -> int | None:
    number = _number(value)
    return int(number) if number is not None and 0 < number <= most else None


def _duration(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= MAX_DURATION_S else None

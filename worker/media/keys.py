"""Derives the keys of a file from the media key of its message (docs/whatsapp.md, "Media")."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MEDIA_KEY_BYTES = 32
EXPANDED_BYTES = 112  # iv 16, cipher key 32, MAC key 32, and a key of 32 for thumbnails, which we do not use

# HKDF's info for each type of file. A sticker counts as an image, a round video as a video.
INFO = {
    "image": b"WhatsApp Image Keys",
    "video": b"WhatsApp Video Keys",
    "audio": b"WhatsApp Audio Keys",
    "document": b"WhatsApp Document Keys",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaKeys:
    """The three that a download needs. Their values stay out of `repr`."""

    iv: bytes = field(repr=False)
    cipher_key: bytes = field(repr=False)
    mac_key: bytes = field(repr=False)


def derive_keys(media_key: bytes, media_type: str) -> MediaKeys:
    """HKDF-SHA256 without a salt.

    Raises:
        ValueError: the key is not 32 bytes long, or the type is not in `INFO`.
    """
    if len(media_key) != MEDIA_KEY_BYTES:
        raise ValueError("a media key has 32 bytes")
    if media_type not in INFO:
        raise ValueError("no such type of media")
    expanded = HKDF(algorithm=SHA256(), length=EXPANDED_BYTES, salt=None, info=INFO[media_type]).derive(media_key)
    return MediaKeys(iv=expanded[:16], cipher_key=expanded[16:48], mac_key=expanded[48:80])

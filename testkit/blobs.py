"""Encrypts files as WhatsApp's clients do, without the worker's code: HKDF by hand, padding by hand."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

MEDIA_KEY = bytes(range(32))


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A file and its blob, with the fields of its message (hashes in hex)."""

    plain: bytes
    blob: bytes
    sha256: str
    enc_sha256: str


def expand(media_key: bytes, info: bytes, length: int = 112) -> bytes:
    """RFC 5869 with an empty salt."""
    secret = hmac.digest(bytes(32), media_key, "sha256")
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(secret, block + info + bytes([counter]), "sha256")
        out += block
        counter += 1
    return out[:length]


def seal(plain: bytes, media_type: str = "Image", media_key: bytes = MEDIA_KEY, padding: bytes | None = None) -> Sealed:
    """A file's blob. `padding` other than PKCS7's makes a blob that only a cheating sender would produce."""
    keys = expand(media_key, f"WhatsApp {media_type} Keys".encode())
    count = 16 - len(plain) % 16
    padded = plain + (bytes([count]) * count if padding is None else padding)
    encryptor = Cipher(algorithms.AES(keys[16:48]), modes.CBC(keys[:16])).encryptor()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    blob = ciphertext + hmac.digest(keys[48:80], keys[:16] + ciphertext, "sha256")[:10]
    return Sealed(
        plain=plain,
        blob=blob,
        sha256=hashlib.sha256(plain).hexdigest(),
        enc_sha256=hashlib.sha256(blob).hexdigest(),
    )

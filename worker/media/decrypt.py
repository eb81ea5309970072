"""Decrypts a file piece by piece and verifies it at the end.

Keeps one piece and a few bytes in memory, however large the file is. What `update` returns is not verified: do not use
it before `finish` has returned.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

from worker.errors import MediaCorrupt
from worker.media.keys import MediaKeys

MAC_BYTES = 10  # WhatsApp cuts HMAC-SHA256 to ten bytes
BLOCK_BYTES = 16
MAX_OVERHEAD_BYTES = MAC_BYTES + BLOCK_BYTES  # a blob may be this much longer than its file


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """What the message claims about its file; None: no claim. Hashes are hex.

    Only `enc_sha256` is checked. Senders give a wrong `length`, or another file's plaintext hash, for good files
    (docs/whatsapp.md, "Media"). `length` only gives a large file more time.
    """

    enc_sha256: str | None = None
    length: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Facts about a verified file, from its bytes."""

    sha256: str
    enc_sha256: str
    length: int


class BlobDecryptor:
    """Decrypts one blob: `update` with each piece, then `finish` once."""

    def __init__(self, keys: MediaKeys, claims: Claims) -> None:
        self._claims = claims
        self._decryptor = Cipher(AES256(keys.cipher_key), CBC(keys.iv)).decryptor()
        self._mac = hmac.new(keys.mac_key, keys.iv, hashlib.sha256)
        self._blob_hash = hashlib.sha256()
        self._plain_hash = hashlib.sha256()
        self._length = 0
        self._cipher_bytes = 0
        self._tail = b""  # the last bytes received, possibly the MAC
        self._last = b""  # the last decrypted block, possibly with padding

    def update(self, piece: bytes) -> bytes:
        """Decrypt a piece. Returns the plaintext that cannot be padding, not verified yet."""
        self._blob_hash.update(piece)
        held = self._tail + piece
        ciphertext, self._tail = held[:-MAC_BYTES], held[-MAC_BYTES:]
        self._mac.update(ciphertext)
        self._cipher_bytes += len(ciphertext)
        plain = self._last + self._decryptor.update(ciphertext)
        keep = len(plain) - BLOCK_BYTES if len(plain) > BLOCK_BYTES else 0
        self._last = plain[keep:]
        return self._emit(plain[:keep])

    def finish(self) -> tuple[bytes, Proof]:
        """Verify the blob. Returns the rest of the plaintext, and the facts about the file.

        Raises:
            MediaCorrupt: the MAC, the ciphertext's hash or the padding is wrong, or the blob is too short.
        """
        if len(self._tail) < MAC_BYTES or not self._cipher_bytes or self._cipher_bytes % BLOCK_BYTES:
            raise MediaCorrupt("not a whole number of cipher blocks and a MAC")
        enc_sha256 = self._blob_hash.hexdigest()
        if self._claims.enc_sha256 not in (None, enc_sha256):
            raise MediaCorrupt("the ciphertext's hash is not the one in the message")
        if not hmac.compare_digest(self._mac.digest()[:MAC_BYTES], self._tail):
            raise MediaCorrupt("the MAC is wrong")
        rest = self._emit(_unpadded(self._last))
        return rest, Proof(sha256=self._plain_hash.hexdigest(), enc_sha256=enc_sha256, length=self._length)

    def _emit(self, plain: bytes) -> bytes:
        self._plain_hash.update(plain)
        self._length += len(plain)
        return plain


def _unpadded(block: bytes) -> bytes:
    """Remove PKCS7 padding. The MAC was checked before, so this is no padding oracle."""
    count = block[-1]
    if not 1 <= count <= BLOCK_BYTES or block[-count:] != bytes([count]) * count:
        raise MediaCorrupt("the padding is wrong")
    return block[:-count]

"""Encrypts credentials and keys at rest (AES-256-GCM) if WORKER_STATE_KEY is set.

Each session has its own key, derived from WORKER_STATE_KEY (HKDF-SHA256), so one session's key opens no other's data.
Older values were encrypted with WORKER_STATE_KEY itself. They stay readable, and get the session key when they change.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from worker.errors import StateError

MARK = "enc:"  # Baileys stores JSON, which never starts like this
# First byte of a value: which key. Both formats are AES-256-GCM with the nonce in front.
WITH_MASTER_KEY = b"\x01"  # WORKER_STATE_KEY itself
WITH_SESSION_KEY = b"\x02"
NONCE_BYTES = 12
KEY_BYTES = 32
CREDENTIALS = "creds"  # type and name of the credentials; both are authenticated with the ciphertext


class StateCipher:
    """Encrypts and decrypts values at rest; without a key it passes them through."""

    def __init__(self, session: str, key: bytes | None, previous: bytes | None = None) -> None:
        self._session = session
        masters = [each for each in (key, previous) if each]
        self._cipher = AESGCM(_session_key(key, session)) if key else None
        self._readers = {
            WITH_MASTER_KEY: [AESGCM(each) for each in masters],
            WITH_SESSION_KEY: [AESGCM(_session_key(each, session)) for each in masters],
        }

    def close(self, type_: str, name: str, value: str) -> str:
        """The text to store for `value`."""
        if not self._cipher:
            return value
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, value.encode(), self._context(type_, name))
        return MARK + base64.b64encode(WITH_SESSION_KEY + nonce + sealed).decode()

    def open(self, type_: str, name: str, stored: str) -> str:
        """The plaintext of a stored value. Values stored before the key was set are returned unchanged.

        Raises:
            StateError: it is encrypted and the key is missing or wrong, or it was tampered with or torn.
        """
        if not stored.startswith(MARK):
            return stored
        if not self._cipher:
            raise StateError("WORKER_STATE_KEY: not set, but the stored credentials are encrypted; set their key")
        try:
            raw = base64.b64decode(stored[len(MARK) :], validate=True)
            readers = self._readers.get(raw[:1])
            if readers is None:
                raise StateError(f"the stored {type_} has an unknown format; use a newer wa-worker")
            nonce, sealed = raw[1 : 1 + NONCE_BYTES], raw[1 + NONCE_BYTES :]
        except (binascii.Error, ValueError):
            raise StateError(f"the stored {type_} is torn; restore it from a backup") from None
        for reader in readers:
            with suppress(InvalidTag, ValueError):
                return reader.decrypt(nonce, sealed, self._context(type_, name)).decode()
        raise StateError(
            "WORKER_STATE_KEY: does not fit the stored credentials, or they were tampered with; set the key they were "
            "encrypted with"
        )

    def _context(self, type_: str, name: str) -> bytes:
        return json.dumps([self._session, type_, name]).encode()


def _session_key(master: bytes, session: str) -> bytes:
    derivation = HKDF(SHA256(), length=KEY_BYTES, salt=None, info=f"wa-worker state {session}".encode())
    return derivation.derive(master)

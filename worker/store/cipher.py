"""Encrypts credentials and keys at rest with AES-256-GCM, if WORKER_STATE_KEY is set."""

from __future__ import annotations

import base64
import binascii
import json
import os
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker.errors import StateError

MARK = "enc:"  # what Baileys stores is JSON, which never begins like this
VERSION = b"\x01"  # AES-256-GCM, 12-byte nonce in front
NONCE_BYTES = 12
CREDENTIALS = "creds"  # type and name of the credentials, which are bound into the ciphertext


class StateCipher:
    """Encrypts and decrypts values at rest; without a key it passes them through."""

    def __init__(self, session: str, key: bytes | None, previous: bytes | None = None) -> None:
        self._session = session
        self._cipher = AESGCM(key) if key else None
        self._readers = [AESGCM(each) for each in (key, previous) if each]

    def close(self, type_: str, name: str, value: str) -> str:
        """The text to store for `value`."""
        if not self._cipher:
            return value
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, value.encode(), self._context(type_, name))
        return MARK + base64.b64encode(VERSION + nonce + sealed).decode()

    def open(self, type_: str, name: str, stored: str) -> str:
        """The value that was stored. One stored before the key was set is returned as it is.

        Raises:
            StateError: it is encrypted and the key is missing or wrong, or it was tampered with, or is torn.
        """
        if not stored.startswith(MARK):
            return stored
        if not self._cipher:
            raise StateError("WORKER_STATE_KEY: is not set, but the stored credentials are encrypted; set their key")
        try:
            raw = base64.b64decode(stored[len(MARK) :], validate=True)
            if raw[:1] != VERSION:
                raise StateError(f"the stored {type_} has an unknown format; use a newer wa-worker")
            nonce, sealed = raw[1 : 1 + NONCE_BYTES], raw[1 + NONCE_BYTES :]
        except (binascii.Error, ValueError):
            raise StateError(f"the stored {type_} is torn; restore it from a backup") from None
        for reader in self._readers:
            with suppress(InvalidTag, ValueError):
                return reader.decrypt(nonce, sealed, self._context(type_, name)).decode()
        raise StateError(
            "WORKER_STATE_KEY: does not fit the stored credentials, or they were tampered with; set their own key"
        )

    def _context(self, type_: str, name: str) -> bytes:
        return json.dumps([self._session, type_, name]).encode()

"""Credentials and keys: handed to the sidecar as they were stored, encrypted at rest if WORKER_STATE_KEY is set.

The strings are Baileys' own; nothing here looks into them beyond "is it whole". A read error is an error, and torn
state is `StateError`: neither is ever taken for "no credentials", which would silently make a new identity.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker.bridge.protocol import Known, Loaded, Nothing, StanzasKnown, StateGet, Values
from worker.errors import StateError
from worker.session.account import Account
from worker.session.database import DatabaseWatch
from worker.session.retry import until_answered

MARK = "enc:"  # what Baileys stores is JSON, which never begins like this
VERSION = b"\x01"  # AES-256-GCM, 12-byte nonce in front
NONCE_BYTES = 12
READ_PATIENCE_SECONDS = 15.0  # a failed read ends the socket, so a short outage is waited for
CREDENTIALS = "creds"

T = TypeVar("T")


class Seal:
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
        """What was stored. A value from before the key was set is taken as it is.

        Raises:
            StateError: it is encrypted and the key is missing or wrong, or it was tampered with, or is torn.
        """
        if not stored.startswith(MARK):
            return stored
        if not self._cipher:
            raise StateError(
                "WORKER_STATE_KEY: is not set, but the stored credentials are encrypted; set the key that they had"
            )
        try:
            raw = base64.b64decode(stored[len(MARK) :], validate=True)
            if raw[:1] != VERSION:
                raise StateError(
                    f"the stored {type_} has a form that this version does not know; use a newer wa-worker"
                )
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


class State:
    """Answers the sidecar's `state.load`, `state.get` and `stanzas.known`."""

    def __init__(self, account: Account, seal: Seal, watch: DatabaseWatch) -> None:
        self._account = account
        self._seal = seal
        self._watch = watch
        self.trouble: StateError | None = None

    async def credentials(self) -> str | None:
        """The stored credentials; None only if there really are none.

        Raises:
            StateError: they are there and cannot be read.
            StoreUnavailable: the database did not answer in time.
        """
        stored = await self._read(self._account.load_state)
        if stored.creds is None:
            if stored.has_keys:
                raise self._torn("there are keys but no credentials")
            return None
        creds = self._unsealed(CREDENTIALS, CREDENTIALS, stored.creds)
        try:
            whole = isinstance(json.loads(creds), dict)
        except ValueError:
            whole = False
        if not whole:
            raise self._torn("the credentials are no JSON object")
        return creds

    async def load(self, _: Nothing) -> Loaded:
        return Loaded(creds=await self.credentials())

    async def get(self, asked: StateGet) -> Values:
        """Some keys of one type; absent ones are left out. Raises as `credentials` does."""
        stored = await self._read(lambda: self._account.get_keys(asked.type, asked.ids))
        return Values(values={id_: self._unsealed(asked.type, id_, value) for id_, value in stored.items()})

    async def known(self, asked: StanzasKnown) -> Known:
        """Which ciphertexts were decrypted and committed before."""
        return Known(known=sorted(await self._read(lambda: self._account.known_stanzas(asked.hashes))))

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        return await until_answered(lambda: self._watch.observe("state", call()), READ_PATIENCE_SECONDS)

    def _unsealed(self, type_: str, name: str, stored: str) -> str:
        try:
            return self._seal.open(type_, name, stored)
        except StateError as trouble:
            self.trouble = trouble
            raise

    def _torn(self, how: str) -> StateError:
        self.trouble = StateError(
            f"the stored account state is torn: {how}; restore wa_sessions and wa_session_keys from a backup, "
            "or empty both (creds_json, keys) to link the phone anew"
        )
        return self.trouble

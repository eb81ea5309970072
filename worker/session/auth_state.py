"""Credentials and keys: reads them for the sidecar, decrypts them if they are encrypted, deletes them.

The values are Baileys' own; this module only checks that they are whole. A failed read is an error and torn state is
a `StateError`: treating either as "no credentials" would silently create a new identity. Commits write the state
(`worker.ingest.committer`). Source: docs/whatsapp.md, "Auth state".
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from loguru import logger

from worker.bridge.protocol import Known, Loaded, Nothing, StanzasKnown, StateGet, Values
from worker.errors import StateError
from worker.store.availability import DatabaseWatch
from worker.store.cipher import CREDENTIALS, StateCipher
from worker.store.retry import until_answered
from worker.store.session import SessionStore

READ_PATIENCE_SECONDS = 15.0  # a failed read ends the socket; this rides out a short outage
COMMIT_CATCH_UP_SECONDS = 15.0  # for a commit that waited through the outage; without it, its messages come again

T = TypeVar("T")


class AuthState:
    """Answers the sidecar's `state.load`, `state.get` and `stanzas.known`."""

    def __init__(self, store: SessionStore, cipher: StateCipher, watch: DatabaseWatch) -> None:
        self._store = store
        self._cipher = cipher
        self._watch = watch
        self.trouble: StateError | None = None

    @property
    def database_away(self) -> bool:
        """The database has not answered the last call."""
        return self._watch.away

    @property
    def away_reason(self) -> str:
        """Why the last failed call failed."""
        return self._watch.reason

    async def begin_epoch(self) -> int:
        """Begin the next connection's epoch. Retries until the database answers."""
        return await until_answered(lambda: self._watch.observe("state", self._store.begin_epoch()))

    async def wipe(self) -> None:
        """Delete credentials and keys. Retries until the database answers."""
        await until_answered(lambda: self._watch.observe("state", self._store.wipe_credentials()))

    async def wait_for_database(self) -> None:
        """Return once the database answers and a commit that waited for it had time to finish."""
        await until_answered(lambda: self._watch.observe("state", self._store.load_state()))
        logger.info("the database answers again")
        with anyio.move_on_after(COMMIT_CATCH_UP_SECONDS):
            await self._watch.back()
        self._watch.forget()

    async def credentials(self) -> str | None:
        """The stored credentials; None only if none exist.

        Raises:
            StateError: they exist but cannot be read.
            StoreUnavailable: the database did not answer in time.
        """
        stored = await self._read(self._store.load_state)
        if stored.creds is None:
            if stored.has_keys:
                raise self._torn("there are keys but no credentials")
            return None
        creds = self._decrypted(CREDENTIALS, CREDENTIALS, stored.creds)
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
        """Some keys of one type, without missing ones. Raises what `credentials` raises."""
        stored = await self._read(lambda: self._store.get_keys(asked.type, asked.ids))
        return Values(values={id_: self._decrypted(asked.type, id_, value) for id_, value in stored.items()})

    async def known(self, asked: StanzasKnown) -> Known:
        """Which of these ciphertexts were decrypted and committed before."""
        return Known(known=sorted(await self._read(lambda: self._store.known_stanzas(asked.hashes))))

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        return await until_answered(lambda: self._watch.observe("state", call()), READ_PATIENCE_SECONDS)

    def _decrypted(self, type_: str, name: str, stored: str) -> str:
        try:
            return self._cipher.open(type_, name, stored)
        except StateError as trouble:
            self.trouble = trouble
            raise

    def _torn(self, how: str) -> StateError:
        self.trouble = StateError(
            f"the stored account state is torn: {how}; restore wa_sessions and wa_session_keys from a backup, "
            "or empty both (creds_json, keys) to link the phone anew"
        )
        return self.trouble

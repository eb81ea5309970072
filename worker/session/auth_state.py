"""Credentials and keys: handed to the sidecar as they were stored, encrypted at rest if WORKER_STATE_KEY is set.

The strings are Baileys' own; nothing here looks into them beyond "is it whole". A read error is an error, and torn
state is `StateError`: neither is ever taken for "no credentials", which would silently make a new identity.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

from worker.bridge.protocol import Known, Loaded, Nothing, StanzasKnown, StateGet, Values
from worker.errors import StateError
from worker.store.availability import DatabaseWatch
from worker.store.cipher import CREDENTIALS, StateCipher
from worker.store.retry import until_answered
from worker.store.session import SessionStore

READ_PATIENCE_SECONDS = 15.0  # a failed read ends the socket, so a short outage is waited for

T = TypeVar("T")


class State:
    """Answers the sidecar's `state.load`, `state.get` and `stanzas.known`."""

    def __init__(self, store: SessionStore, seal: StateCipher, watch: DatabaseWatch) -> None:
        self._store = store
        self._seal = seal
        self._watch = watch
        self.trouble: StateError | None = None

    async def credentials(self) -> str | None:
        """The stored credentials; None only if there really are none.

        Raises:
            StateError: they are there and cannot be read.
            StoreUnavailable: the database did not answer in time.
        """
        stored = await self._read(self._store.load_state)
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
        stored = await self._read(lambda: self._store.get_keys(asked.type, asked.ids))
        return Values(values={id_: self._unsealed(asked.type, id_, value) for id_, value in stored.items()})

    async def known(self, asked: StanzasKnown) -> Known:
        """Which ciphertexts were decrypted and committed before."""
        return Known(known=sorted(await self._read(lambda: self._store.known_stanzas(asked.hashes))))

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

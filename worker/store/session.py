"""The store's calls, bound to one session and to the fence that we hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from worker.store import (
    AccountState,
    Audit,
    Batch,
    Committed,
    EncryptedEdit,
    Expired,
    ExpireMode,
    Flag,
    GroupChange,
    GroupsUpserted,
    OpenedEdit,
    Piece,
    Pieces,
    Pruned,
    Store,
    Suspect,
)
from worker.store.console import Deleted
from worker.store.retention import delete_unused_objects


class SessionStore:
    """The database calls of a leased session. Only adds session and fence; errors are the store's."""

    def __init__(self, store: Store, session: str, fence: int) -> None:
        self._store = store
        self.session = session
        self.fence = fence

    # The log

    async def begin_epoch(self) -> int:
        return await self._store.begin_epoch(self.session, self.fence)

    async def commit(self, batch: Batch) -> Committed:
        return await self._store.commit(self.session, batch)

    async def commit_part(self, part: Batch) -> Committed:
        return await self._store.commit_part(self.session, part)

    async def put_piece(self, piece: Piece) -> Committed:
        return await self._store.put_piece(self.session, piece)

    async def commit_pieces(self, pieces: Pieces) -> Committed:
        return await self._store.commit_pieces(self.session, pieces)

    async def cheapest_call(self) -> None:
        """Return if the database answers at all."""
        await self._store.schema_version()

    async def encrypted_edits(self, limit: int) -> list[EncryptedEdit]:
        return await self._store.encrypted_edits(self.session, limit)

    async def open_edits(self, opened: Sequence[OpenedEdit]) -> int:
        return await self._store.open_edits(self.session, self.fence, opened)

    async def get_identities(self, ids: Sequence[str]) -> dict[str, str]:
        return await self._store.get_identities(self.session, ids)

    # The account's state

    async def load_state(self) -> AccountState:
        return await self._store.load_state(self.session, self.fence)

    async def get_keys(self, type_: str, ids: Sequence[str]) -> dict[str, str]:
        return await self._store.get_keys(self.session, type_, ids)

    async def known_stanzas(self, hashes: Sequence[str]) -> set[str]:
        return await self._store.known_stanzas(self.session, hashes)

    async def note_death(self, digest: str, death: str, *, killed: bool) -> None:
        await self._store.note_death(self.session, self.fence, digest, death, killed=killed)

    async def list_suspects(self) -> list[Suspect]:
        return await self._store.list_suspects(self.session)

    async def wipe_credentials(self) -> int:
        return await self._store.wipe_credentials(self.session, self.fence)

    # The session's row, groups and flags

    async def set_session(self, patch: Mapping[str, Any], audits: Sequence[Audit] = ()) -> None:
        await self._store.set_session(self.session, self.fence, patch, audits)

    async def status(self) -> dict[str, Any]:
        return await self._store.status(self.session)

    async def upsert_groups(self, groups: Sequence[GroupChange], *, complete: bool) -> GroupsUpserted:
        return await self._store.upsert_groups(self.session, self.fence, groups, complete=complete)

    async def write_members(self, entries: Sequence[Mapping[str, Any]]) -> int:
        return await self._store.write_members(self.session, self.fence, entries)

    async def flag_handled(self, flag: Flag) -> None:
        await self._store.flag_handled(self.session, flag)

    async def request_handled(self, id_: int, result: str) -> None:
        await self._store.request_handled(self.session, id_, result)

    # Housekeeping

    async def mark_lost(self, older_than_seconds: float) -> int:
        return await self._store.mark_lost(self.session, older_than_seconds)

    async def prune(self, *, stanza_seconds: float, audit_seconds: float | None = None) -> Pruned:
        return await self._store.prune(self.session, stanza_seconds=stanza_seconds, audit_seconds=audit_seconds)

    async def prune_changes(self, older_than_seconds: float) -> bool:
        return await self._store.prune_changes(self.session, older_than_seconds)

    async def expire(self, mode: ExpireMode, limit: int) -> Expired:
        return await self._store.expire(self.session, mode, limit)

    async def database_time(self) -> datetime:
        return (await self._store.console.whoami()).now

    async def delete_messages(self, before: datetime, limit: int) -> Deleted:
        """Delete up to `limit` messages sent before `before`, and refused stanzas that are as old."""
        return await self._store.console.delete_messages(self.session, before, limit)

    async def delete_unused_objects(self) -> int:
        return await delete_unused_objects(self._store)

    async def due_refused(self, limit: int) -> list[int]:
        return await self._store.due_refused(self.session, limit)

    async def retry_refused(self, id_: int) -> str | None:
        return await self._store.retry_refused(self.session, id_)

    async def analyze(self) -> None:
        await self._store.analyze()

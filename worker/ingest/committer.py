"""Writes the sidecar's batches to the database, in order, each exactly once.

To the sidecar, an answer means "durable". While the database does not answer, the committer resends the same batch
under the same number, for as long as it takes (`batch_writer`). Why: docs/architecture.md, "The frame gate".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from loguru import logger

from worker.bridge.protocol import Commit, Committed
from worker.errors import SequenceGap, StoreRefused
from worker.ingest.batch_writer import BatchWriter
from worker.ingest.encrypted_edits import EncryptedEdits
from worker.ingest.lids import LidCache
from worker.ingest.parts import plain
from worker.ingest.rules.batch import ingest
from worker.ingest.rules.normalise import Rules
from worker.store import Batch, KeyChange
from worker.store import Committed as Stored
from worker.store.availability import DatabaseWatch
from worker.store.cipher import CREDENTIALS, StateCipher
from worker.store.session import SessionStore


class OnError(Protocol):
    """Records an error for people, in the contract's form."""

    def __call__(self, code: str, msg: str, **ctx: Any) -> None: ...


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Callbacks for commits.

    Attributes:
        error: a batch or a message was refused, or a batch is missing.
        media: the database made at least one media job.
        committed: called for each stored batch with the sidecar's commit, the batch, the answer, and the seconds taken.
    """

    error: OnError
    media: Callable[[], None] = _ignore
    committed: Sequence[Callable[[Commit, Batch, Stored, float], None]] = ()


class Committer:
    """Answers the sidecar's `commit`.

    `rules` is called per batch and returns the current groups and settings. Set `own` to the account's addresses
    (LID, number) once they are known.
    """

    def __init__(
        self,
        store: SessionStore,
        cipher: StateCipher,
        watch: DatabaseWatch,
        rules: Callable[[], Rules],
        listeners: Listeners,
    ) -> None:
        self._store = store
        self._cipher = cipher
        self._writer = BatchWriter(store, watch)
        self._rules = rules
        self._listeners = listeners
        self._encrypted_edits = EncryptedEdits(store)
        self._lids = LidCache(store, watch)
        self._clock = WhatsAppClock()
        self.own: tuple[str | None, str | None] = (None, None)

    async def commit(self, commit: Commit) -> Committed:
        """Make one batch durable.

        Raises:
            StaleFence: another worker holds the lease.
            StaleEpoch: the batch belongs to an older connection.
            SequenceGap: the batch before this one was never committed.
            StoreRefused: the database refuses something other than a message or a change.
        """
        started = time.monotonic()
        batch = await self._batch(commit)
        try:
            stored = await self._writer.write(batch)
        except StoreRefused as refused:
            self._listeners.error(
                "BATCH_REFUSED", f"the database refuses a batch for good (code {refused.code})", seq=commit.seq
            )
            raise
        except SequenceGap:
            logger.error("batch {} of epoch {} has no predecessor; the connection ends", commit.seq, commit.epoch)
            self._listeners.error(
                "SEQUENCE_GAP", "a batch came without its predecessor", epoch=commit.epoch, seq=commit.seq
            )
            raise
        self._report(batch, stored)
        for tell in self._listeners.committed:
            tell(commit, batch, stored, time.monotonic() - started)
        if stored.jobs:
            self._listeners.media()
        if stored.sealed:
            await self._encrypted_edits.open()
        return Committed(seq=commit.seq)

    async def _batch(self, commit: Commit) -> Batch:
        rules = self._rules()
        rules = replace(rules, own=self.own, lids=await self._lids.of(commit, rules.monitored))
        ingested = ingest(commit, rules, self._clock.now_ms(commit))
        self._lids.learn(ingested["identities"])
        return Batch(
            fence=self._store.fence,
            epoch=commit.epoch,
            seq=commit.seq,
            creds=None if commit.creds is None else self._cipher.close(CREDENTIALS, CREDENTIALS, commit.creds),
            keys=[
                KeyChange(type=type_, id=id_, value=None if value is None else self._cipher.close(type_, id_, value))
                for type_, values in (commit.keys or {}).items()
                for id_, value in values.items()
            ],
            **ingested,
        )

    def _report(self, batch: Batch, stored: Stored) -> None:
        for message in batch.messages:
            logger.bind(wa_msg_id=plain(message.get("wa_msg_id")), group=plain(message.get("chat_id"))).debug(
                "committed: {}", message.get("kind")
            )
        if batch.refused and not stored.duplicate:
            self._listeners.error(
                "MESSAGE_UNDECRYPTED",
                f"{len(batch.refused)} messages were not decrypted, because they ended the sidecar more than once; "
                "each sender is asked for another copy",
            )
        listed = stored.refused + stored.waiting
        if listed:
            self._listeners.error("MESSAGE_REFUSED", f"{listed} messages or changes are listed in wa_refused_stanzas")


class WhatsAppClock:
    """WhatsApp's time, by the clock offset of the last stanza that had one. Events have none.

    Kept relative to the uptime, as in the sidecar: after somebody corrects our clock, the old offset must not apply to
    the corrected time.
    """

    def __init__(self) -> None:
        self._started_ms: float | None = None  # when this machine started, by WhatsApp's clock

    def now_ms(self, commit: Commit) -> float:
        """Milliseconds since 1970. Uses our own clock until a stanza has an offset."""
        now_ms, uptime_ms = time.time() * 1000, uptime() * 1000
        offsets = [
            stanza.server_time_offset_ms for stanza in commit.stanzas if stanza.server_time_offset_ms is not None
        ]
        if offsets:
            self._started_ms = now_ms + offsets[-1] - uptime_ms
        return now_ms if self._started_ms is None else self._started_ms + uptime_ms


def uptime() -> float:
    """Seconds since this machine started, including sleep (CLOCK_MONOTONIC on macOS)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

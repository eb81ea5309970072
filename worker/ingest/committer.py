"""Batches of the sidecar's ordered log on their way into the database: in order, exactly once, whatever it takes.

The answer to the sidecar means "durable". A database that does not answer is asked again under the same number for as
long as it takes; a message that it will not take is kept whole as refused, and everything else goes on.
"""

from __future__ import annotations

import base64
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from loguru import logger

from worker.bridge.protocol import Commit, Committed, ResendEvent, SystemEvent
from worker.errors import SequenceGap, StoreRefused
from worker.ingest.encrypted_edits import SealedEdits
from worker.ingest.rules.batch import ingest
from worker.ingest.rules.context import numbers_in
from worker.ingest.rules.jids import PHONE_SERVER, parse_jid
from worker.ingest.rules.live import LiveWindow
from worker.ingest.rules.normalise import Rules
from worker.session.auth_state import CREDENTIALS
from worker.session.flags import Monitored
from worker.session.report import Report
from worker.store import Batch, KeyChange, Refused
from worker.store import Committed as Stored
from worker.store.availability import DatabaseWatch
from worker.store.cipher import StateCipher
from worker.store.retry import until_answered
from worker.store.session import Account

IDENTITIES_CACHED = 20_000  # about 3 MB; a large account has a few thousand people


@dataclass
class Tally:
    """What the commits did so far, for /metrics and the tests."""

    batches: int = 0
    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    discarded: int = 0


class Committer:
    """Answers the sidecar's `commit`."""

    def __init__(
        self,
        account: Account,
        seal: StateCipher,
        monitored: Monitored,
        window: LiveWindow,
        watch: DatabaseWatch,
        report: Report,
        on_media: Callable[[], None] = lambda: None,
        blank_revoked: bool = False,
        on_commit: Callable[[Commit, Batch, Stored, float], None] = lambda commit, batch, done, seconds: None,
    ) -> None:
        self._account = account
        self._seal = seal
        self._monitored = monitored
        self._window = window
        self._watch = watch
        self._report = report
        self._on_media = on_media
        self._on_commit = on_commit
        self._blank_revoked = blank_revoked
        self._sealed = SealedEdits(account)
        self._lids = Lids(account, watch)
        self.own: tuple[str | None, str | None] = (None, None)
        self._whatsapp_start_ms: float | None = None
        self.tally = Tally()

    async def commit(self, commit: Commit) -> Committed:
        """Make one batch durable.

        Raises:
            StaleFence: another worker holds the lease.
            StaleEpoch: the batch belongs to an older connection.
        """
        started = time.monotonic()
        batch = await self._batch(commit)
        for variant in without_offenders(batch):
            try:
                done = await self._write(variant)
            except StoreRefused as refused:
                logger.warning(
                    "the database refuses a batch of {} messages (code {})", len(batch.messages), refused.code
                )
                last = refused
                continue
            except SequenceGap:
                logger.error("batch {} of epoch {} has no predecessor; ending the connection", commit.seq, commit.epoch)
                self._report.error(
                    "SEQUENCE_GAP", "a batch came without its predecessor", epoch=commit.epoch, seq=commit.seq
                )
                raise
            self._count(variant, done)
            self._on_commit(commit, variant, done, time.monotonic() - started)
            if done.jobs:
                self._on_media()
            if done.sealed:
                await self._sealed.open()
            return Committed(seq=commit.seq)
        self._report.error("BATCH_REFUSED", f"the database refuses a batch for good (code {last.code})", seq=commit.seq)
        raise last

    async def _write(self, batch: Batch) -> Stored:
        return await until_answered(lambda: self._watch.observe("commit", self._account.commit(batch)))

    async def _batch(self, commit: Commit) -> Batch:
        rules = Rules(
            monitored=self._monitored.groups,
            window=self._window,
            own=self.own,
            lids=await self._lids.of(commit, self._monitored),
            blank_revoked=self._blank_revoked,
        )
        made = ingest(commit, rules, self._now_ms(commit))
        self._lids.learn(made["identities"])
        return Batch(
            fence=self._account.fence,
            epoch=commit.epoch,
            seq=commit.seq,
            creds=None if commit.creds is None else self._seal.close(CREDENTIALS, CREDENTIALS, commit.creds),
            keys=[
                KeyChange(type=type_, id=id_, value=None if value is None else self._seal.close(type_, id_, value))
                for type_, values in (commit.keys or {}).items()
                for id_, value in values.items()
            ],
            **made,
        )

    def _now_ms(self, commit: Commit) -> float:
        """WhatsApp's clock as far as a stanza has told it: events bring none, and ours may be off by minutes.

        Held by the uptime, as in the sidecar: a clock that is set right would be corrected twice.
        """
        now_ms, uptime_ms = time.time() * 1000, uptime() * 1000
        told = [each.server_time_offset_ms for each in commit.stanzas if each.server_time_offset_ms is not None]
        if told:
            self._whatsapp_start_ms = now_ms + told[-1] - uptime_ms
        return now_ms if self._whatsapp_start_ms is None else self._whatsapp_start_ms + uptime_ms

    def _count(self, batch: Batch, done: Stored) -> None:
        tally = self.tally
        tally.batches += 1
        tally.stored += done.stored
        tally.duplicates += done.duplicates
        refused = done.refused + len(batch.refused)
        tally.refused += refused
        tally.discarded += sum(batch.discards.values())
        for message in batch.messages:
            logger.bind(wa_msg_id=_plain(message.get("wa_msg_id")), group=_plain(message.get("chat_id"))).debug(
                "committed: {}", message.get("kind")
            )
        if refused:
            self._report.error("MESSAGE_REFUSED", f"{refused} messages were kept as refused (wa_refused_stanzas)")


def uptime() -> float:
    """Seconds of a clock that nobody sets and that counts a suspended machine's sleep: CLOCK_MONOTONIC on macOS."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lids:
    """Phone number → LID of people who write under their number, asked for once each."""

    def __init__(self, account: Account, watch: DatabaseWatch) -> None:
        self._account = account
        self._watch = watch
        self._known: OrderedDict[str, str | None] = OrderedDict()

    async def of(self, commit: Commit, monitored: Monitored) -> Mapping[str, str]:
        """What is known of the numbers in this batch."""
        numbers = set(_numbers(commit, monitored))
        missing = sorted(numbers - self._known.keys())
        if missing:
            # The batch waits for this as it waits for its own commit: an outage that begins here counts as well.
            found = await until_answered(lambda: self._watch.observe("commit", self._account.get_identities(missing)))
            for number in missing:
                self._remember(number, found.get(number))
        return {number: lid for number in numbers if (lid := self._known.get(number))}

    def learn(self, pairs: Iterable[tuple[str, str]]) -> None:
        for lid, number in pairs:
            self._remember(number, lid)

    def _remember(self, number: str, lid: str | None) -> None:
        self._known[number] = lid
        self._known.move_to_end(number)
        while len(self._known) > IDENTITIES_CACHED:
            self._known.popitem(last=False)


def _numbers(commit: Commit, monitored: Monitored) -> Iterator[str]:
    told = [(stanza.key or {}, stanza.content) for stanza in commit.stanzas]
    told += [(event.key, event.content) for event in commit.events if isinstance(event, ResendEvent)]
    told += [(event.key, None) for event in commit.events if isinstance(event, SystemEvent)]
    for key, content in told:
        if key.get("remoteJid") not in monitored:
            continue
        jid = None if key.get("participantAlt") else parse_jid(key.get("participant"))
        if jid and jid.server == PHONE_SERVER:
            yield str(jid)
        yield from numbers_in(content or {})


def without_offenders(batch: Batch) -> Iterator[Batch]:
    """The batch as it is; without the messages that cannot be written; without one each; without any; nor any changes.

    A batch that the database refuses was not stored, so a variant may go under the same number. The one offender is
    found by leaving out each in turn: a batch has 500 messages at most, and this happens when somebody means it.
    """
    yield batch
    if not batch.messages and not batch.changes:
        return
    suspects = [n for n, message in enumerate(batch.messages) if unwritable(message)]
    if suspects:
        yield _without(batch, suspects)
    if len(batch.messages) > 1:
        for n in range(len(batch.messages)):
            yield _without(batch, sorted({*suspects, n}))
    nothing = _without(batch, range(len(batch.messages)))
    yield nothing
    if batch.changes:
        yield replace(nothing, changes=(), discards={**batch.discards, "change_refused": len(batch.changes)})


def unwritable(message: Mapping[str, Any]) -> bool:
    """Whether Postgres or the client cannot take this as JSON."""
    try:
        return b"\\u0000" in json.dumps(message, ensure_ascii=False).encode()
    except (ValueError, RecursionError, TypeError):
        return True


def _without(batch: Batch, numbers: Any) -> Batch:
    out = set(numbers)
    kept = [message for n, message in enumerate(batch.messages) if n not in out]
    return replace(batch, messages=kept, refused=[_refused(batch.messages[n]) for n in sorted(out)])


def _refused(message: Mapping[str, Any]) -> Refused:
    try:
        body = json.dumps(message)
    except (ValueError, RecursionError, TypeError):
        body = repr(message)[:100_000]
    return Refused(
        code="refused",
        reason="the database would not take it",
        chat_id=_plain(message.get("chat_id")),
        sender=_plain(message.get("sender")),
        wa_msg_id=_plain(message.get("wa_msg_id")),
        body=base64.b64encode(body.encode("utf-8", "surrogatepass")).decode(),
        encoding="base64",
    )


def _plain(value: object) -> str | None:
    return value.encode("ascii", "ignore").decode().replace("\0", "")[:256] if isinstance(value, str) else None

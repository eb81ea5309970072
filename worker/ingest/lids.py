"""Maps phone numbers to LIDs: reads each number from the database once, then caches it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from worker.bridge.protocol import Commit, ResendEvent, SystemEvent
from worker.ingest.rules.context import numbers_in
from worker.ingest.rules.jids import MOVED, PHONE_SERVER, parse_jid
from worker.store.availability import DatabaseWatch
from worker.store.retry import until_answered
from worker.store.session import SessionStore

NUMBERS_PER_CALL = 40  # under 2 KB, which every gateway should let through
NUMBERS_CACHED = 20_000  # about 3 MB; a large account knows a few thousand people


class LidCache:
    """Phone number → LID, for people whom a message names only by number."""

    def __init__(self, store: SessionStore, watch: DatabaseWatch) -> None:
        self._store = store
        self._watch = watch
        self._known: OrderedDict[str, str | None] = OrderedDict()

    async def of(self, commit: Commit, monitored: Collection[str]) -> Mapping[str, str]:
        """The known LIDs of the numbers in this batch; `MOVED` for a number that changed hands."""
        numbers = set(_numbers(commit, monitored))
        missing = sorted(numbers - self._known.keys())
        if missing:
            # The batch waits for this answer too, so it counts as "commit": an outage may start here.
            for start in range(0, len(missing), NUMBERS_PER_CALL):
                await self._ask(missing[start : start + NUMBERS_PER_CALL])
        return {number: lid for number in numbers if (lid := self.known(number)) is not None}

    async def _ask(self, numbers: Sequence[str]) -> None:
        found = await until_answered(lambda: self._watch.observe("commit", self._store.get_identities(numbers)))
        for number in numbers:
            self._remember(number, found.get(number))

    def known(self, number: str) -> str | None:
        """The cached LID of a number; None if it has none or is not cached."""
        return self._known.get(number)

    def learn(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Cache pairs of LID and number. A number with two LIDs has changed hands."""
        for lid, number in pairs:
            former = self.known(number)
            self._remember(number, lid if former in (None, lid) else MOVED)

    def _remember(self, number: str, lid: str | None) -> None:
        self._known[number] = lid
        self._known.move_to_end(number)
        while len(self._known) > NUMBERS_CACHED:
            self._known.popitem(last=False)


def _numbers(commit: Commit, monitored: Collection[str]) -> Iterator[str]:
    """Every phone number in the batch whose LID the rules need; monitored groups only."""
    messages = [(stanza.key or {}, stanza.content) for stanza in commit.stanzas]
    messages += [(event.key, event.content) for event in commit.events if isinstance(event, ResendEvent)]
    messages += [(event.key, None) for event in commit.events if isinstance(event, SystemEvent)]
    for key, content in messages:
        if key.get("remoteJid") not in monitored:
            continue
        jid = None if key.get("participantAlt") else parse_jid(key.get("participant"))
        if jid and jid.server == PHONE_SERVER:
            yield str(jid)
        yield from numbers_in(content or {})

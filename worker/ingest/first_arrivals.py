"""When messages of monitored groups first arrived, until they are durable: over connections and sidecars.

A message that arrived live may wait for the backlog or the database, and come again at the next login. Its age is that
of its first arrival (docs/architecture.md, "Live only"). Kept in memory only, and bounded.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Container, Mapping

from worker.bridge.protocol import Arrived, Commit
from worker.ingest.rules.live import clock_at
from worker.store import Batch, Committed

ARRIVALS_MAX = 20_000  # what one connection can bring while the database is away; then the oldest go


class FirstArrivals:
    """Identity of a stanza → WhatsApp's time in seconds when it first arrived."""

    def __init__(self, monitored: Container[str]) -> None:
        self._monitored = monitored
        self._times: OrderedDict[bytes, float] = OrderedDict()

    def note(self, told: Arrived) -> None:
        """Stanzas have arrived and are not durable yet."""
        for stanza in told.stanzas:
            at = clock_at(stanza.at_ms, told.server_time_offset_ms)
            if at is not None and stanza.attrs.get("from") in self._monitored:
                self._times.setdefault(identity(stanza.attrs), at)
        while len(self._times) > ARRIVALS_MAX:
            self._times.popitem(last=False)

    def of(self, attrs: Mapping[str, str]) -> float | None:
        """When the stanza with these attributes first arrived, if that is known."""
        return self._times.get(identity(attrs))

    def committed(self, commit: Commit, batch: Batch, done: Committed, seconds: float) -> None:
        """A listener of the committer: a copy of what is durable is recognised by its hash."""
        for stanza in commit.stanzas:
            self._times.pop(identity(stanza.attrs), None)

    def __len__(self) -> int:
        return len(self._times)


def identity(attrs: Mapping[str, str]) -> bytes:
    """By which a stanza is known again; senders choose ids, so author and time belong to it."""
    parts = (attrs.get(name, "") for name in ("from", "participant", "id", "t"))
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()

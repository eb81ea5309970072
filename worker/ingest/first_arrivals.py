"""When messages of monitored groups first arrived, kept until they are durable, across connections and sidecars.

A message that arrived live may wait for the backlog or the database and arrive again at the next login. Its age is
judged by its first arrival (docs/architecture.md, "Live only"). In memory only, and bounded.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Container, Mapping

from worker.bridge.protocol import Arrived, Commit
from worker.ingest.rules.live import clock_at
from worker.store import Batch, Committed

ARRIVALS_MAX = 20_000  # as many as one connection can bring during an outage; drops the oldest beyond that


class FirstArrivals:
    """Maps a stanza's identity to the time of its first arrival, in seconds by WhatsApp's clock."""

    def __init__(self, monitored: Container[str]) -> None:
        self._monitored = monitored
        self._times: OrderedDict[bytes, float] = OrderedDict()

    def note(self, told: Arrived) -> None:
        """Note stanzas that arrived and are not durable yet."""
        for stanza in told.stanzas:
            at = clock_at(stanza.at_ms, told.server_time_offset_ms)
            if at is not None and stanza.attrs.get("from") in self._monitored:
                self._times.setdefault(identity(stanza.attrs), at)
        while len(self._times) > ARRIVALS_MAX:
            self._times.popitem(last=False)

    def of(self, attrs: Mapping[str, str]) -> float | None:
        """When the stanza with these attributes first arrived; None if unknown."""
        return self._times.get(identity(attrs))

    def committed(self, commit: Commit, batch: Batch, done: Committed, seconds: float) -> None:
        """A listener of the committer: forget durable stanzas, whose copies are recognised by hash."""
        for stanza in commit.stanzas:
            self._times.pop(identity(stanza.attrs), None)

    def __len__(self) -> int:
        return len(self._times)


def identity(attrs: Mapping[str, str]) -> bytes:
    """Identifies a stanza across redeliveries. Includes author and time, because senders choose ids."""
    parts = (attrs.get(name, "") for name in ("from", "participant", "id", "t"))
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()

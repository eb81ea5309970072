"""The counters of /metrics, and the fixed lists of their label values.

A value outside its list counts as `other`, so that labels never contain ids, names or content. `worker.web.readings`
renders the page and adds the session's name, which the operator chose.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from worker.bridge.protocol import Commit
from worker.session.closes import METRIC_LABELS
from worker.store import Batch, Committed

if TYPE_CHECKING:
    from worker.media.jobs import MediaCounts
    from worker.store.console import Figures

OUTCOMES = ("stored", "upgraded", "duplicate", "skipped", "refused")
REASONS = ("unmonitored", "not_a_group", "too_old", "waited_too_long", "malformed", "protocol", "key_share", "history")
CODES = (*METRIC_LABELS, "none")
ABANDONED = ("expired", "too_large", "refused", "corrupt", "failed")
OTHER = "other"
COMMIT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # 0.05 s when idle; calls time out after 10 s
BATCH_STANZAS = (0, 1, 2, 5, 10, 25, 50, 100, 250, 500)  # 500 is the sidecar's own bound
LAG_EVERY_SECONDS = 0.5
LAG_REMEMBERED = 120  # measurements, one minute; a scrape reads the worst

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more line per counter, of no use here


class Metrics:
    """The counters of one session in this process, and the latest values that /metrics shows beside them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._messages = self._counter("wa_messages", "Messages of monitored groups, by outcome", "outcome", OUTCOMES)
        self._discards = self._counter("wa_discarded", "Stanzas left out on purpose, by reason", "reason", REASONS)
        self._undecryptable = Counter(
            "wa_undecryptable", "Messages of monitored groups that could not be read", registry=self.registry
        )
        self._disconnects = self._counter("wa_disconnects", "Ends of connections, by WhatsApp's code", "code", CODES)
        self._reconnects = self._counter(
            "wa_reconnects", "Attempts to reconnect, by the code that made them necessary", "code", CODES
        )
        self._commit_seconds = Histogram(
            "wa_commit_duration_seconds",
            "From a batch's arrival until it was durable, retries included",
            buckets=COMMIT_SECONDS,
            registry=self.registry,
        )
        self._commit_stanzas = Histogram(
            "wa_commit_stanzas", "Stanzas in a batch", buckets=BATCH_STANZAS, registry=self.registry
        )
        self.away: Callable[[], bool] = lambda: False
        self.media: MediaCounts | None = None  # for the current lease
        self.database: Figures | None = None  # read at `database_at`
        self.database_at: float | None = None
        self.answered: tuple[int, int] | None = None  # (epoch, seq) of the last batch confirmed to the sidecar
        self.unbacked: int = 0
        self._last_code = "none"
        self._last_at: dict[str, float] = {}

    def _counter(self, name: str, documentation: str, label: str, values: Iterable[str]) -> Counter:
        """A counter with every label value present at 0 from the first scrape."""
        counter = Counter(name, documentation, [label], registry=self.registry)
        for value in (*values, OTHER):
            counter.labels(value)
        return counter

    # Events

    def committed(self, commit: Commit, batch: Batch, done: Committed, seconds: float) -> None:
        """Count a durable batch, just before the sidecar gets the answer."""
        self.answered = (commit.epoch, commit.seq)
        self._commit_seconds.observe(seconds)
        self._commit_stanzas.observe(len(commit.stanzas))
        counts = (done.stored, done.upgraded, done.duplicates, done.skipped, done.refused + done.waiting)
        for outcome, count in zip(OUTCOMES, counts, strict=True):
            self._messages.labels(outcome).inc(count)
        self._undecryptable.inc(sum(message.get("kind") == "undecryptable" for message in batch.messages))
        for reason, count in batch.discards.items():
            self._discards.labels(known(reason, REASONS)).inc(count)

    def audited(self, event: str, payload: Mapping[str, Any]) -> None:
        """Count an audit entry; only those about connections have a counter."""
        if event == "disconnect":
            code = payload.get("code")
            self._last_code = "none" if code is None else known(str(code), CODES)
            self._disconnects.labels(self._last_code).inc()
        elif event == "reconnect":
            self._reconnects.labels(self._last_code).inc()

    # Values read on request

    def last_at(self, name: str, figures: Mapping[str, Any]) -> float | None:
        """The figure `name` (milliseconds) in Unix seconds. Kept across connections."""
        at_ms = figures.get(name)
        if at_ms:
            self._last_at[name] = max(self._last_at.get(name, 0.0), float(at_ms) / 1000)
        return self._last_at.get(name)


class Lag:
    """Measures the lag of this process's event loop."""

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=LAG_REMEMBERED)

    @property
    def seconds(self) -> float:
        """The worst lag of the last minute."""
        return max(self._lags, default=0.0)

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.monotonic() + LAG_EVERY_SECONDS
            await anyio.sleep(LAG_EVERY_SECONDS)
            self._lags.append(max(0.0, time.monotonic() - due))


def known(value: str, values: Iterable[str]) -> str:
    """`value` if it is one of `values`, else `other`: keeps labels bounded."""
    return value if value in values else OTHER


def summed(counts: Mapping[str, float], values: Iterable[str]) -> dict[str, float]:
    """One count per value of `values`, and the rest as `other`."""
    found = dict.fromkeys((*values, OTHER), 0.0)
    for name, count in counts.items():
        found[known(name, values)] += count
    return found

"""Every figure of /metrics: its name, its meaning, and where it comes from.

Labels come from the fixed lists below; what is not in them counts as `other`. No ids, no names, no content. Two kinds
of source: events, which are counted as they happen, and everything else, which is read when somebody asks.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import anyio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.bridge.protocol import Commit
from worker.store import SCHEMA_VERSION, Batch, Committed

if TYPE_CHECKING:
    from worker.web.health import Health

OUTCOMES = ("stored", "upgraded", "duplicate", "skipped", "refused")
REASONS = ("unmonitored", "not_a_group", "too_old", "malformed", "protocol", "key_share", "history")
CODES = ("401", "402", "403", "405", "406", "408", "409", "411", "428", "440", "500", "503", "515", "none")
ABANDONED = ("expired", "too_large", "refused", "corrupt", "failed")
OTHER = "other"
COMMIT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # 0.05 s at rest; 10 s is the call's time-out
BATCH_STANZAS = (0, 1, 2, 5, 10, 25, 50, 100, 250, 500)  # 500 is the sidecar's own bound
LAG_EVERY_SECONDS = 0.5
LAG_REMEMBERED = 120  # looks: the worst of the last minute, so that a scrape misses none

disable_created_metrics()  # type: ignore[no-untyped-call]  # a line more for each, that nobody asks for

Value = float | Mapping[str, float] | None
Kind = Literal["counter", "gauge"]


@dataclass(frozen=True)
class Reading:
    """A figure that is read when asked for. `label`: the value is a mapping from its values; None: not known now."""

    kind: Kind
    name: str
    documentation: str
    read: Callable[[Health], Value]
    label: str | None = None


def _figure(name: str, scale: float = 1.0) -> Callable[[Health], Value]:
    """One of the sidecar's own figures, as of its last answer; gone with the sidecar."""

    def read(health: Health) -> Value:
        found = health.figures.get(name) if health.sidecar_pid is not None else None
        return None if found is None else float(found) * scale

    return read


def _database(name: str) -> Callable[[Health], Value]:
    """One of the figures that the database was asked for lately."""

    def read(health: Health) -> Value:
        figures = health.metrics.database
        found = None if figures is None else getattr(figures, name)
        return None if found is None else float(found)

    return read


def _jobs(health: Health) -> Value:
    figures = health.metrics.database
    return figures and {"running": figures.running, "due": figures.due, "waiting": figures.waiting}


def _oldest(health: Health) -> Value:
    figures = health.metrics.database
    return None if figures is None else figures.oldest_seconds or 0.0


def _abandoned(health: Health) -> Value:
    figures = health.metrics.database
    return None if figures is None else summed(figures.abandoned, ABANDONED)


def _media(health: Health) -> Value:
    counts = health.metrics.media
    return counts and {
        "downloaded": counts.stored - counts.reused,
        "deduplicated": counts.reused,
        "forwarded": counts.forwarded,
        "postponed": counts.postponed,
        "abandoned": counts.abandoned,
    }


def _lag(health: Health) -> Value:
    lags = {"worker": health.metrics.lag_seconds}
    sidecar = _figure("loop_lag_ms", 0.001)(health)
    return lags if sidecar is None else {**lags, "sidecar": float(sidecar)}  # type: ignore[arg-type]


def _figures_age(health: Health) -> Value:
    at = health.metrics.database_at
    return None if at is None else time.monotonic() - at


READINGS: tuple[Reading, ...] = (
    Reading("gauge", "wa_connected", "1 while WhatsApp is connected", lambda h: _is(h.view, "connected")),
    Reading("gauge", "wa_lease_held", "1 while this worker serves the session", lambda h: float(h.lease_ok)),
    Reading("gauge", "wa_database_away", "1 while the database does not answer", lambda h: float(h.metrics.away())),
    Reading("gauge", "wa_held_frames", "Frames that wait for a commit before they may leave", _figure("held_frames")),
    Reading(
        "gauge",
        "wa_longest_hold_seconds",
        "The longest that a frame was held on this connection",
        _figure("longest_hold_ms", 0.001),
    ),
    Reading("gauge", "wa_log_items", "Items of the ordered log that are not committed", _figure("log_items")),
    Reading("gauge", "wa_log_bytes", "Bytes of the ordered log that are not committed", _figure("log_bytes")),
    Reading(
        "gauge",
        "wa_acknowledged_uncommitted_batches",
        "Most batches ever that the sidecar was told are durable and that the database, asked for itself, did not have",
        lambda h: float(h.metrics.unbacked),
    ),
    Reading(
        "counter", "wa_stanzas", "Message stanzas that came in, of this connection, every chat", _figure("stanzas_in")
    ),
    Reading("counter", "wa_redeliveries", "Stanzas of this connection that were known already", _figure("swallowed")),
    Reading(
        "gauge",
        "wa_last_stanza_timestamp_seconds",
        "When the last message stanza came in, any chat; time() minus this is how long it is quiet",
        lambda h: h.metrics.last_stanza_at(h.figures),
    ),
    Reading(
        "counter",
        "wa_sidecar_restarts",
        "Ends of the sidecar that were not asked for",
        lambda h: float(h.sidecar_restarts),
    ),
    Reading("gauge", "wa_sidecar_resident_bytes", "Memory of the sidecar", _figure("rss_bytes")),
    Reading(
        "gauge",
        "wa_event_loop_lag_seconds",
        "How late the event loop is: the worker's worst of a minute, the sidecar's mean of ten seconds",
        _lag,
        label="process",
    ),
    Reading("gauge", "wa_media_jobs", "Files to be fetched, by state", _jobs, label="state"),
    Reading("gauge", "wa_media_oldest_job_seconds", "Age of the oldest of them, 0 without any", _oldest),
    Reading("gauge", "wa_media_abandoned", "Files that were given up and could be retried", _abandoned, label="status"),
    Reading("counter", "wa_media_files", "What became of attempts at files", _media, label="result"),
    Reading(
        "counter",
        "wa_media_bytes",
        "Bytes of files stored",
        lambda h: None if h.metrics.media is None else float(h.metrics.media.bytes),
    ),
    Reading("gauge", "wa_pending_stubs", "Messages that could not be read yet", _database("pending_stubs")),
    Reading("gauge", "wa_refused_stanzas", "Messages that the database would not take", _database("refused")),
    Reading("gauge", "wa_held_changes", "Edits and the like whose message has not come", _database("held_changes")),
    Reading("gauge", "wa_database_figures_age_seconds", "Age of the figures that the database gave", _figures_age),
)


class Metrics:
    """The figures of one process; `render` is the page."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
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
        self.media: Any = None  # worker.media.jobs.MediaCounts of the present tenure
        self.database: Any = None  # worker.store.console.Figures, as of `database_at`
        self.database_at: float | None = None
        self.answered: tuple[int, int] | None = None
        self.unbacked: int = 0
        self._last_code = "none"
        self._last_stanza_at: float | None = None
        self._lags: deque[float] = deque(maxlen=LAG_REMEMBERED)

    def _counter(self, name: str, documentation: str, label: str, values: Iterable[str]) -> Counter:
        """A counter whose every label value is there from the first scrape, at 0."""
        counter = Counter(name, documentation, [label], registry=self.registry)
        for value in (*values, OTHER):
            counter.labels(value)
        return counter

    # Events

    def committed(self, commit: Commit, batch: Batch, done: Committed, seconds: float) -> None:
        """A batch is durable, and the sidecar is about to be told so."""
        self.answered = (commit.epoch, commit.seq)
        self._commit_seconds.observe(seconds)
        self._commit_stanzas.observe(len(commit.stanzas))
        counts = (done.stored, done.upgraded, done.duplicates, done.skipped, done.refused + len(batch.refused))
        for outcome, count in zip(OUTCOMES, counts, strict=True):
            self._messages.labels(outcome).inc(count)
        self._undecryptable.inc(sum(message.get("kind") == "undecryptable" for message in batch.messages))
        for reason, count in batch.discards.items():
            self._discards.labels(known(reason, REASONS)).inc(count)

    def audited(self, event: str, payload: Mapping[str, Any]) -> None:
        """An audit entry was written; those about connections count here."""
        if event == "disconnect":
            code = payload.get("code")
            self._last_code = "none" if code is None else known(str(code), CODES)
            self._disconnects.labels(self._last_code).inc()
        elif event == "reconnect":
            self._reconnects.labels(self._last_code).inc()

    # What is read

    @property
    def lag_seconds(self) -> float:
        return max(self._lags, default=0.0)

    async def watch_loop(self) -> None:
        """Note for ever how late this event loop is."""
        while True:
            due = time.monotonic() + LAG_EVERY_SECONDS
            await anyio.sleep(LAG_EVERY_SECONDS)
            self._lags.append(max(0.0, time.monotonic() - due))

    def last_stanza_at(self, figures: Mapping[str, Any]) -> float | None:
        """Unix seconds; outlives the connection that it came on."""
        told = figures.get("last_stanza_at_ms")
        if told:
            self._last_stanza_at = max(self._last_stanza_at or 0.0, float(told) / 1000)
        return self._last_stanza_at

    def render(self, health: Health) -> bytes:
        """The page, in Prometheus' text format."""
        whole = CollectorRegistry()
        whole.register(_Whole(self.registry, health))
        return generate_latest(whole)


class _Whole(Collector):
    """The counted figures, and those that are read now."""

    def __init__(self, counted: CollectorRegistry, health: Health) -> None:
        self._counted = counted
        self._health = health

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._counted.collect()
        yield _about()
        for reading in READINGS:
            value = reading.read(self._health)
            if value is not None:
                yield _family(reading, value)


def _family(reading: Reading, value: float | Mapping[str, float]) -> Metric:
    family = CounterMetricFamily if reading.kind == "counter" else GaugeMetricFamily
    if reading.label is None:
        assert not isinstance(value, Mapping)
        return family(reading.name, reading.documentation, value=value)
    assert isinstance(value, Mapping)
    metric = family(reading.name, reading.documentation, labels=[reading.label])
    for label, amount in value.items():
        metric.add_metric([label], amount)
    return metric


def _about() -> Metric:
    """Which program this is."""
    about = GaugeMetricFamily(
        "wa_worker_info", "Version of the program and of its schema", labels=["version", "schema"]
    )
    about.add_metric([importlib.metadata.version("wa-worker"), SCHEMA_VERSION], 1)
    return about


def _is(view: Any, status: str) -> float:
    return float(view is not None and view.status == status)


def known(value: str, values: Iterable[str]) -> str:
    """`value` if it is one of `values`: labels stay bounded, whatever comes."""
    return value if value in values else OTHER


def summed(counts: Mapping[str, float], values: Iterable[str]) -> dict[str, float]:
    """One count for each of `values`, and the rest as `other`."""
    found = dict.fromkeys((*values, OTHER), 0.0)
    for name, count in counts.items():
        found[known(name, values)] += count
    return found

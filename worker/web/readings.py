"""Renders /metrics: the counters of `worker.web.metrics`, and figures that are read on request.

Series of a session have its name in the label `session`. They disappear when the session leaves.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.session.report import View
from worker.store import SCHEMA_VERSION
from worker.web.health import Health, SessionHealth
from worker.web.metrics import ABANDONED, summed

Value = float | Mapping[str, float] | None
Kind = Literal["counter", "gauge"]


@dataclass(frozen=True)
class Reading:
    """One figure of a session. With a `label`, `read` returns {label value: amount}; None: unknown at the moment."""

    kind: Kind
    name: str
    documentation: str
    read: Callable[[SessionHealth], Value]
    label: str | None = None


def _figure(name: str, scale: float = 1.0) -> Callable[[SessionHealth], float | None]:
    """A figure from the sidecar's last pong; unknown while no sidecar runs."""

    def read(health: SessionHealth) -> float | None:
        found = health.figures.get(name) if health.sidecar_pid is not None else None
        return None if found is None else float(found) * scale

    return read


def _database(name: str) -> Callable[[SessionHealth], Value]:
    """A figure from the database's last figures."""

    def read(health: SessionHealth) -> Value:
        figures = health.metrics.database
        found = None if figures is None else getattr(figures, name)
        return None if found is None else float(found)

    return read


def _jobs(health: SessionHealth) -> Value:
    figures = health.metrics.database
    if figures is None:
        return None
    return {"running": figures.running, "due": figures.due, "waiting": figures.waiting}


def _oldest(health: SessionHealth) -> Value:
    figures = health.metrics.database
    return None if figures is None else figures.oldest_seconds or 0.0


def _abandoned(health: SessionHealth) -> Value:
    figures = health.metrics.database
    return None if figures is None else summed(figures.abandoned, ABANDONED)


def _media(health: SessionHealth) -> Value:
    counts = health.metrics.media
    if counts is None:
        return None
    return {
        "downloaded": counts.stored - counts.reused,
        "deduplicated": counts.reused,
        "forwarded": counts.forwarded,
        "postponed": counts.postponed,
        "abandoned": counts.abandoned,
    }


def _suspected(health: SessionHealth) -> Value:
    deafness = health.deafness
    return {"anything": float(deafness.anything.suspected), "groups": float(deafness.groups.suspected)}


def _figures_age(health: SessionHealth) -> Value:
    at = health.metrics.database_at
    return None if at is None else time.monotonic() - at


READINGS: tuple[Reading, ...] = (
    Reading("gauge", "wa_connected", "1 while WhatsApp is connected", lambda h: _is(h.view, "connected")),
    Reading(
        "gauge",
        "wa_logged_out",
        "1 after a requested logout, until a new code is requested",
        lambda h: float(h.view is not None and h.view.state == "logged_out"),
    ),
    Reading("gauge", "wa_lease_held", "1 while this worker serves the session", lambda h: float(h.lease_ok)),
    Reading("gauge", "wa_database_away", "1 while the database does not answer", lambda h: float(h.metrics.away())),
    Reading("gauge", "wa_held_frames", "Frames held back until a commit", _figure("held_frames")),
    Reading(
        "gauge",
        "wa_longest_hold_seconds",
        "Longest time that a frame was held on this connection",
        _figure("longest_hold_ms", 0.001),
    ),
    Reading("gauge", "wa_log_items", "Uncommitted items of the ordered log", _figure("log_items")),
    Reading("gauge", "wa_log_bytes", "Uncommitted bytes of the ordered log", _figure("log_bytes")),
    Reading(
        "gauge",
        "wa_acknowledged_uncommitted_batches",
        "Highest number of batches ever confirmed to the sidecar but missing from the database",
        lambda h: float(h.metrics.unbacked),
    ),
    Reading("counter", "wa_stanzas", "Message stanzas received on this connection, all chats", _figure("stanzas_in")),
    Reading("counter", "wa_redeliveries", "Stanzas on this connection that were already known", _figure("swallowed")),
    Reading(
        "gauge",
        "wa_last_stanza_timestamp_seconds",
        "When WhatsApp last sent anything but an answer; time() minus this is the length of the silence",
        lambda h: h.metrics.last_at("last_stanza_at_ms", h.figures),
    ),
    Reading(
        "gauge",
        "wa_last_group_stanza_timestamp_seconds",
        "When something from a group last arrived, monitored or not",
        lambda h: h.metrics.last_at("last_group_stanza_at_ms", h.figures),
    ),
    Reading(
        "gauge",
        "wa_suspected_deaf",
        "1 while a silence is unusually long, even after a reconnect",
        _suspected,
        label="of",
    ),
    Reading(
        "counter",
        "wa_sidecar_restarts",
        "Unexpected ends of the sidecar",
        lambda h: float(h.sidecar_restarts),
    ),
    Reading("gauge", "wa_sidecar_resident_bytes", "Memory of the sidecar", _figure("rss_bytes")),
    Reading("gauge", "wa_media_jobs", "Files to fetch, by state", _jobs, label="state"),
    Reading("gauge", "wa_media_oldest_job_seconds", "Age of the oldest media job, 0 without any", _oldest),
    Reading(
        "gauge",
        "wa_media_abandoned",
        "Abandoned downloads that `wa-worker media retry` could try again",
        _abandoned,
        label="status",
    ),
    Reading("counter", "wa_media_files", "Media attempts, by result", _media, label="result"),
    Reading(
        "counter",
        "wa_media_bytes",
        "Bytes of files stored",
        lambda h: None if h.metrics.media is None else float(h.metrics.media.bytes),
    ),
    Reading("gauge", "wa_pending_stubs", "Messages that could not be decrypted yet", _database("pending_stubs")),
    Reading("gauge", "wa_refused_stanzas", "Messages and changes listed as not stored", _database("refused")),
    Reading("gauge", "wa_undecrypted_stanzas", "Refused stanzas that were never decrypted", _database("undecrypted")),
    Reading("gauge", "wa_held_changes", "Changes whose message has not arrived", _database("held_changes")),
    Reading("gauge", "wa_database_figures_age_seconds", "Age of the figures from the database", _figures_age),
)


PROCESS = CollectorRegistry()
ProcessCollector(registry=PROCESS)


def render(health: Health) -> bytes:
    """The page in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Page(health))
    return generate_latest(registry)


class _Page(Collector):
    """The process, then the counters of its sessions, then the readings."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from PROCESS.collect()
        yield _about()
        yield _lag(self._health)
        yield from _host(self._health)
        families: dict[str, Metric] = {}
        for session, health in sorted(self._health.sessions.items()):
            for metric in _of_session(health):
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {"session": session, **sample.labels}, sample.value)
        yield from families.values()


def _of_session(health: SessionHealth) -> Iterator[Metric]:
    """All metrics of one session, without the `session` label."""
    yield from health.metrics.registry.collect()
    for reading in READINGS:
        value = reading.read(health)
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
    """The versions of program and schema."""
    about = GaugeMetricFamily(
        "wa_worker_info", "Version of the program and of its schema", labels=["version", "schema"]
    )
    about.add_metric([importlib.metadata.version("wa-worker"), SCHEMA_VERSION], 1)
    return about


def _host(health: Health) -> Iterator[Metric]:
    """Metrics of a host."""
    if health.named is not None:
        return
    yield GaugeMetricFamily("wa_host_capacity", "How many sessions this host serves at most", value=health.capacity)
    yield GaugeMetricFamily("wa_host_sessions", "Sessions that this host holds", value=len(health.sessions))
    stopped = GaugeMetricFamily(
        "wa_session_stopped_timestamp_seconds",
        "When this host gave a session back because it is no longer wanted; shown for an hour",
        labels=["session"],
    )
    for session, at in sorted(health.stopped.items()):
        stopped.add_metric([session], at)
    yield stopped


def _lag(health: Health) -> Metric:
    """Lag of the worker's event loop, which all sessions share, and of each sidecar's."""
    metric = GaugeMetricFamily(
        "wa_event_loop_lag_seconds",
        "Event loop lag: the worker's worst of a minute, a sidecar's mean of ten seconds",
    )
    metric.add_sample(metric.name, {"process": "worker"}, health.lag.seconds)
    for session, one in sorted(health.sessions.items()):
        lag = _figure("loop_lag_ms", 0.001)(one)
        if lag is not None:
            metric.add_sample(metric.name, {"process": "sidecar", "session": session}, lag)
    return metric


def _is(view: View | None, status: str) -> float:
    return float(view is not None and view.status == status)

"""The state behind /readyz and /metrics. Each part of the worker writes its own fields."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio

from worker.session.deafness import DeafnessDetector
from worker.session.report import View
from worker.web.metrics import Lag, Metrics

STOPPED_SHOWN_SECONDS = 3600.0  # long enough for any scraper
REFRESHED_AT_ONCE = 5  # per scrape; with 50 sessions and a scrape every 15 s, figures are up to 150 s old
KNOWINGLY_IDLE = ("idle", "logged_out")  # no phone is linked, by choice: not a fault

# URLs, IP addresses, host:port, and paths. Not `docs/page.md`, `and/or` or `HTTP/1.1`.
_PLACE = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s,;()]*[^\s,;:().]"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|\b(?=[\d.-]*[a-z])[\w.-]{1,64}:\d+\b"
    r"|(?<![\w/.])/(?=[\w.])[^\s,;:()]*",
    re.IGNORECASE,
)


@dataclass
class SessionHealth:
    """One session in this process. Written by its supervisor."""

    lease: str = "not held yet"
    lease_ok: bool = False
    sidecar_pid: int | None = None
    sidecar_restarts: int = 0
    view: View | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    deafness: DeafnessDetector = field(default_factory=DeafnessDetector)
    refresh: Callable[[], Coroutine[Any, Any, None]] | None = None  # re-reads the database's figures
    refreshed_at: float = float("-inf")  # last call of `refresh`, answered or not (monotonic)

    def describe(self) -> dict[str, Any]:
        """The session's part of /readyz. Ready: messages are received and stored, or no phone is linked by choice."""
        reasons: list[str] = []
        if self.metrics.away():
            reasons.append("Supabase: the database does not answer")
        if not self.lease_ok:
            reasons.append(f"lease: {self.lease}")
        if self.view and self.view.status != "connected" and self.view.state not in KNOWINGLY_IDLE:
            reasons.append(f"not connected: {self.view.say}")
        elif not self.view:
            reasons.append("not connected yet")
        if self.view and self.sidecar_pid is None:
            reasons.append("the sidecar is not running")
        state = (
            {"status": self.view.status, "state": self.view.state, "say": without_addresses(self.view.say)}
            if self.view
            else None
        )
        return {
            "ok": not reasons,
            "reasons": [without_addresses(reason) for reason in reasons],
            "warnings": self.deafness.warnings,
            "session": state,
            "sidecar": {"pid": self.sidecar_pid, "restarts": self.sidecar_restarts},
        }


def without_addresses(text: str) -> str:
    """`text` with `…` instead of each address and path."""
    return _PLACE.sub("…", text)


@dataclass
class Health:
    """The process and its sessions. `named`: the session of `run` or `up`; None: the process claims its sessions.

    A process with a named session is ready if that session is. A host is ready if it could serve sessions: trouble with
    one account would be the same on another host, so an orchestrator should not react to it.
    """

    named: str | None = "default"
    capacity: int = 0  # of a host
    supabase: str = "not reached yet"
    supabase_ok: bool = False
    away: Callable[[], bool] = lambda: False  # True while the poll gets no answer
    bucket_trouble: str | None = None
    lag: Lag = field(default_factory=Lag)
    sessions: dict[str, SessionHealth] = field(default_factory=dict)
    _stopped: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.named is not None:
            self.sessions[self.named] = SessionHealth()

    @property
    def session(self) -> SessionHealth:
        """The health of the named session."""
        assert self.named is not None
        return self.sessions[self.named]

    def joins(self, session: str) -> SessionHealth:
        """A session was claimed."""
        self._stopped.pop(session, None)
        self.sessions[session] = health = SessionHealth()
        return health

    def leaves(self, session: str, *, unwanted: bool) -> None:
        """A session was given back."""
        del self.sessions[session]
        if unwanted:
            self._stopped[session] = time.time()

    @property
    def stopped(self) -> dict[str, float]:
        """Sessions given back recently because they are no longer wanted, and when (Unix seconds)."""
        latest = sorted(self._stopped.items(), key=lambda item: item[1])[-max(self.capacity, 1) :]
        self._stopped = {name: at for name, at in latest if at > time.time() - STOPPED_SHOWN_SECONDS}
        return self._stopped

    async def refresh(self) -> None:
        """Re-read the database's figures of the sessions whose figures are oldest."""
        able = ((one, one.refresh) for one in self.sessions.values() if one.refresh is not None)
        oldest = sorted(able, key=lambda found: found[0].refreshed_at)
        async with anyio.create_task_group() as tasks:
            for one, refresh in oldest[:REFRESHED_AT_ONCE]:
                one.refreshed_at = time.monotonic()
                tasks.start_soon(refresh)

    def describe(self) -> dict[str, Any]:
        """The document of /readyz. The port may be public, so addresses and paths appear only in the log."""
        reasons: list[str] = []
        if not self.supabase_ok:
            reasons.append(f"Supabase: {self.supabase}")
        elif self.named is None and self.away():
            reasons.append("Supabase: the database does not answer")
        if self.bucket_trouble:
            reasons.append(f"bucket: {self.bucket_trouble}")
        document: dict[str, Any] = {"supabase": without_addresses(self.supabase)}
        if self.named is None:
            document["capacity"] = self.capacity
            document["sessions"] = {name: one.describe() for name, one in sorted(self.sessions.items())}
        else:
            own = self.session.describe()
            reasons += own["reasons"]
            document = {**own, **document}
        return {**document, "ok": not reasons, "reasons": [without_addresses(reason) for reason in reasons]}

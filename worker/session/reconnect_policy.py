"""What the end of a connection leads to: from a close, a stall or an outage to the next plan, shown to whoever looks.

`closes.decide` says what a close means; here it becomes a plan, with the counts that keep every loop slow. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import assert_never

from worker.bridge.protocol import CloseInfo
from worker.errors import SidecarGone, WorkerError
from worker.session.backoff import next_delay
from worker.session.closes import Close, Decision, FetchVersion, Halt, Idle, Reconnect, ReconnectNow, Relogin, decide
from worker.session.report import Report, View
from worker.session.version import VersionPolicy
from worker.session.watchdog import HELD_SECONDS, SETTLED_SECONDS, STALLS_BEFORE_EXIT, STALLS_BEFORE_RESTART
from worker.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Go:
    """Connect, after `delay` seconds."""

    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Stay:
    """Stay down until asked, or for `seconds`."""

    view: View
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class AwaitDatabase:
    """Stay down until the database answers."""


@dataclass(frozen=True, kw_only=True)
class Forget:
    """The link is gone for good: wipe the credentials, then connect for a new QR code after `delay` seconds."""

    delay: float = 0.0


Plan = Go | Stay | AwaitDatabase | Forget


class Stuck(WorkerError):
    """Neither a new socket nor a new sidecar helped; only a new worker is left (exit code 5)."""


@dataclass
class RetryState:
    """What must outlive a sidecar's process."""

    plan: Plan = field(default_factory=Go)
    attempts: dict[str, int] = field(default_factory=dict)
    immediate: int = 0  # restarts that WhatsApp asked for, since a connection held
    relogins: int = 0  # accounts forgotten, since a connection opened
    stalls: int = 0
    linked: bool = False  # a phone lists this device, as far as we know


class ReconnectPolicy:
    """Of one account, over all its connections."""

    def __init__(
        self,
        *,
        settings: Settings,
        report: Report,
        version: VersionPolicy,
        standing: RetryState,
        clock: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._report = report
        self._version = version
        self._clock = clock
        self._draw = draw
        self.standing = standing
        self.opened_at: float | None = None

    def note_open(self) -> None:
        """A connection is open."""
        self.opened_at = self._clock()
        self.standing.relogins = 0
        self.standing.linked = True
        self.standing.attempts.pop("version", None)
        self._version.worked()

    def note_end(self) -> None:
        """It is no longer. What held for a while starts the counts anew."""
        if self.opened_at is None:
            return
        held = self._clock() - self.opened_at
        if held >= HELD_SECONDS:
            self.standing.attempts.clear()
            self.standing.immediate = 0
        if held >= SETTLED_SECONDS:
            self.standing.stalls = 0
        self.opened_at = None

    def note_gone(self) -> None:
        """The sidecar ended, and the connection with it."""
        if self.opened_at is not None:
            self._report.audit("disconnect", code=None, reason="the sidecar ended")
        self.note_end()

    def after_close(self, info: CloseInfo) -> Plan:
        """The plan after WhatsApp, or the network, ended the connection."""
        self.note_end()
        self._report.audit("disconnect", code=info.code, reason=info.message[:300], phase=info.phase)
        close = Close(code=info.code, message=info.message, phase=info.phase, data=info.data)
        return self.after(decide(close, self.standing.immediate), code=info.code)

    def after(self, decision: Decision, code: int | None = None) -> Plan:
        """The plan for a decision."""
        match decision:
            case ReconnectNow(say=say):
                self.standing.immediate += 1
                self._report.show(View(status="connecting", state="connecting", say=say))
                self._report.audit("reconnect", attempt=0, delay=0.0)
                return Go()
            case Reconnect(say=say, counter=counter, alert=alert):
                if alert:
                    self._report.error("CONNECTION_REFUSED", say, status=code)
                return Go(delay=self._back_off(say, counter))
            case FetchVersion(say=say):
                self._version.outdated()
                return Go(delay=self._back_off(say, "version"))
            case Relogin(say=say) if self.standing.relogins:
                self._report.error("CONNECTION_REFUSED", say, status=code)
                return Forget(delay=self._back_off(say, "relogin"))
            case Relogin(say=say):
                self.standing.relogins += 1
                self._report.show(View(status="disconnected", state="unlinked", say=say))
                return Forget()
            case Idle(say=say):
                again = self._settings.worker_qr_again_s
                return Stay(
                    view=View(status="disconnected", state="idle", say=say), seconds=float(again) if again else None
                )
            case Halt(say=say, seconds=seconds):
                self._report.error("NEEDS_A_PERSON", say, status=code)
                at = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
                view = View(status="disconnected", state="needs_you", say=say, next_attempt_at=at)
                return Stay(view=view, seconds=seconds)
            case unknown:
                assert_never(unknown)

    def database_gone(self) -> Plan:
        """The plan while the database is away."""
        say = "The database does not answer. Disconnected from WhatsApp, which keeps the messages until it does."
        self._report.show(View(status="disconnected", state="database_away", say=say))
        return AwaitDatabase()

    def stalled(self, reason: str) -> Plan:
        """The plan after a watchdog's verdict: socket, then sidecar, then worker.

        Raises:
            SidecarGone: a new sidecar is needed.
            Stuck: a new worker is needed.
        """
        self.standing.stalls += 1
        self._report.error("STALLED", reason, stalls=self.standing.stalls)
        self._report.audit("disconnect", code=None, reason=reason)
        if self.standing.stalls >= STALLS_BEFORE_EXIT:
            raise Stuck(f"the connection keeps stalling: {reason}")
        plan = Go(delay=self._back_off(f"The connection stalled ({reason}); trying again.", "network"))
        if self.standing.stalls >= STALLS_BEFORE_RESTART:
            self.standing.plan = plan
            raise SidecarGone(f"stalled again: {reason}")
        return plan

    def _back_off(self, say: str, counter: str) -> float:
        """Seconds until the next attempt of this kind, shown and counted."""
        attempt = self.standing.attempts.get(counter, 0)
        self.standing.attempts[counter] = attempt + 1
        base, cap = self._settings.worker_backoff_base_ms / 1000, self._settings.worker_backoff_max_ms / 1000
        delay = next_delay(attempt, self._draw(), base, cap)
        at = datetime.now(UTC) + timedelta(seconds=delay)
        self._report.show(View(status="disconnected", state="reconnecting", say=say, next_attempt_at=at))
        self._report.audit("reconnect", attempt=attempt + 1, delay=round(delay, 3))
        return delay

"""Decides what follows a close, a stall or an outage. No I/O.

`closes.decide` says what a close means. This module turns that into a plan: counters slow down repeated attempts,
and the report shows what happens next.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from worker.bridge.protocol import CloseInfo
from worker.errors import SidecarGone, Stuck
from worker.session.backoff import JITTER_MAX_SECONDS, next_delay
from worker.session.closes import (
    BAN_SECONDS_MAX,
    Close,
    Decision,
    FetchVersion,
    Halt,
    Idle,
    Reconnect,
    ReconnectNow,
    Relogin,
    decide,
)
from worker.session.report import Report, View
from worker.session.version import VersionPolicy
from worker.session.watchdog import HELD_SECONDS, SETTLED_SECONDS, STALLS_BEFORE_EXIT, STALLS_BEFORE_RESTART
from worker.settings import Settings

LOGGED_OUT = "Logged out as asked. Ask for a refresh (`wa-worker link --refresh`) to link a phone again."
BACKLOGS_BEFORE_STAYING = 3  # reconnects in a row because an announced backlog did not come


@dataclass(frozen=True, kw_only=True)
class Connect:
    """Connect, after `delay` seconds."""

    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StayDown:
    """Stay down until asked, or for `seconds`."""

    view: View
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class AwaitDatabase:
    """Stay down until the database answers."""


@dataclass(frozen=True, kw_only=True)
class Relink:
    """The phone unlinked us: delete the credentials, then connect for a new QR code after `delay` seconds."""

    delay: float = 0.0


Plan = Connect | StayDown | AwaitDatabase | Relink


@dataclass
class RetryState:
    """The plan and the counters. They outlive a sidecar.

    Attributes:
        attempts: attempts so far, per kind of backoff.
        immediate: restarts at WhatsApp's request since a connection last stayed open for HELD_SECONDS.
        relogins: accounts forgotten since a connection last opened.
        stalls: stalls since a connection last stayed open for SETTLED_SECONDS.
        backlogs: announced backlogs that did not come since one came, or a connection stayed open for SETTLED_SECONDS.
        linked: as far as we know, a phone lists this device.
    """

    plan: Plan = field(default_factory=Connect)
    attempts: dict[str, int] = field(default_factory=dict)
    immediate: int = 0
    relogins: int = 0
    stalls: int = 0
    backlogs: int = 0
    linked: bool = False


class ReconnectPolicy:
    """The reconnect policy of one account, across its connections."""

    def __init__(
        self,
        *,
        settings: Settings,
        report: Report,
        version: VersionPolicy,
        retry: RetryState,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = lambda: random.uniform(0, JITTER_MAX_SECONDS),  # noqa: S311 - no secret
    ) -> None:
        self._settings = settings
        self._report = report
        self._version = version
        self.clock = clock
        self._draw = draw
        self.retry = retry
        self.opened_at: float | None = None

    def note_open(self) -> None:
        """A connection is open."""
        self.opened_at = self.clock()
        self.retry.relogins = 0
        self.retry.linked = True
        self.retry.attempts.pop("version", None)
        self._version.worked()

    def note_end(self) -> None:
        """The connection closed. After HELD_SECONDS open, reset the counters; after SETTLED_SECONDS, the stalls too."""
        if self.opened_at is None:
            return
        held = self.clock() - self.opened_at
        if held >= HELD_SECONDS:
            self.retry.attempts.clear()
            self.retry.immediate = 0
        if held >= SETTLED_SECONDS:
            self.retry.stalls = self.retry.backlogs = 0
        self.opened_at = None

    def claims(self) -> dict[str, str | None]:
        """The claimed version, its source, and when it was fetched."""
        return self._version.claim.facts()

    def doubt(self) -> str | None:
        """A warning for whoever scans a code, if the version may be too old to link a phone; else None."""
        return self._version.doubt()

    @property
    def open_seconds(self) -> float | None:
        """Seconds that the current connection has been open; None if none is."""
        return None if self.opened_at is None else self.clock() - self.opened_at

    @property
    def linked(self) -> bool:
        """As far as we know, a phone lists this device."""
        return self.retry.linked

    def unlinked(self) -> None:
        """The credentials were deleted."""
        self.retry.linked = False

    def reset_backoff(self) -> None:
        """A person made a request: start the next attempts with short pauses again."""
        self.retry.attempts.clear()

    def logged_out(self) -> None:
        """Logged out on request: another account may follow."""
        self.reset_backoff()
        self._version.forget()

    def note_gone(self) -> None:
        """The sidecar ended, and its connection with it."""
        if self.opened_at is not None:
            self._report.audit("disconnect", code=None, reason="the sidecar ended")
        self.note_end()

    def after_close(self, info: CloseInfo, instead: Halt | None = None) -> Plan:
        """The plan after WhatsApp or the network closed the connection. `instead` replaces an automatic retry."""
        self.note_end()
        self._report.audit("disconnect", code=info.code, reason=info.message[:300], phase=info.phase)
        close = Close(code=info.code, message=info.message, phase=info.phase, data=info.data)
        decision = decide(close, self.retry.immediate)
        return self.after(decision if isinstance(decision, Halt) else instead or decision, code=info.code)

    def after(self, decision: Decision, code: int | None = None) -> Plan:
        """The plan for a decision."""
        match decision:
            case ReconnectNow(say=say):
                self.retry.immediate += 1
                self._report.show(View(status="connecting", state="connecting", say=say))
                self._report.audit("reconnect", attempt=0, delay=0.0)
                return Connect()
            case Reconnect(say=say, counter=counter, alert=alert):
                if alert:
                    self._report.error("CONNECTION_REFUSED", say, status=code)
                return Connect(delay=self._back_off(say, counter))
            case FetchVersion(say=say):
                self._version.outdated()
                return Connect(delay=self._back_off(say, "version"))
            case Relogin(say=say) if self.retry.relogins:
                self._report.error("CONNECTION_REFUSED", say, status=code)
                return Relink(delay=self._back_off(say, "relogin"))
            case Relogin(say=say):
                self.retry.relogins += 1
                self._report.show(View(status="disconnected", state="unlinked", say=say))
                return Relink()
            case Idle(say=say):
                say = " ".join(filter(None, (say, self.doubt())))
                again = self._settings.worker_qr_again_s
                return StayDown(
                    view=View(status="disconnected", state="idle", say=say), seconds=float(again) if again else None
                )
            case Halt(say=say, seconds=seconds):
                self._report.error("NEEDS_A_PERSON", say, status=code)
                at = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
                view = View(status="disconnected", state="needs_you", say=say, next_attempt_at=at)
                return StayDown(view=view, seconds=seconds)
            case unknown:
                assert_never(unknown)

    def database_gone(self, reason: str) -> Plan:
        """The plan while the database is away. `reason`: why the last call failed."""
        why = f" ({reason})" if reason else ""
        say = f"The database does not answer{why}. Disconnected from WhatsApp, which keeps the messages until it does."
        self._report.show(View(status="disconnected", state="database_away", say=say))
        return AwaitDatabase()

    def stalled(self, reason: str) -> Plan:
        """The plan after a stall. Escalates: new socket, new sidecar, new worker.

        Raises:
            SidecarGone: a new sidecar is needed.
            Stuck: a new worker is needed.
        """
        self.retry.stalls += 1
        self._report.error("STALLED", reason, stalls=self.retry.stalls)
        self._report.audit("disconnect", code=None, reason=reason)
        if self.retry.stalls >= STALLS_BEFORE_EXIT:
            raise Stuck(f"the connection keeps stalling: {reason}")
        plan = Connect(delay=self._back_off(f"The connection stalled ({reason}); trying again.", "network"))
        if self.retry.stalls >= STALLS_BEFORE_RESTART:
            self.retry.plan = plan
            raise SidecarGone(f"stalled again: {reason}")
        return plan

    def note_backlog_complete(self) -> None:
        """WhatsApp says that it has sent the whole backlog."""
        self.retry.backlogs = 0

    def backlog_stalled(self, announced: int, arrived: int) -> Plan | None:
        """The plan when an announced backlog does not come; None: stay, since reconnecting did not help.

        Bounds the reconnects to a server that announces too many stanzas or never says that it is done.
        """
        self.retry.backlogs += 1
        reason = f"WhatsApp announced {announced} waiting stanzas, sent {arrived}, and then none of them for a minute"
        self._report.error("BACKLOG_STALLED", reason, announced=announced, arrived=arrived, times=self.retry.backlogs)
        if self.retry.backlogs > BACKLOGS_BEFORE_STAYING:
            return None
        self._report.audit("disconnect", code=None, reason=reason)
        return Connect(delay=self._back_off("What waits at WhatsApp does not come; trying again.", "network"))

    def deaf(self, reason: str) -> Plan:
        """The plan when an open connection is silent for unusually long: reconnect once."""
        self._report.error("DEAF", reason)
        self._report.audit("disconnect", code=None, reason=reason)
        return Connect(delay=self._back_off("The connection may be deaf; reconnecting once.", "network"))

    def _back_off(self, say: str, counter: str) -> float:
        """Count and report an attempt of this kind; the seconds to wait before it."""
        attempt = self.retry.attempts.get(counter, 0)
        self.retry.attempts[counter] = attempt + 1
        base, cap = self._settings.worker_backoff_base_ms / 1000, self._settings.worker_backoff_max_ms / 1000
        delay = next_delay(attempt, self._draw(), base, cap)
        at = datetime.now(UTC) + timedelta(seconds=delay)
        self._report.show(View(status="disconnected", state="reconnecting", say=say, next_attempt_at=at))
        self._report.audit("reconnect", attempt=attempt + 1, delay=round(delay, 3))
        return delay


def first_retry_state(row: dict[str, Any]) -> RetryState:
    """The first plan, from the session's row: a logout that was asked for and a temporary ban outlive a restart."""
    detail = row.get("detail") or {}
    state, say = detail.get("state"), str(detail.get("say") or "")
    if state == "logged_out" and not row.get("has_creds"):
        return RetryState(plan=StayDown(view=View(status="disconnected", state="logged_out", say=say or LOGGED_OUT)))
    linked = row.get("wa_number") is not None
    until = _time(detail.get("next_attempt_at"))
    if state == "needs_you" and until:
        view = View(status="disconnected", state="needs_you", say=say, next_attempt_at=until)
        seconds = min((until - datetime.now(UTC)).total_seconds(), BAN_SECONDS_MAX)
        return RetryState(plan=StayDown(view=view, seconds=seconds), linked=linked)
    return RetryState(linked=linked)


def _time(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at if at.tzinfo else None

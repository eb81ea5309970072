"""The session's `wa_sessions` row and audit log. Accepts changes at once, writes them later.

The latest status wins. Audit entries keep their order and survive a database outage, up to AUDITS_MAX.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import anyio
from loguru import logger

from worker.errors import StoreRefused, StoreUnavailable
from worker.store import Audit
from worker.store.retry import until_answered
from worker.store.session import SessionStore
from worker.times import iso_utc

AUDITS_MAX = 1000  # a day's worth; bounds memory in a longer outage
# During an outage the status flips between "could not be reached" and "connecting" every half minute. Log the first
# few, then one an hour; the rest at debug.
SAID_AT_ONCE, SAY_AGAIN_SECONDS, SAYINGS_MAX = 3, 3600.0, 100

Status = Literal["connecting", "connected", "disconnected"]
State = Literal[
    "starting", "connecting", "waiting_for_scan", "paired", "connected", "reconnecting", "idle", "logged_out",
    "needs_you", "unlinked", "database_away", "crashing", "failed", "stopped",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class View:
    """One state of the session, described for people."""

    status: Status
    state: State
    say: str
    qr: str | None = None
    expires_at: datetime | None = None
    pairing_code: str | None = None
    pairing_code_expires_at: datetime | None = None
    passkey: Mapping[str, Any] | None = None  # {options} to sign, or {code} to compare; valid until `expires_at`
    next_attempt_at: datetime | None = None
    wa_name: str | None = None
    wa_number: str | None = None

    def patch(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The row's columns to change. A name or number of None keeps the stored value."""
        detail: dict[str, Any] = {"state": self.state, "say": self.say, **extra}
        if self.qr is not None:
            detail["qr"] = self.qr
        if self.pairing_code is not None:
            detail["pairing_code"] = self.pairing_code
        if self.pairing_code_expires_at is not None:
            detail["pairing_code_expires_at"] = iso_utc(self.pairing_code_expires_at)
        expires = {} if self.expires_at is None else {"expiresAt": iso_utc(self.expires_at)}
        if self.passkey is not None:
            detail["passkey"] = {**self.passkey, **expires}
        elif self.qr is not None:
            detail.update(expires)
        if self.next_attempt_at is not None:
            detail["next_attempt_at"] = iso_utc(self.next_attempt_at)
        columns = {"wa_name": self.wa_name, "wa_number": self.wa_number}
        return {"status": self.status, "detail": detail, **{k: v for k, v in columns.items() if v is not None}}


class Report:
    """Collects status and audit entries; `run` writes them as soon as the database answers."""

    def __init__(
        self,
        store: SessionStore,
        *,
        keep: Mapping[str, Any] | None = None,
        on_view: Callable[[View], None] = lambda view: None,
        on_audit: Callable[[str, Mapping[str, Any]], None] = lambda event, payload: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._kept = dict(keep or {})
        self._on_view = on_view
        self._on_audit = on_audit
        self._view: View | None = None
        self._dirty = False
        self._clock = clock
        self._said: dict[str, tuple[int, float]] = {}  # text → times logged since the last connection, and when last
        self._audits: deque[Audit] = deque(maxlen=AUDITS_MAX)
        self._news = anyio.Event()
        self._written = anyio.Event()
        self._written.set()

    @property
    def view(self) -> View | None:
        return self._view

    def show(self, view: View) -> None:
        """Make `view` the session's state. A view without a QR code removes the previous one."""
        if self._view is None or (view.state, view.say) != (self._view.state, self._view.say):
            self._log(view)
        self._view = view
        self._dirty = True
        self._on_view(view)
        self._wake()

    def _log(self, view: View) -> None:
        if view.state == "connected" or len(self._said) > SAYINGS_MAX:
            self._said.clear()
        times, at = self._said.get(view.say, (0, 0.0))
        if times < SAID_AT_ONCE or self._clock() - at >= SAY_AGAIN_SECONDS:
            self._said[view.say] = (times + 1, self._clock())
            logger.info("{}", view.say)
        else:
            logger.debug("{}", view.say)

    def amend(self, **changes: Any) -> None:
        """Change fields of the current view."""
        if self._view:
            self.show(replace(self._view, **changes))

    def keep(self, **fields: Any) -> None:
        """Set fields of `detail` that survive every state, such as the client version."""
        self._kept.update(fields)
        self._dirty = self._view is not None
        self._wake()

    def audit(self, event: str, **payload: Any) -> None:
        """Add an entry to the audit log."""
        self._audits.append(Audit(event=event, payload=payload))
        self._on_audit(event, payload)
        self._wake()

    def error(self, code: str, msg: str, **ctx: Any) -> None:
        """Add an `error` entry to the audit log, in the contract's form."""
        self.audit("error", code=code, msg=msg[:300], **({"ctx": ctx} if ctx else {}))

    async def run(self) -> None:
        """Write until cancelled.

        Raises:
            StaleFence: another worker holds the lease.
        """
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await until_answered(self._write)

    async def flushed(self) -> None:
        """Wait until everything is written."""
        while not self._written.is_set():
            await self._written.wait()

    def _wake(self) -> None:
        if self._written.is_set():
            self._written = anyio.Event()
        self._news.set()

    async def _write(self) -> None:
        while self._dirty or self._audits:
            audits = list(self._audits)
            patch = self._view.patch(self._kept) if self._dirty and self._view else {}
            self._dirty = False
            try:
                await self._store.set_session(patch, audits)
            except StoreUnavailable:
                self._dirty = self._dirty or bool(patch)
                raise
            except StoreRefused as refused:  # a bug in one entry must not stop the worker
                logger.error("the database refused a status or audit entry (code {})", refused.code)
            for _ in audits:
                self._audits.popleft()
        self._written.set()

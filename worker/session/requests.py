"""Carries out the web app's requests: log out, find the groups, show a pairing code.

`connection` and `socket` decide when. This module does the steps of each request and marks it as done.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from loguru import logger

from worker.bridge.peer import Peer
from worker.errors import CallFailed, CallTimeout
from worker.session.auth_state import AuthState
from worker.session.discovery import Discovery
from worker.session.flags import Done, Request
from worker.session.reconnect_policy import LOGGED_OUT, ReconnectPolicy, StayDown
from worker.session.report import Report, View

DRAIN_SECONDS = 4.0  # a commit takes 30 ms; the whole shutdown has ten seconds
ENTER_THE_CODE = (
    "Enter the pairing code on the phone: WhatsApp, Linked devices, Link a device, Link with phone number instead."
)
ENTER_THE_NEW_CODE = f"WhatsApp has retired the previous pairing code: it no longer links anything. {ENTER_THE_CODE}"
ASK_FOR_A_CODE = (
    "WhatsApp has retired the pairing code that was shown: it no longer links anything. Ask for another one "
    "(`wa-worker link --code NUMBER`), or scan the QR code."
)
FORGOTTEN = (
    "The credentials are forgotten as asked, but WhatsApp could not be told: there was no connection. Remove this "
    "device on the phone as well (WhatsApp, Linked devices). Ask for a refresh (`wa-worker link --refresh`) to link "
    "again."
)


class Requests:
    """Carries out the requests of one session. `done` marks a request as handled, carried out or turned down."""

    def __init__(
        self,
        state: AuthState,
        policy: ReconnectPolicy,
        report: Report,
        discovery: Discovery,
        done: Done,
    ) -> None:
        self._state = state
        self._policy = policy
        self._report = report
        self.discovery = discovery
        self.done = done

    def refresh(self, request: Request) -> None:
        """Mark a refresh as done and reset the backoff. The caller reconnects."""
        self.done(request)
        self._policy.reset_backoff()

    def turn_down(self, request: Request, why: str) -> None:
        """Refuse a request; log and audit the reason."""
        logger.warning("{} is turned down: {}", request.kind.value, why)
        self._report.error("REQUEST_TURNED_DOWN", why, flag=request.kind.value)
        self.done(request, f"turned down: {why}")

    async def log_out(self, peer: Peer, request: Request, *, connected: bool) -> StayDown:
        """Log out of WhatsApp if it is reachable, delete the credentials, stay down."""
        told = connected or not self._policy.linked
        try:
            await peer.close(logout=True, drain_seconds=DRAIN_SECONDS)
        except (CallFailed, CallTimeout) as failed:
            logger.warning("the logout failed ({}); deleting the credentials anyway", failed)
            told = not self._policy.linked
        await self.forget_account()
        self._report.audit("disconnect", code=None, reason="asked for (wa_disconnect_requested)")
        self.done(request)
        self._policy.logged_out()
        say = LOGGED_OUT if told else FORGOTTEN
        return StayDown(view=View(status="disconnected", state="logged_out", say=say))

    async def forget_account(self) -> None:
        """Delete the credentials. Only at the request of WhatsApp or a person."""
        await self._state.wipe()
        self._policy.unlinked()
        self.discovery.again()

    async def show_pairing_code(self, peer: Peer, request: Request) -> float:
        """Get a pairing code from WhatsApp and show it beside the QR code. Returns its lifetime in seconds, or 0."""
        try:
            seconds = await self._draw_code(peer, request.phone or "", ENTER_THE_CODE)
        except (CallFailed, CallTimeout) as failed:
            self.turn_down(request, _no_code(failed))
            return 0.0
        self.done(request)
        return seconds

    async def renew_pairing_code(self, peer: Peer, phone: str) -> float:
        """Replace a retired pairing code. Returns the new one's lifetime in seconds, or 0."""
        try:
            return await self._draw_code(peer, phone, ENTER_THE_NEW_CODE)
        except (CallFailed, CallTimeout) as failed:
            self.withdraw_pairing_code(_no_code(failed))
            return 0.0

    def withdraw_pairing_code(self, why: str) -> None:
        """Show no code: WhatsApp has retired the current one, and there is no other."""
        self._report.amend(pairing_code=None, pairing_code_expires_at=None, say=ASK_FOR_A_CODE)
        self._report.error("PAIRING_CODE_RETIRED", why)

    async def _draw_code(self, peer: Peer, phone: str, say: str) -> float:
        told = await peer.pairing_code(phone)
        ttl = told.ttl_ms / 1000
        expires_at = datetime.now(UTC) + timedelta(seconds=ttl)
        self._report.amend(pairing_code=told.code, pairing_code_expires_at=expires_at, say=say)
        self._report.audit("pairing_code_generated", ttl_s=ttl)
        return ttl


def _no_code(failed: CallFailed | CallTimeout) -> str:
    """Why there is no pairing code, for people."""
    if isinstance(failed, CallTimeout):
        return "WhatsApp did not answer the request for a pairing code; ask again"
    match failed.data.get("status") if isinstance(failed.data, dict) else None:
        case 400:
            return "WhatsApp refused to give a pairing code (400): check the number, or scan the QR code"
        case 429:
            return "WhatsApp refused to give a pairing code (429): too many were asked for; wait, or scan the QR code"
        case int(status):
            return f"WhatsApp refused to give a pairing code ({status}); scan the QR code, or ask again later"
        case _:
            return "there is no pairing code: the connection failed meanwhile; ask again"

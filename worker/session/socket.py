"""One socket, from `connect` to its end: shows QR codes, carries out requests, returns the plan that follows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
from anyio.abc import TaskGroup
from loguru import logger

from worker.bridge.peer import Peer
from worker.bridge.protocol import (
    CloseInfo,
    ConnectionState,
    Me,
    Offline,
    PairingCodeRetired,
    PasskeyCode,
    PasskeyFailed,
    PasskeyRequested,
    Qr,
    Stalled,
)
from worker.session.ceremony import PasskeyCeremony, PasskeyRules
from worker.session.closes import Halt
from worker.session.events import DatabaseGone, DeafFound, EventQueue, SessionEvent, StallFound
from worker.session.flags import Request, RequestKind
from worker.session.reconnect_policy import Connect, Plan, ReconnectPolicy
from worker.session.report import Report, View
from worker.session.requests import ASK_FOR_A_CODE, DRAIN_SECONDS, ENTER_THE_CODE, ENTER_THE_NEW_CODE, Requests
from worker.session.watchdog import OPEN_WITHIN_SECONDS

SKEW_MAX_MS = 5_000.0  # larger clock differences are audited; docs/architecture.md, "Live only"
RENEWALS_MAX = 5  # pairing codes that we renew unasked per socket; bounds a server that keeps retiring them
SCAN_THE_CODE = "Scan the QR code with the phone: WhatsApp, Linked devices, Link a device."
SCAN_AGAIN = (
    "WhatsApp has retired the QR code that was shown. If the phone has just scanned it and shows an error, that is "
    "expected: close it and scan the new code."
)


class Socket:
    """Handles the socket that the sidecar has just made."""

    def __init__(
        self,
        peer: Peer,
        events: EventQueue,
        policy: ReconnectPolicy,
        report: Report,
        requests: Requests,
        on_open: Callable[[Me], None],
        passkey: PasskeyRules,
    ) -> None:
        self._peer = peer
        self._events = events
        self._policy = policy
        self._report = report
        self._requests = requests
        self._on_open = on_open
        self._deadline = policy.clock() + OPEN_WITHIN_SECONDS
        self._open = False
        self._waits_for_scan = False
        self._code_retired = False  # a phone may have scanned the retired QR code
        self._typed_for: str | None = None  # phone number of the current pairing code
        self._typed_retired = 0  # pairing codes that WhatsApp has retired
        self._ceremony = PasskeyCeremony(peer, report, requests, passkey, policy.clock)

    async def run(self) -> Plan:
        """Handle events until the socket ends, whoever ends it. Returns the next plan."""
        async with anyio.create_task_group() as while_open:
            plan = await self._handle_events(while_open)
            while_open.cancel_scope.cancel()
        self._policy.note_end()
        return plan

    async def _handle_events(self, while_open: TaskGroup) -> Plan:
        while True:
            deadline = self._ceremony.deadline if self._ceremony.active else self._deadline
            left = float("inf") if self._open else deadline - self._policy.clock()
            with anyio.move_on_after(left) as patience:
                event = await self._events.take()
            if patience.cancelled_caught and self._ceremony.active:
                return await self._give_up(self._ceremony.late())
            if patience.cancelled_caught:
                await self._end()
                return self._policy.stalled("the connection did not open in time")
            plan = await self._handle(event, while_open)
            if plan:
                return plan

    async def _handle(self, event: SessionEvent, while_open: TaskGroup) -> Plan | None:
        match event:
            case Qr():
                self._show_qr(event)
            case PairingCodeRetired(by_hand=by_hand):
                await self._renew_pairing_code(by_hand)
            case PasskeyRequested() | PasskeyCode() | PasskeyFailed():
                self._waits_for_scan = False
                halt = await self._ceremony.take(event)
                return await self._give_up(halt) if halt else None
            case ConnectionState(state="close", close=CloseInfo() as info):
                return self._policy.after_close(info, self._ceremony.cut_off())
            case ConnectionState(state="open"):
                self._note_open(event)
                while_open.start_soon(self._requests.discovery.run, self._peer)
            case ConnectionState():
                self._note_connecting(event)
            case Offline(count=count):
                self._policy.note_backlog_complete()
                if count:
                    logger.info("{} messages arrived that were sent while the worker was offline", count)
            case Stalled(reason="unhandled"):
                logger.warning("unhandled error inside Baileys: {}", str(event.detail.get("error"))[:80])
            case Stalled(reason="backlog", detail=detail):
                plan = self._policy.backlog_stalled(int(detail.get("announced", 0)), int(detail.get("arrived", 0)))
                if plan:
                    await self._end_in_order()
                return plan
            case DeafFound(reason=reason):
                await self._end_in_order()
                return self._policy.deaf(reason)
            case Stalled(reason=reason) | StallFound(reason=reason):
                await self._end()
                return self._policy.stalled(reason)
            case DatabaseGone(reason=reason):
                await self._end()
                self._report.audit("disconnect", code=None, reason=f"the database does not answer ({reason})")
                return self._policy.database_gone(reason)
            case Request():
                with self._events.put_back_on_failure(event):
                    return await self._obey(event)
        return None

    async def _obey(self, request: Request) -> Plan | None:
        match request.kind:
            case RequestKind.REFRESH:
                await self._end()
                self._report.audit(
                    "disconnect", code=None, reason="asked for a new connection (wa_refresh_qr_requested)"
                )
                self._requests.refresh(request)
                return Connect()
            case RequestKind.DISCONNECT:
                return await self._requests.log_out(self._peer, request, connected=self._open)
            case RequestKind.GROUPS:
                self._requests.discovery.ask(request)
            case RequestKind.PASSKEY_ANSWERED | RequestKind.PASSKEY_COMPARED:
                halt = await self._ceremony.obey(request)
                return await self._give_up(halt) if halt else None
            case RequestKind.PAIRING_CODE if self._waits_for_scan and request.phone is not None:
                self._typed_for, self._typed_retired = request.phone, 0
                self._stay_for(await self._requests.show_pairing_code(self._peer, request))
            case RequestKind.PAIRING_CODE:
                self._requests.turn_down(request, "the session is not waiting for a phone to link")
        return None

    async def _renew_pairing_code(self, by_hand: bool) -> None:
        """WhatsApp has retired the current pairing code: show another, unless a person must ask for it.

        Ignored once somebody typed the code: a passkey request may be on display.
        """
        if self._typed_for is None or not self._waits_for_scan:
            return
        self._typed_retired += 1
        if by_hand or self._typed_retired > RENEWALS_MAX:
            self._requests.withdraw_pairing_code("WhatsApp has retired the pairing code; ask for another")
        else:
            self._stay_for(await self._requests.renew_pairing_code(self._peer, self._typed_for))

    def _note_connecting(self, told: ConnectionState) -> None:
        if told.is_new_login:
            self._ceremony.linked()
            self._waits_for_scan = False
            self._report.show(View(status="connecting", state="paired", say="A phone has linked; logging in."))
        self._deadline = self._policy.clock() + OPEN_WITHIN_SECONDS

    def _note_open(self, told: ConnectionState) -> None:
        me = told.me or Me(id=None)
        self._open = True
        self._policy.note_open()
        self._on_open(me)
        say = "Connected. Messages of the groups that are switched on are being stored."
        number = _number(me.id)
        self._report.show(View(status="connected", state="connected", say=say, wa_name=me.name, wa_number=number))
        self._report.audit("connect", claims=self._policy.claims())
        offset = told.server_time_offset_ms
        if offset is not None and abs(offset) > SKEW_MAX_MS:
            logger.warning("this machine's clock is {:.0f} s away from WhatsApp's", abs(offset) / 1000)
            self._report.error("CLOCK_SKEW", "this machine's clock differs from WhatsApp's", offset_ms=round(offset))

    def _show_qr(self, told: Qr) -> None:
        self._waits_for_scan = True
        self._code_retired = self._code_retired or told.retired
        ttl = told.ttl_ms / 1000
        self._stay_for(ttl)
        now = datetime.now(UTC)
        view = self._report.view  # a pairing code stays valid when the QR code beside it changes
        code_expires_at = view.pairing_code_expires_at if view else None
        typed = view if view and code_expires_at and code_expires_at > now else None
        self._report.show(
            View(
                status="connecting",
                state="waiting_for_scan",
                say=" ".join(filter(None, (self._what_to_do(typed), self._policy.doubt()))),
                qr=told.qr,
                expires_at=now + timedelta(seconds=ttl) if told.qr else None,
                pairing_code=typed.pairing_code if typed else None,
                pairing_code_expires_at=code_expires_at if typed else None,
            )
        )
        if told.qr:
            self._report.audit("qr_generated", ttl_s=ttl, claims=self._policy.claims())

    def _what_to_do(self, typed: View | None) -> str:
        if self._typed_retired:
            return ENTER_THE_NEW_CODE if typed else ASK_FOR_A_CODE
        if typed:
            return ENTER_THE_CODE
        return SCAN_AGAIN if self._code_retired else SCAN_THE_CODE

    def _stay_for(self, seconds: float) -> None:
        """Extend the deadline: the code on display is valid for `seconds`."""
        self._deadline = max(self._deadline, self._policy.clock() + seconds + OPEN_WITHIN_SECONDS)

    async def _give_up(self, halt: Halt) -> Plan:
        """The passkey exchange failed: end the socket in order, since an ack may still wait for a commit."""
        await self._end_in_order()
        self._report.audit("disconnect", code=None, reason="the passkey exchange ended without linking a device")
        return self._policy.after(halt)

    async def _end_in_order(self) -> None:
        """End the socket once its log is durable."""
        await self._peer.close(logout=False, drain_seconds=DRAIN_SECONDS)

    async def _end(self) -> None:
        """End the socket at once. Its last notifications are discarded before the next connect."""
        await self._peer.close(logout=False, drain_seconds=0)


def _number(jid: str | None) -> str | None:
    return jid.partition("@")[0].partition(":")[0] if jid else None

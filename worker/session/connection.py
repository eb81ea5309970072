"""The connection of one account: when to open a socket, when to stay down, when to try again.

One loop handles one event at a time. All events arrive in one queue (`events`). `socket` handles one open socket;
`reconnect_policy` decides what follows its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import assert_never

import anyio
from loguru import logger

from worker.bridge.peer import Peer
from worker.bridge.protocol import SOCKET_OPEN, Arrived, Connected, ConnectParameters, Me, Notification
from worker.errors import CallFailed, StateError
from worker.session.auth_state import AuthState
from worker.session.ceremony import STEP_SECONDS, PasskeyRules
from worker.session.closes import Reconnect
from worker.session.events import EventQueue
from worker.session.flags import Request, RequestKind
from worker.session.rate_limit import RateLimiter
from worker.session.reconnect_policy import AwaitDatabase, Connect, Plan, ReconnectPolicy, Relink, StayDown
from worker.session.report import Report, View
from worker.session.requests import DRAIN_SECONDS, Requests
from worker.session.socket import Socket
from worker.session.suspects import Suspects
from worker.session.version import SOURCE, VersionPolicy, fetch_version
from worker.settings import Settings

OFFLINE_HOLD_MS = 60_000  # as WhatsApp Web; docs/architecture.md, "The frame gate", 8
LOG_BYTES_MAX = 64 * 1024 * 1024  # then the sidecar pauses the socket; docs/architecture.md, "The frame gate", 4
# Shown on the phone under linked devices; fixed at pairing. The second must be a browser that WhatsApp knows: it gives
# no pairing code to "Desktop" (docs/whatsapp.md, "The real server in 2026").
BROWSER = ["wa-worker", "Chrome", "1.0"]


class SocketOptions:
    """Builds the parameters of each new socket."""

    def __init__(
        self, settings: Settings, version: VersionPolicy, suspects: Suspects, logins: RateLimiter | None = None
    ) -> None:
        self._settings = settings
        self._version = version
        self._suspects = suspects
        self._logins = logins

    @property
    def passkey(self) -> PasskeyRules:
        """What to do when WhatsApp asks for the account's passkey."""
        step_ms = self._settings.wa_passkey_step_ms
        seconds = STEP_SECONDS if step_ms is None else step_ms / 1000
        return PasskeyRules(enabled=self._settings.worker_passkey, step_seconds=seconds)

    async def parameters(self, begin_epoch: Callable[[], Awaitable[int]], *, linked: bool) -> ConnectParameters:
        """The parameters of the next `connect`. Waits for the rate limit, and fetches WhatsApp's version if due."""
        if self._logins is not None:
            await self._logins.wait()
        settings = self._settings
        await self._version.refresh(
            lambda: fetch_version(settings.wa_version_url or SOURCE, proxy=settings.proxy), linked=linked
        )
        version = self._version.present()
        return ConnectParameters(
            epoch=await begin_epoch(),
            browser=BROWSER,
            version=list(version) if version else None,
            socket_url=settings.wa_socket_url,
            root_key=settings.wa_root_key,
            offline_hold_ms=OFFLINE_HOLD_MS,
            strict_certs=settings.wa_strict_certs,
            nack_undecryptable=settings.wa_nack_undecryptable,
            max_log_bytes=LOG_BYTES_MAX,
            qr_timeout_ms=settings.wa_qr_timeout_ms,
            keep_alive_ms=settings.wa_keep_alive_ms,
            suspects=await self._suspects.treatments(),
        )

    def connected_with(self, made: Connected) -> None:
        """Note the version that the sidecar used for the new socket."""
        first, second, third = made.version
        self._version.connected_with((first, second, third))


class Connection:
    """Runs one account over successive sidecars. Each time a connection opens, `on_open` gets its addresses."""

    def __init__(
        self,
        *,
        state: AuthState,
        policy: ReconnectPolicy,
        report: Report,
        options: SocketOptions,
        events: EventQueue,
        requests: Requests,
        on_open: Callable[[Me], None],
        on_arrived: Callable[[Arrived], None] = lambda told: None,
    ) -> None:
        self._state = state
        self.policy = policy
        self._report = report
        self._options = options
        self._events = events
        self._requests = requests
        self._on_open = on_open
        self._on_arrived = on_arrived

    async def run(self, peer: Peer) -> None:
        """Run over this sidecar until it ends.

        Raises:
            SidecarGone: the sidecar ended or hangs; run again with another one.
            StateError: the stored state cannot be read.
            StaleFence: another worker holds the lease.
            Stuck: neither a new socket nor a new sidecar helped.
        """
        self._events.discard_notifications()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self._queue_notifications, peer)
            while True:
                self.policy.retry.plan = await self._step(peer)

    def resting_view(self) -> View | None:
        """The view that says why the session stays down; None if it does not stay down."""
        plan = self.policy.retry.plan
        return plan.view if isinstance(plan, StayDown) else None

    async def shut_down(self, peer: Peer) -> None:
        """Stop receiving, commit the log, release its frames, close without logging out."""
        self.policy.note_end()
        left = await peer.close(logout=False, drain_seconds=DRAIN_SECONDS)
        if left:
            logger.warning("{} log items were not committed; WhatsApp will send them again", left)

    async def _queue_notifications(self, peer: Peer) -> None:
        """Drain the queue in batches: it is bounded, and one item per loop turn would be slower than its reader."""
        async for notification in peer.notifications:
            self._take_notification(notification)
            with suppress(anyio.WouldBlock, anyio.EndOfStream):
                while True:
                    self._take_notification(peer.notifications.receive_nowait())

    def _take_notification(self, notification: Notification) -> None:
        if isinstance(notification, Arrived):  # a closing socket sends it too
            self._on_arrived(notification)
        else:
            self._events.put(notification)

    async def _step(self, peer: Peer) -> Plan:
        match self.policy.retry.plan:
            case Connect(delay=delay):
                return await self._rest(peer, delay) or await self._connect(peer)
            case StayDown() as plan:
                self._report.show(plan.view)
                return await self._rest(peer, _seconds_left(plan)) or Connect()
            case Relink(delay=delay):
                await self._requests.forget_account()
                return Connect(delay=delay)
            case AwaitDatabase():
                await self._state.wait_for_database()
                return Connect()
            case unknown:
                assert_never(unknown)

    async def _rest(self, peer: Peer, seconds: float | None) -> Plan | None:
        """Wait `seconds` (None: forever) and carry out requests meanwhile. Returns a plan if a request changes it."""
        if seconds is not None and seconds <= 0:
            return None
        with anyio.move_on_after(seconds if seconds is not None else float("inf")):
            while True:
                event = await self._events.take()
                if isinstance(event, Request):
                    with self._events.put_back_on_failure(event):
                        plan = await self._obey(peer, event)
                    if plan:
                        return plan
        return None

    async def _obey(self, peer: Peer, request: Request) -> Plan | None:
        match request.kind:
            case RequestKind.REFRESH:
                self._requests.refresh(request)
                return Connect()
            case RequestKind.DISCONNECT:
                return await self._requests.log_out(peer, request, connected=False)
            case RequestKind.GROUPS:
                self._requests.discovery.ask(request)
            case RequestKind.PAIRING_CODE | RequestKind.PASSKEY_ANSWERED | RequestKind.PASSKEY_COMPARED:
                self._requests.turn_down(request, "no connection is waiting for a phone; request a refresh first")
        return None

    async def _connect(self, peer: Peer) -> Plan:
        self._report.show(View(status="connecting", state="connecting", say="Connecting to WhatsApp."))
        left = await peer.close(logout=False, drain_seconds=DRAIN_SECONDS)
        if left:
            logger.warning("dropped {} log items of the old connection; WhatsApp will send them again", left)
        parameters = await self._options.parameters(self._state.begin_epoch, linked=self.policy.linked)
        self._events.discard_notifications()
        try:
            self._options.connected_with(await peer.connect(parameters))
        except CallFailed as failed:
            return await self._not_connected(peer, failed)
        self._report.keep(claims=self.policy.claims())
        passkey = self._options.passkey
        return await Socket(peer, self._events, self.policy, self._report, self._requests, self._on_open, passkey).run()

    async def _not_connected(self, peer: Peer, failed: CallFailed) -> Plan:
        reason = failed.data.get("reason") if isinstance(failed.data, dict) else None
        if reason == "unreadable":
            raise self._state.trouble or StateError(f"the sidecar cannot read the stored credentials ({failed})")
        if failed.code == SOCKET_OPEN:
            await peer.close(logout=False, drain_seconds=0)
        if self._state.database_away:
            return self.policy.database_gone(self._state.away_reason)
        return self.policy.after(Reconnect(say="The connection could not be made; trying again."))


def _seconds_left(plan: StayDown) -> float | None:
    """Seconds until the worker reconnects by itself; None: never. A new sidecar does not restart the wait."""
    at = plan.view.next_attempt_at
    if plan.seconds is None or at is None:
        return plan.seconds
    return min(plan.seconds, (at - datetime.now(UTC)).total_seconds())

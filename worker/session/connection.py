"""The life of one account's connection: when to open it, what to show, what a close means, when to try again.

One loop that does one thing at a time. Everything that happens (the sidecar's notifications, the web app's requests, a
database that went away, a watchdog's verdict) arrives in one inbox; what a close means is `closes.decide`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import assert_never

import anyio
from anyio.abc import TaskGroup
from loguru import logger

from worker.bridge.peer import Peer
from worker.bridge.protocol import (
    SOCKET_OPEN,
    CloseInfo,
    Connect,
    ConnectionState,
    Me,
    Offline,
    Qr,
    Stalled,
)
from worker.errors import CallFailed, CallTimeout, StateError
from worker.ingest.committer import Committer
from worker.session.auth_state import State
from worker.session.backoff import JITTER_MAX_SECONDS
from worker.session.closes import Reconnect
from worker.session.discovery import Discovery
from worker.session.events import DatabaseGone, Inbox, Item, StallFound
from worker.session.flags import Ask, Request
from worker.session.reconnect_policy import AwaitDatabase, Forget, Go, Plan, ReconnectPolicy, RetryState, Stay
from worker.session.report import Report, View
from worker.session.version import VersionPolicy, fetch_version
from worker.session.watchdog import OPEN_WITHIN_SECONDS
from worker.settings import Settings
from worker.store.availability import DatabaseWatch
from worker.store.retry import until_answered
from worker.store.session import SessionStore

DRAIN_SECONDS = 4.0  # a commit takes 30 ms; the whole shutdown has ten seconds
COMMIT_CATCH_UP_SECONDS = 15.0  # for the commit that waited through the outage; else its messages come again
OFFLINE_HOLD_MS = 10_000  # DESIGN rule 8's N: WhatsApp sends a backlog at some thousand messages a second
LOG_BYTES_MAX = 64 * 1024 * 1024  # DESIGN rule 4: what the sidecar may hold before it pauses the socket
BROWSER = ["wa-worker", "Desktop", "1.0"]  # shown on the phone under linked devices; fixed at pairing
SCAN_THE_CODE = "Scan the QR code with the phone: WhatsApp, Linked devices, Link a device."
ENTER_THE_CODE = (
    "Enter the pairing code on the phone: WhatsApp, Linked devices, Link a device, Link with phone number instead."
)
LOGGED_OUT = "Logged out as asked. Ask for a refresh (wa_refresh_qr_requested) to link a phone again."
FORGOTTEN = (
    "The credentials are forgotten as asked, but WhatsApp could not be told: there was no connection. Remove this "
    "device on the phone as well (WhatsApp, Linked devices). Ask for a refresh (wa_refresh_qr_requested) to link again."
)


class Connection:
    """Runs one account over whatever sidecar it is given."""

    def __init__(
        self,
        *,
        store: SessionStore,
        settings: Settings,
        state: State,
        committer: Committer,
        discovery: Discovery,
        report: Report,
        watch: DatabaseWatch,
        version: VersionPolicy,
        inbox: Inbox,
        done: Callable[[Request], None],
        standing: RetryState | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = lambda: random.uniform(0, JITTER_MAX_SECONDS),  # noqa: S311 - no secret
    ) -> None:
        self._store = store
        self._settings = settings
        self._state = state
        self._committer = committer
        self._discovery = discovery
        self._report = report
        self._watch = watch
        self._version = version
        self._inbox = inbox
        self._done = done
        self._clock = clock
        self.standing = standing or RetryState()
        self.ends = ReconnectPolicy(
            settings=settings, report=report, version=version, standing=self.standing, clock=clock, draw=draw
        )

    async def run(self, peer: Peer) -> None:
        """Live over this sidecar until it is gone.

        Raises:
            SidecarGone: the sidecar ended or hangs; run again with another one.
            StateError: the stored state cannot be read.
            StaleFence: another worker holds the lease.
            Stuck: nothing helps any more.
        """
        self._inbox.discard_notifications()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self._pump, peer)
            while True:
                self.standing.plan = await self._step(peer, task_group)

    def resting_view(self) -> View | None:
        """What to show of a session that stays down: whoever reads it later must still know why."""
        plan = self.standing.plan
        return plan.view if isinstance(plan, Stay) else None

    async def shut_down(self, peer: Peer) -> None:
        """Stop receiving, commit what was journaled, release its frames, close without logging out."""
        self.ends.note_end()
        left = await peer.close(logout=False, drain_seconds=DRAIN_SECONDS)
        if left:
            logger.warning("{} items of the log were not committed; WhatsApp will send them again", left)

    async def _pump(self, peer: Peer) -> None:
        async for notification in peer.notifications:
            self._inbox.put(notification)

    async def _step(self, peer: Peer, task_group: TaskGroup) -> Plan:
        match self.standing.plan:
            case Go() as go:
                return await self._rest(peer, go.delay, None) or await self._connect(peer, task_group)
            case Stay() as stay:
                self._report.show(stay.view)
                return await self._rest(peer, _left(stay), stay) or Go()
            case Forget(delay=delay):
                await self._wipe()
                return Go(delay=delay)
            case AwaitDatabase():
                await until_answered(lambda: self._watch.observe("state", self._store.load_state()))
                logger.info("the database answers again")
                with anyio.move_on_after(COMMIT_CATCH_UP_SECONDS):
                    await self._watch.back()
                self._watch.forget()
                return Go()
            case unknown:
                assert_never(unknown)

    # Down

    async def _rest(self, peer: Peer, seconds: float | None, stay: Stay | None) -> Plan | None:
        """Wait, and do what is asked for meanwhile; a plan if that changes it, None when the time is over."""
        if seconds is not None and seconds <= 0:
            return None
        with anyio.move_on_after(seconds if seconds is not None else float("inf")):
            while True:
                item = await self._inbox.take()
                if isinstance(item, Request):
                    with self._inbox.kept(item):
                        plan = await self._asked_while_down(peer, item, stay)
                    if plan:
                        return plan
        return None

    async def _asked_while_down(self, peer: Peer, request: Request, stay: Stay | None) -> Plan | None:
        match request.ask:
            case Ask.REFRESH:
                self._done(request)
                self.standing.attempts.clear()
                return Go()
            case Ask.DISCONNECT:
                return await self._log_out(peer, request, connected=False)
            case Ask.GROUPS:
                self._discovery.ask(request)
            case Ask.PAIRING_CODE:
                self._turn_down(request, "no connection waits for a phone; ask for a refresh first")
        return None

    # Up

    async def _connect(self, peer: Peer, task_group: TaskGroup) -> Plan:
        say = "Connecting to WhatsApp."
        self._report.show(View(status="connecting", state="connecting", say=say))
        left = await peer.close(logout=False, drain_seconds=DRAIN_SECONDS)
        if left:
            logger.warning("{} items of the old connection's log are dropped; WhatsApp will send them again", left)
        await self._version.refresh(fetch_version)
        epoch = await until_answered(lambda: self._watch.observe("state", self._store.begin_epoch()))
        self._inbox.discard_notifications()
        try:
            await peer.connect(self._parameters(epoch))
        except CallFailed as failed:
            return await self._not_connected(peer, failed)
        async with anyio.create_task_group() as while_open:
            plan = await _Watch(self, peer, while_open).run()
            while_open.cancel_scope.cancel()
        self.ends.note_end()
        return plan

    def _parameters(self, epoch: int) -> Connect:
        settings = self._settings
        version = self._version.present()
        return Connect(
            epoch=epoch,
            browser=BROWSER,
            version=list(version) if version else None,
            socket_url=settings.wa_socket_url,
            root_key=settings.wa_root_key,
            offline_hold_ms=OFFLINE_HOLD_MS,
            strict_certs=settings.wa_strict_certs,
            max_log_bytes=LOG_BYTES_MAX,
            qr_timeout_ms=settings.wa_qr_timeout_ms,
            keep_alive_ms=settings.wa_keep_alive_ms,
        )

    async def _not_connected(self, peer: Peer, failed: CallFailed) -> Plan:
        reason = failed.data.get("reason") if isinstance(failed.data, dict) else None
        if reason == "unreadable":
            raise self._state.trouble or StateError(f"the sidecar cannot read the stored credentials ({failed})")
        if failed.code == SOCKET_OPEN:
            await peer.close(logout=False, drain_seconds=0)
        if self._watch.away:
            return self.ends.database_gone()
        return self.ends.after(Reconnect(say="The connection could not be made; trying again."))

    # Away

    async def _wipe(self) -> None:
        """Forget the account. Only ever after WhatsApp, or a person, said so."""
        await until_answered(lambda: self._watch.observe("state", self._store.wipe_credentials()))
        self.standing.linked = False
        self._discovery.again()

    async def _log_out(self, peer: Peer, request: Request, *, connected: bool) -> Plan:
        """Log out gracefully if we can, forget the credentials, stay down."""
        told = connected or not self.standing.linked
        try:
            await peer.close(logout=True, drain_seconds=DRAIN_SECONDS)
        except (CallFailed, CallTimeout) as failed:
            logger.warning("the logout was not graceful ({}); forgetting the credentials all the same", failed)
            told = not self.standing.linked
        await self._wipe()
        self._report.audit("disconnect", code=None, reason="asked for (wa_disconnect_requested)")
        self._done(request)
        self.standing.attempts.clear()
        self._version.forget()
        return Stay(view=View(status="disconnected", state="logged_out", say=LOGGED_OUT if told else FORGOTTEN))

    def _turn_down(self, request: Request, why: str) -> None:
        logger.warning("{} is turned down: {}", request.ask.value, why)
        self._report.error("REQUEST_TURNED_DOWN", why, flag=request.ask.value)
        self._done(request)

    def note_open(self, told: ConnectionState) -> None:
        """The connection is open: show it, remember who we are."""
        me = told.me or Me(id=None)
        self.ends.note_open()
        self._committer.own = (me.lid, me.id)
        say = "Connected. Messages of the groups that are switched on are being stored."
        number = _number(me.id)
        self._report.show(View(status="connected", state="connected", say=say, wa_name=me.name, wa_number=number))
        self._report.audit("connect")
        offset = told.server_time_offset_ms
        if offset is not None and abs(offset) > SKEW_MAX_MS:
            logger.warning("this machine's clock is {:.0f} s away from WhatsApp's", abs(offset) / 1000)
            self._report.error("CLOCK_SKEW", "this machine's clock differs from WhatsApp's", offset_ms=round(offset))


SKEW_MAX_MS = 5_000.0  # DESIGN "Live only": more is audited


class _Watch:
    """One socket, from `connect` to its end."""

    def __init__(self, life: Connection, peer: Peer, while_open: TaskGroup) -> None:
        self._life = life
        self._peer = peer
        self._while_open = while_open
        self._inbox = life._inbox
        self._report = life._report
        self._deadline = life._clock() + OPEN_WITHIN_SECONDS
        self._open = False
        self._waits_for_scan = False

    async def run(self) -> Plan:
        while True:
            left = float("inf") if self._open else self._deadline - self._life._clock()
            with anyio.move_on_after(left) as patience:
                item = await self._inbox.take()
            if patience.cancelled_caught:
                await self._end()
                return self._life.ends.stalled("the connection did not open in time")
            plan = await self._handle(item)
            if plan:
                return plan

    async def _handle(self, item: Item) -> Plan | None:
        match item:
            case Qr():
                self._show_qr(item)
            case ConnectionState(state="close", close=CloseInfo() as info):
                return self._life.ends.after_close(info)
            case ConnectionState(state="open"):
                self._open = True
                self._life.note_open(item)
                self._while_open.start_soon(self._life._discovery.run, self._peer)
            case ConnectionState():
                if item.is_new_login:
                    self._waits_for_scan = False
                    self._report.show(View(status="connecting", state="paired", say="A phone has linked; logging in."))
                self._deadline = self._life._clock() + OPEN_WITHIN_SECONDS
            case Offline(count=count):
                if count:
                    logger.info("{} messages that waited while we were away have arrived", count)
            case Stalled(reason="unhandled"):
                logger.warning("an error inside Baileys was nobody's: {}", str(item.detail.get("error"))[:80])
            case Stalled(reason=reason) | StallFound(reason=reason):
                await self._end()
                return self._life.ends.stalled(reason)
            case DatabaseGone():
                await self._end()
                self._report.audit("disconnect", code=None, reason="the database does not answer")
                return self._life.ends.database_gone()
            case Request():
                with self._inbox.kept(item):
                    return await self._asked(item)
        return None

    async def _asked(self, request: Request) -> Plan | None:
        match request.ask:
            case Ask.REFRESH:
                await self._end()
                self._report.audit(
                    "disconnect", code=None, reason="asked for a new connection (wa_refresh_qr_requested)"
                )
                self._life._done(request)
                self._life.standing.attempts.clear()
                return Go()
            case Ask.DISCONNECT:
                return await self._life._log_out(self._peer, request, connected=self._open)
            case Ask.GROUPS:
                self._life._discovery.ask(request)
            case Ask.PAIRING_CODE:
                await self._pairing_code(request)
        return None

    async def _pairing_code(self, request: Request) -> None:
        if not self._waits_for_scan or request.phone is None:
            self._life._turn_down(request, "the session does not wait for a phone to be linked")
            return
        try:
            code = await self._peer.pairing_code(request.phone)
        except (CallFailed, CallTimeout):
            self._life._turn_down(request, "WhatsApp gave no pairing code")
            return
        self._report.amend(pairing_code=code, say=ENTER_THE_CODE)
        self._report.audit("pairing_code_generated")
        self._life._done(request)

    def _show_qr(self, told: Qr) -> None:
        self._waits_for_scan = True
        ttl = told.ttl_ms / 1000
        self._deadline = self._life._clock() + ttl + OPEN_WITHIN_SECONDS
        view = self._report.view
        pairing_code = view.pairing_code if view else None  # one that was asked for outlives the QR code beside it
        self._report.show(
            View(
                status="connecting",
                state="waiting_for_scan",
                say=ENTER_THE_CODE if pairing_code else SCAN_THE_CODE,
                qr=told.qr,
                expires_at=datetime.now(UTC) + timedelta(seconds=ttl),
                pairing_code=pairing_code,
            )
        )
        self._report.audit("qr_generated", ttl_s=ttl)

    async def _end(self) -> None:
        """End the socket ourselves; what it says on its way out is not news."""
        await self._peer.close(logout=False, drain_seconds=0)


def _left(stay: Stay) -> float | None:
    """Seconds until a stay is over; None: it has no end. A sidecar that ends meanwhile does not begin it anew."""
    at = stay.view.next_attempt_at
    if stay.seconds is None or at is None:
        return stay.seconds
    return min(stay.seconds, (at - datetime.now(UTC)).total_seconds())


def _number(jid: str | None) -> str | None:
    return jid.partition("@")[0].partition(":")[0] if jid else None

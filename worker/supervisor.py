"""Starts the parts in order, restarts the sidecar, and stops on a signal.

Order: HTTP, Supabase, the lease, the sidecar; whatever waits logs what it waits for. A stop runs the other way within
ten seconds; a second signal exits at once.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
from loguru import logger

from worker.bridge.peer import Peer, make_peer
from worker.bridge.process import NODE_FLAGS, Sidecar, check_node, kill_at_once, make_environment, run_sidecar
from worker.bridge.protocol import Pong
from worker.errors import (
    BridgeError,
    ExitCode,
    KeyRefused,
    OddAnswer,
    SettingsError,
    StaleFence,
    StoreError,
    StoreUnavailable,
    WorkerError,
    unwrapped,
)
from worker.installation import sidecar_folder
from worker.log import hide
from worker.outbound import proxy_for, without_password
from worker.session.arrivals import Arrivals
from worker.session.backoff import JITTER_MAX_SECONDS, Crashes
from worker.session.events import DeafFound, StallFound
from worker.session.flags import Monitored
from worker.session.host_poll import HostPoll
from worker.session.report import View
from worker.session.suspects import Cause, cause_of
from worker.session.watchdog import PING_EVERY_SECONDS, judge
from worker.settings import Settings
from worker.store import Lease, Store, connect_store, holder_file, lease
from worker.store.retry import until_answered
from worker.web.app import bind, serve
from worker.web.health import Health
from worker.wiring import LeasedSession, open_leased_session, open_supabase, pace

WHATSAPP = "wss://web.whatsapp.com/ws/chat"
STOP_SECONDS = 9.5  # within ten, as docs/operations.md says
SHUT_DOWN_SECONDS = 5.0  # drain, release, close
LAST_STATUS_SECONDS = 1.5  # a database that is away must not delay the stop
RELEASE_SECONDS = 1.5  # giving the lease back
ASK_SUPABASE_SECONDS = 1.0
KEY_LOOKS = 3  # a good key is refused now and then, seldom twice in a row
SKEW_MAX_SECONDS = 5.0  # a larger one is audited (docs/architecture.md, "Live only")

STOPPED = View(status="disconnected", state="stopped", say="The worker is stopped.")


class Stop:
    """The request to stop, and the blocks that it cancels."""

    def __init__(self) -> None:
        self.asked = False
        self._scopes: set[anyio.CancelScope] = set()

    def ask(self) -> None:
        self.asked = True
        for scope in self._scopes:
            scope.cancel()

    def release(self, scope: anyio.CancelScope) -> None:
        """A stop no longer cancels `scope`."""
        self._scopes.discard(scope)

    @contextmanager
    def interrupts(self) -> Iterator[anyio.CancelScope]:
        """A block that a stop cancels; shut down gracefully after it."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self.asked:
                    scope.cancel()
                yield scope
            finally:
                self._scopes.discard(scope)


class Supervisor:
    """One worker process."""

    def __init__(
        self,
        settings: Settings,
        on_view: Callable[[View], None] = lambda view: None,
        follow: Callable[[Store, str, Arrivals], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._settings = settings
        self._on_view = on_view
        self._follow = follow  # shows what arrives, while the lease is held
        self._stop = Stop()
        self._owner = lease.make_owner()
        self._crashes = Crashes(settings.worker_backoff_base_ms / 1000, settings.worker_backoff_max_ms / 1000)
        self.health = Health()

    def stop(self) -> None:
        """End gracefully, as SIGTERM does."""
        self._stop.ask()

    async def run(self) -> None:
        """Work until told to stop.

        Raises:
            WorkerError: why the worker cannot go on; the text is for the operator.
        """
        self._announce()
        check_node(self._settings.worker_node)
        listener = bind(self._settings.worker_http_host, self._settings.worker_http_port)
        with unwrapped():
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(self._listen_for_signals)
                await task_group.start(serve, self.health, listener)
                await self._with_supabase()
                task_group.cancel_scope.cancel()
        logger.info("stopped")

    async def _with_supabase(self) -> None:
        with self._stop.interrupts() as boot:
            async with open_supabase(self._settings, lambda line: logger.info("{}", line)) as (url, key, place):
                self._stop.release(boot)
                hide(key)
                async with connect_store(url, key) as store:
                    await self._serve(store, url, place)

    def _announce(self) -> None:
        settings = self._settings
        for secret in (settings.supabase_service_key, settings.worker_state_key, settings.worker_state_key_previous):
            hide(secret.get_secret_value() if secret else None)
        if proxy := proxy_for(settings.wa_socket_url or WHATSAPP):
            hide(urlsplit(proxy).password)
            logger.info("connections leave through the proxy {}", without_password(proxy))
        if chosen := settings.local_server():
            level = "INFO" if settings.on_loopback else "WARNING"
            logger.log(level, "settings for a local server, not for WhatsApp: {}", ", ".join(chosen))

    async def _serve(self, store: Store, url: str, place: str) -> None:
        with self._stop.interrupts():
            await self._reach(store, url)
            self.health.supabase, self.health.supabase_ok = place, True
            logger.info("Supabase: {}", place)
            await self._look_at_bucket(store)
        folder = self._settings.worker_data_dir.resolve()
        with holder_file.held(folder, self._owner):
            while not self._stop.asked:
                await self._hold_lease(store, folder)

    async def _look_at_bucket(self, store: Store) -> None:
        """Make the bucket if it is missing. Messages do not wait for it; the figures' poll looks again."""
        try:
            await store.bucket.ensure()
        except StoreError as error:
            logger.warning("the bucket for media does not answer ({}); files wait until it does", error)
            self.health.bucket_trouble = f"does not answer ({error})"

    async def _reach(self, store: Store, url: str) -> None:
        """Wait for Supabase, within bounds.

        Raises:
            SettingsError: it keeps refusing the key, or lacks our tables.
            StoreUnavailable: nobody answered in time; whoever restarts us may try again.
        """
        deadline = time.monotonic() + self._settings.worker_boot_wait_s
        refusals, said = 0, ""
        while True:
            try:
                return await store.check()
            except StoreUnavailable as error:
                refusals = refusals + 1 if isinstance(error, KeyRefused) else 0
                if refusals >= KEY_LOOKS or time.monotonic() >= deadline:
                    raise self._unreachable(url, error) from None
                reason = (
                    f"answers oddly ({error})" if isinstance(error, OddAnswer) else f"does not answer yet ({error})"
                )
            if said != reason:
                logger.warning("Supabase at {} {}; waiting for it", url, reason)
                self.health.supabase = f"{reason}; waiting for it"
                said = reason
            await anyio.sleep(ASK_SUPABASE_SECONDS)

    def _unreachable(self, url: str, error: StoreUnavailable) -> WorkerError:
        waited = f"(waited {self._settings.worker_boot_wait_s} s, WORKER_BOOT_WAIT_S)"
        if isinstance(error, OddAnswer) and error.remedy:
            return SettingsError(error.remedy)
        if isinstance(error, OddAnswer):
            return StoreUnavailable(f"SUPABASE_URL: {url} answers, but not as it should: {error} {waited}")
        return StoreUnavailable(
            f"SUPABASE_URL: {url} cannot be reached ({error}); is it right, and is Supabase running? {waited}"
        )

    # The lease

    async def _hold_lease(self, store: Store, folder: Path) -> None:
        session, seconds = self._settings.worker_session, float(self._settings.worker_lease_s)
        held: Lease | None = None
        with self._stop.interrupts():
            held = await lease.acquire(
                store, session, self._owner, seconds, self._wait_for_lease, partial(holder_file.is_dead, folder)
            )
        if held is None:
            return
        holder_file.sweep(folder)
        self.health.lease, self.health.lease_ok = "held", True
        try:
            with unwrapped():
                await self._serve_lease(store, held)
        except StaleFence:
            logger.warning("another worker has taken over; waiting for its lease")
        finally:
            self.health.lease, self.health.lease_ok, self.health.view = "not held", False, None
            with anyio.move_on_after(RELEASE_SECONDS, shield=True):
                try:
                    await store.lease_release(session, self._owner, held.fence)
                except StoreError:  # never in place of what ended the session
                    logger.warning("the lease could not be released; it expires by itself")

    def _wait_for_lease(self, reason: str) -> None:
        logger.info("{}", reason)
        self.health.lease = reason

    async def _serve_lease(self, store: Store, held: Lease) -> None:
        settings, fence = self._settings, held.fence
        skew = (datetime.now(UTC) - held.now).total_seconds()
        async with (
            open_leased_session(settings, store, self._owner, fence, self.health, self._on_view) as leased,
            anyio.create_task_group() as task_group,
        ):
            poll = HostPoll(store, self._owner, pace(settings), [leased.served])
            task_group.start_soon(leased.served.until_lost)
            task_group.start_soon(leased.report.run)
            task_group.start_soon(leased.watch.run, leased.tell_database_gone)
            task_group.start_soon(store.key.run, store.schema_version, leased.tell_key)
            if abs(skew) > SKEW_MAX_SECONDS:
                logger.warning("this machine's clock is {:.0f} s away from the database's", abs(skew))
                leased.report.error(
                    "CLOCK_SKEW", "this machine's clock differs from the database's", skew_s=round(skew)
                )
            try:
                with self._stop.interrupts():
                    credentials = leased.state.credentials  # raises before anything is changed
                    await until_answered(credentials, what="the credentials")
                    await until_answered(poll.ask, what="the monitored groups and the flags")
                task_group.start_soon(poll.run)
                task_group.start_soon(leased.flags.run)
                task_group.start_soon(leased.media.run)
                task_group.start_soon(leased.housekeeping.run)
                task_group.start_soon(leased.drops.run)
                if self._follow:
                    task_group.start_soon(self._follow, store, settings.worker_session, leased.arrivals)
                task_group.start_soon(leased.figures.run)
                await self._run_sidecars(leased)
            except StaleFence:
                raise
            except WorkerError as fault:
                await self._write_last_status(leased, _failed(fault))
                raise
            await self._write_last_status(leased, leased.connection.resting_view() or STOPPED)
            task_group.cancel_scope.cancel()

    async def _write_last_status(self, leased: LeasedSession, view: View) -> None:
        """Write the last status and the last count of discards, if the database answers soon."""
        leased.report.show(view)
        with anyio.move_on_after(LAST_STATUS_SECONDS):
            with suppress(StoreError):
                await leased.housekeeping.account_for_discards()
            await leased.report.flushed()

    # The sidecar

    async def _run_sidecars(self, leased: LeasedSession) -> None:
        """Run one sidecar after the other until told to stop."""
        while not self._stop.asked:
            started = time.monotonic()
            try:
                with unwrapped():
                    await self._run_sidecar(leased)
            except BridgeError as gone:
                if self._stop.asked:
                    return
                await self._pause(leased, str(gone), time.monotonic() - started)
            finally:
                self.health.sidecar_pid = None
                leased.phone.peer = None
                leased.watch.withdraw("commit", "state")  # the calls of this sidecar ended with it

    async def _run_sidecar(self, leased: LeasedSession) -> None:
        settings = self._settings
        folder = sidecar_folder()
        environment = make_environment(settings.log_level, proxy=proxy_for(settings.wa_socket_url or WHATSAPP))
        sidecar: Sidecar | None = None
        try:
            with unwrapped():
                command: list[str | Path] = [settings.worker_node, *NODE_FLAGS, folder / "index.js"]
                async with run_sidecar(command, environment, folder) as sidecar:
                    self.health.sidecar_pid = sidecar.pid
                    with make_peer(sidecar.stdout, sidecar.stdin, leased.handlers) as peer:
                        leased.phone.peer = peer
                        await self._talk(leased, peer, sidecar)
        except BridgeError as gone:
            if sidecar and not self._stop.asked:
                cause = cause_of(gone, sidecar.returncode, forced=sidecar.forced)
                await self._suspect(leased, sidecar.mark.read(), cause)
            raise

    async def _suspect(self, leased: LeasedSession, digest: str | None, cause: Cause | None) -> None:
        """Count what happened against this stanza."""
        with self._stop.interrupts():
            await leased.suspects.note(digest, cause)

    async def _talk(self, leased: LeasedSession, peer: Peer, sidecar: Sidecar) -> None:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(peer.run)
            task_group.start_soon(self._watch_over, leased, peer, sidecar)
            task_group.start_soon(self._tell_monitored, leased.served.monitored, peer)
            with self._stop.interrupts():
                await leased.connection.run(peer)
            with anyio.move_on_after(SHUT_DOWN_SECONDS):
                await leased.connection.shut_down(peer)
            task_group.cancel_scope.cancel()

    async def _tell_monitored(self, monitored: Monitored, peer: Peer) -> None:
        """Tell the sidecar which groups are switched on, now and at each change."""
        while True:
            changed = monitored.changed
            await peer.monitor(monitored.groups)
            await changed.wait()

    async def _watch_over(self, leased: LeasedSession, peer: Peer, sidecar: Sidecar) -> None:
        """Ping the sidecar and judge its figures. One that does not answer raises CallTimeout."""
        before: Pong | None = None
        while True:
            await anyio.sleep(PING_EVERY_SECONDS)
            pong = await peer.ping()
            self.health.figures = pong.model_dump()
            logger.bind(**self.health.figures).trace("the sidecar's figures")
            leased.served.high_water.take(pong)
            self._listen_to(leased, pong)
            stall = judge(pong, before, database_away=leased.watch.away)
            before = pong
            if stall and leased.connection.policy.opened_at is not None:
                await self._suspect(leased, stall.blamed or sidecar.mark.read(), "death")
                leased.events.put(StallFound(reason=stall.reason))

    def _listen_to(self, leased: LeasedSession, pong: Pong) -> None:
        """Judge whether the open connection is deaf, and tell when something came last."""
        open_seconds, now = leased.connection.policy.open_seconds, time.time()
        if open_seconds is None:
            return
        deaf = leased.hearing.observe(pong, now=now, opened_at=now - open_seconds)
        if deaf:
            leased.events.put(DeafFound(reason=deaf))
        if heard := leased.hearing.news(now):
            leased.report.keep(heard=heard)

    async def _pause(self, leased: LeasedSession, why: str, lived: float) -> None:
        delay = self._crashes.note(lived, random.uniform(0, JITTER_MAX_SECONDS))  # noqa: S311 - no secret
        self.health.sidecar_restarts += 1
        leased.connection.policy.note_gone()
        leased.report.error("SIDECAR_GONE", why, delay_s=round(delay, 1), in_a_row=self._crashes.in_a_row)
        say = f"The part that talks to WhatsApp ended ({why}); starting it again."
        if self._crashes.looping:
            say = f"The part that talks to WhatsApp keeps ending ({why}). Look at the log; next attempt in 5 minutes."
        at = datetime.now(UTC) + timedelta(seconds=delay)
        leased.report.show(View(status="disconnected", state="crashing", say=say, next_attempt_at=at))
        with self._stop.interrupts():
            await anyio.sleep(delay)

    # Signals

    async def _listen_for_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as task_group:
                async for number in signals:
                    if self._stop.asked:
                        self._end_at_once(ExitCode.INTERRUPTED, "second signal: exiting at once")
                    logger.info("{}: stopping", signal.Signals(number).name)
                    self._stop.ask()
                    task_group.start_soon(self._bound_the_end)

    async def _bound_the_end(self) -> None:
        await anyio.sleep(STOP_SECONDS)
        self._end_at_once(ExitCode.TOO_SLOW, "the stop took too long: exiting at once")

    def _end_at_once(self, code: int, why: str) -> None:
        logger.warning("{}", why)
        if self.health.sidecar_pid is not None:
            kill_at_once(self.health.sidecar_pid)
        os._exit(code)


def _failed(fault: WorkerError) -> View:
    say = f"The worker has ended itself and must be started again: {fault}"
    return View(status="disconnected", state="failed", say=say)

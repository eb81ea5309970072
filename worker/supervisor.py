"""Serves one session: holds its lease and runs one sidecar after the other.

Logs every wait. Stops in reverse order: the sidecar, the last status, the lease.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from loguru import logger

from worker.bridge.peer import Peer, make_peer
from worker.bridge.process import Sidecar
from worker.bridge.protocol import Pong
from worker.errors import BridgeError, StaleFence, StoreError, WorkerError, unwrapped
from worker.log_limits import LineBudget
from worker.session.arrivals import Arrivals
from worker.session.backoff import JITTER_MAX_SECONDS, Crashes
from worker.session.events import DeafFound, StallFound
from worker.session.flags import Monitored
from worker.session.host_poll import PolledSession
from worker.session.report import View
from worker.session.suspects import Cause, cause_of
from worker.session.watchdog import PING_EVERY_SECONDS, judge
from worker.settings import Settings
from worker.sidecar import SidecarAhead, start_sidecar
from worker.stop import Stop
from worker.store import Lease, Store, holder_file, lease
from worker.store.retry import until_answered
from worker.web.health import SessionHealth
from worker.wiring import LeasedSession, Shared, open_leased_session

SHUT_DOWN_SECONDS = 5.0  # drain, release, close
LAST_STATUS_SECONDS = 1.5  # an unreachable database must not delay the stop
RELEASE_SECONDS = 1.5  # for giving the lease back
SKEW_MAX_SECONDS = 5.0  # larger clock differences are audited (docs/architecture.md, "Live only")

STOPPED = View(status="disconnected", state="stopped", say="The worker is stopped.")


def ended_itself(fault: WorkerError) -> View:
    """The row's last view when a named session (`run`, `up`) fails."""
    say = f"The worker has ended itself and must be started again: {fault}"
    return View(status="disconnected", state="failed", say=say)


class Supervisor:
    """Serves one session of this process."""

    def __init__(
        self,
        settings: Settings,
        shared: Shared,
        health: SessionHealth,
        stop: Stop,
        on_view: Callable[[View], None] = lambda view: None,
        follow: Callable[[Store, str, Arrivals], Coroutine[Any, Any, None]] | None = None,
        failed: Callable[[WorkerError], View] = ended_itself,
        ahead: SidecarAhead | None = None,
    ) -> None:
        self._settings = settings
        self._failed = failed  # what the row shows when the session cannot be served
        self._shared = shared
        self._health = health
        self._stop = stop
        self._on_view = on_view
        self._follow = follow  # shows arriving messages while the lease is held
        self._ahead = ahead  # the first sidecar, if it was started before the lease was held
        self._crashes = Crashes(settings.worker_backoff_base_ms / 1000, settings.worker_backoff_max_ms / 1000)
        self._lines = LineBudget()  # shared by all sidecars: a crash loop gets no extra lines
        self.at_end = STOPPED  # what the row shows after a stop

    # The lease

    async def run(self) -> None:
        """Wait for the session's lease and serve it, repeatedly, until told to stop.

        Raises:
            WorkerError: why the session cannot be served.
        """
        while not self._stop.asked:
            await self._hold_lease()

    async def _hold_lease(self) -> None:
        shared, session, seconds = self._shared, self._settings.worker_session, float(self._settings.worker_lease_s)
        held: Lease | None = None
        with self._stop.interrupts():
            held = await lease.acquire(
                shared.store,
                session,
                shared.owner,
                seconds,
                self._wait_for_lease,
                partial(holder_file.is_dead, shared.folder),
            )
        if held is None:
            return
        holder_file.sweep(shared.folder)
        polled = PolledSession(session, held.fence)
        try:
            with shared.poll.registered(polled):
                await self.serve(polled, clock_skew(held.now))
        except StaleFence:
            logger.warning("another worker has taken over; waiting for its lease")
        finally:
            await release(shared, session, held.fence)

    def _wait_for_lease(self, reason: str) -> None:
        logger.info("{}", reason)
        self._health.lease = reason
        if self._ahead:  # the wait may be long
            self._ahead.end()

    async def serve(self, polled: PolledSession, skew: float) -> None:
        """Serve a session that the poll covers, until told to stop. `skew`: `clock_skew` at the time of its lease.

        Raises:
            StaleFence: another worker holds the session.
            WorkerError: why the session cannot be served.
        """
        self._health.lease, self._health.lease_ok = "held", True
        try:
            with unwrapped():
                await self._serve(polled, skew)
        finally:
            self._health.lease, self._health.lease_ok, self._health.view = "not held", False, None

    async def _serve(self, polled: PolledSession, skew: float) -> None:
        settings, shared = self._settings, self._shared
        async with (
            open_leased_session(settings, shared, polled.fence, self._health, self._on_view) as leased,
            anyio.create_task_group() as task_group,
        ):
            task_group.start_soon(polled.until_lost)
            task_group.start_soon(leased.report.run)
            task_group.start_soon(leased.served.watch.run, leased.tell_database_gone)
            if abs(skew) > SKEW_MAX_SECONDS:
                logger.warning("this machine's clock is {:.0f} s away from the database's", abs(skew))
                leased.report.error(
                    "CLOCK_SKEW", "this machine's clock differs from the database's", skew_s=round(skew)
                )
            with polled.serving(leased.served):
                try:
                    with self._stop.interrupts():
                        credentials = leased.state.credentials  # raises before anything is changed
                        await until_answered(credentials, what="the credentials")
                        await until_answered(lambda: shared.poll.ask(polled), what="the monitored groups and the flags")
                    await self._work(leased, task_group)
                except StaleFence:
                    raise
                except WorkerError as fault:
                    await self._write_last_status(leased, self._failed(fault))
                    raise
                await self._write_last_status(leased, leased.connection.resting_view() or self.at_end)
            task_group.cancel_scope.cancel()

    async def _work(self, leased: LeasedSession, task_group: TaskGroup) -> None:
        task_group.start_soon(leased.served.flags.run)
        task_group.start_soon(leased.served.media.run)
        task_group.start_soon(leased.served.housekeeping.run)
        task_group.start_soon(leased.drop_warnings.run)
        if self._follow:
            task_group.start_soon(self._follow, self._shared.store, self._settings.worker_session, leased.arrivals)
        task_group.start_soon(leased.figures.run)
        await self._run_sidecars(leased)

    async def _write_last_status(self, leased: LeasedSession, view: View) -> None:
        """Write the last status and the last count of discards, within LAST_STATUS_SECONDS."""
        leased.report.show(view)
        with anyio.move_on_after(LAST_STATUS_SECONDS):
            with suppress(StoreError):
                await leased.served.housekeeping.account_for_discards()
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
                self._health.sidecar_pid = None
                leased.phone.peer = None
                leased.served.watch.withdraw("commit", "state")  # this sidecar's pending calls ended with it

    async def _run_sidecar(self, leased: LeasedSession) -> None:
        sidecar: Sidecar | None = None
        try:
            with unwrapped():
                async with self._sidecar() as sidecar:
                    self._health.sidecar_pid = sidecar.pid
                    with make_peer(sidecar.stdout, sidecar.stdin, leased.handlers) as peer:
                        leased.phone.peer = peer
                        await self._talk(leased, peer, sidecar)
        except BridgeError as gone:
            if sidecar and not self._stop.asked:
                cause = cause_of(gone, sidecar.returncode, forced=sidecar.forced)
                await self._suspect(leased, sidecar.mark.read(), cause)
            raise

    def _sidecar(self) -> AbstractAsyncContextManager[Sidecar]:
        ahead, self._ahead = self._ahead, None
        return ahead.taken() if ahead and ahead.ready else start_sidecar(self._settings, self._lines)

    async def _suspect(self, leased: LeasedSession, digest: str | None, cause: Cause | None) -> None:
        """Count this end or stall against the stanza."""
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
        """Tell the sidecar which groups are switched on, now and after each change."""
        while True:
            changed = monitored.changed
            await peer.monitor(monitored.groups)
            await changed.wait()

    async def _watch_over(self, leased: LeasedSession, peer: Peer, sidecar: Sidecar) -> None:
        """Ping the sidecar and judge its figures. Raises CallTimeout if it does not answer."""
        before: Pong | None = None
        while True:
            await anyio.sleep(PING_EVERY_SECONDS)
            pong = await peer.ping()
            self._health.figures = pong.model_dump()
            logger.bind(**self._health.figures).trace("the sidecar's figures")
            leased.served.high_water.take(pong)
            if commits := leased.commit_times.figures_to_store(time.time()):
                leased.report.keep(commits=commits)
            self._listen_to(leased, pong)
            stall = judge(pong, before, database_away=leased.served.watch.away)
            before = pong
            if stall and leased.connection.policy.opened_at is not None:
                await self._suspect(leased, stall.blamed or sidecar.mark.read(), "death")
                leased.events.put(StallFound(reason=stall.reason))

    def _listen_to(self, leased: LeasedSession, pong: Pong) -> None:
        """Check whether the open connection is deaf, and store when something last arrived."""
        open_seconds, now = leased.connection.policy.open_seconds, time.time()
        if open_seconds is None:
            return
        deaf = leased.deafness.observe(pong, now=now, opened_at=now - open_seconds)
        if deaf:
            leased.events.put(DeafFound(reason=deaf))
        if heard := leased.deafness.times_to_store(now):
            leased.report.keep(heard=heard)

    async def _pause(self, leased: LeasedSession, why: str, lived: float) -> None:
        delay = self._crashes.note(lived, random.uniform(0, JITTER_MAX_SECONDS))  # noqa: S311 - no secret
        self._health.sidecar_restarts += 1
        leased.connection.policy.note_gone()
        leased.report.error("SIDECAR_GONE", why, delay_s=round(delay, 1), in_a_row=self._crashes.in_a_row)
        say = f"The part that talks to WhatsApp ended ({why}); starting it again."
        if self._crashes.looping:
            say = f"The part that talks to WhatsApp keeps ending ({why}). Look at the log; next attempt in 5 minutes."
        at = datetime.now(UTC) + timedelta(seconds=delay)
        leased.report.show(View(status="disconnected", state="crashing", say=say, next_attempt_at=at))
        with self._stop.interrupts():
            await anyio.sleep(delay)


def clock_skew(now: datetime) -> float:
    """Seconds by which this machine's clock is ahead of the database's. `now`: the database's time, just read."""
    return (datetime.now(UTC) - now).total_seconds()


async def release(shared: Shared, session: str, fence: int, *, failed: bool = False) -> None:
    """Give the lease back, within RELEASE_SECONDS. `failed`: no host should retry at once."""
    with anyio.move_on_after(RELEASE_SECONDS, shield=True):
        try:
            await shared.store.lease_release(session, shared.owner, fence, failed=failed)
        except StoreError:  # must not replace the error that ended the session
            logger.warning("the lease could not be released; it expires by itself")

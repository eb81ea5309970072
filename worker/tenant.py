"""A session that the poll claimed, until it is given back. Its failures affect no other session."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import anyio
from loguru import logger

from worker.errors import SettingsError, StaleFence, StoreUnavailable, WorkerError
from worker.log import hidden
from worker.session.host_poll import GiveUpReason, PolledSession
from worker.session.rate_limit import RateLimiter
from worker.session.reconnect_policy import StayDown, first_retry_state
from worker.session.report import View
from worker.session_settings import parse_session_settings
from worker.settings import Settings
from worker.stop import Stop
from worker.store import ClaimedSession, StoredSettings
from worker.store.retry import until_answered
from worker.supervisor import STOPPED, Supervisor, clock_skew, release
from worker.web.health import SessionHealth
from worker.wiring import Shared

AT_END: Mapping[GiveUpReason, View] = {
    "unwanted": View(
        status="disconnected", state="stopped", say="Stopped, as asked: the session is not wanted (`wanted`)."
    ),
    "moves": View(status="disconnected", state="stopped", say="Another host takes the session over."),
}
LAST_WORD_SECONDS = 1.0  # of the ten seconds for a stop
KEPT = ("version", "version_at", "claims", "heard", "commits")  # fields of `detail` that survive every state
CHANGING = View(status="disconnected", state="starting", say="Starting again with the session's new settings.")


class Tenant:
    """One claimed session. Ends on a stop, when another host takes over, or on a failure. `run` never raises."""

    def __init__(
        self,
        claimed: ClaimedSession,
        settings: Settings,
        shared: Shared,
        health: SessionHealth,
        stop: Stop,
        starts: RateLimiter,
    ) -> None:
        self.session = claimed.session
        self.health = health
        self.give_up_reason: GiveUpReason | None = None  # set when asked to give the session back
        self._settings = settings
        self._shared = shared
        self._stop = stop
        self._starts = starts
        self._own = claimed.settings
        self._skew = clock_skew(claimed.now)
        self._polled = PolledSession(claimed.session, claimed.fence, self, claimed.settings)
        self._again = Stop(stop)  # requested when the settings change
        self._changes = False  # the settings changed and are not in use yet
        self._supervisor: Supervisor | None = None
        self._secrets = ExitStack()  # secrets of the current settings, hidden in the log
        self._ended = anyio.Event()

    # ClaimCallbacks, called by the poll

    def on_give_up(self, why: GiveUpReason) -> None:
        if not self._stop.asked:
            self.give_up_reason = why
            logger.info(
                "{} {}", self.session, "is not wanted any more" if why == "unwanted" else "goes to another host"
            )
            self._end_with(AT_END[why])
            self._stop.ask()

    def on_settings(self, settings: StoredSettings) -> None:
        self._own = settings
        if self._stop.asked:
            return
        self._changes = True
        self._end_with(CHANGING)
        self._again.ask()

    def _end_with(self, view: View) -> None:
        if self._supervisor is not None:
            self._supervisor.at_end = view

    # Serving

    async def run(self, after: Tenant | None = None) -> None:
        """Serve the session until it ends, then give it back. `after`: an earlier tenant of it, which ends first."""
        failed = False
        with logger.contextualize(session=self.session):
            try:
                # Until it is released, the poll names it: a host is handed again what it does not know that it holds.
                with self._shared.poll.registered(self._polled):
                    try:
                        failed = await self._until_end(after)
                    finally:
                        self._polled.leaving = True
                        await release(self._shared, self.session, self._polled.fence, failed=failed)
            finally:
                self._secrets.close()
                self._ended.set()

    async def _until_end(self, after: Tenant | None) -> bool:
        """Whether it failed."""
        try:
            await self._live(after)
        except StaleFence:
            logger.warning("another host has taken over {}", self.session)
        except WorkerError as fault:
            logger.error("{} cannot be served here at the moment: {}", self.session, fault)
            return True
        except Exception:
            logger.exception("a fault of the worker itself ended {}; please report it", self.session)
            return True
        return False

    async def _live(self, after: Tenant | None) -> None:
        if after is not None:
            await after._ended.wait()
        while not self._stop.asked:
            self._again = Stop(self._stop)
            try:
                settings = parse_session_settings(self._own.values).over(self._settings, self.session)
            except SettingsError as wrong:
                await self._wait_for_other_settings(wrong)
                continue
            with self._again.interrupts():
                await self._starts.wait()
            if not self._again.asked:
                await self._serve(settings)
        if self._changes:
            await self._say_stopped()

    async def _serve(self, settings: Settings) -> None:
        self._secrets.close()
        self._secrets.enter_context(hidden(urlsplit(settings.proxy or "").password))
        self._supervisor = Supervisor(settings, self._shared, self.health, self._again, failed=_tried_again)
        self._changes = False
        try:
            await self._supervisor.serve(self._polled, self._skew)
        finally:
            self._supervisor = None

    async def _wait_for_other_settings(self, wrong: SettingsError) -> None:
        """The settings are invalid: serve nothing, but keep the lease, so that no other host tries the same in vain."""
        logger.error("{} waits for other settings: {}", self.session, wrong)
        self.health.lease, self.health.lease_ok = "held", True
        self.health.view = View(status="disconnected", state="needs_you", say=f"Its settings are wrong: {wrong}")
        with self._again.interrupts():
            await until_answered(lambda: self._show(self.health.view), what="the session's row")
            await self._polled.until_lost()

    async def _say_stopped(self) -> None:
        """Correct a row that says "starting again" when the session is stopping."""
        with anyio.move_on_after(LAST_WORD_SECONDS), suppress(StoreUnavailable):
            row = (await self._shared.store.status(self.session)).get("session") or {}
            if (row.get("detail") or {}).get("say") == CHANGING.say:
                await self._show(AT_END[self.give_up_reason] if self.give_up_reason else STOPPED)

    async def _show(self, view: View | None) -> None:
        """Write the row outside of a leased session. Never overwrites a logout or a ban."""
        store, session, fence = self._shared.store, self.session, self._polled.fence
        row = (await store.status(session)).get("session") or {}
        if view is None or isinstance(first_retry_state(row).plan, StayDown):
            return
        kept = {name: value for name, value in (row.get("detail") or {}).items() if name in KEPT}
        await store.set_session(session, fence, view.patch(kept))


def _tried_again(fault: WorkerError) -> View:
    say = f"This session could not be served: {fault}. A host tries again, later each time."
    return View(status="disconnected", state="failed", say=say)

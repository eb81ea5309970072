"""The worker process: signals, HTTP, Supabase, the poll, and the sessions that it serves.

Starts HTTP, then Supabase, then the sessions, and logs every wait. Stops in reverse order within ten seconds; a
second signal exits at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskGroup
from loguru import logger

from worker.bridge.process import kill_at_once
from worker.errors import (
    ExitCode,
    KeyRefused,
    SettingsError,
    StoreError,
    StoreUnavailable,
    UnexpectedAnswer,
    WorkerError,
    unwrapped,
)
from worker.log import hide
from worker.media.download import Limits, open_downloader
from worker.media.slots import Slots
from worker.outbound import proxy_for, without_password
from worker.session.arrivals import Arrivals
from worker.session.host_poll import ClaimHandler, HostPoll
from worker.session.rate_limit import RateLimiter
from worker.session.report import View
from worker.settings import Settings
from worker.sidecar import WHATSAPP, SidecarAhead
from worker.stop import Stop
from worker.store import ClaimedSession, Store, connect_store, holder_file, lease
from worker.supervisor import Supervisor, release
from worker.tenant import Tenant
from worker.web.app import bind, serve
from worker.web.figures import BucketWatch
from worker.web.health import Health
from worker.wiring import Shared, media_source, open_supabase, poll_timing

STOP_SECONDS = 9.5  # within ten, as docs/operations.md says
ASK_SUPABASE_SECONDS = 1.0
FILES_AT_ONCE = 16  # over all sessions of a host
LEAVE_SECONDS = 1.0  # an unreachable database must not delay the stop
KEY_LOOKS = 3  # Supabase sometimes refuses a good key, seldom twice in a row


class Host:
    """One worker process. Serves the session that its settings name or, with `capacity`, up to that many wanted ones.

    `on_view`, `follow` and `ahead`, a sidecar that runs already, apply to the named session only.
    """

    def __init__(
        self,
        settings: Settings,
        on_view: Callable[[View], None] = lambda view: None,
        follow: Callable[[Store, str, Arrivals], Coroutine[Any, Any, None]] | None = None,
        *,
        capacity: int | None = None,
        ahead: SidecarAhead | None = None,
    ) -> None:
        self._settings = settings
        self._capacity = capacity
        self._on_view = on_view
        self._follow = follow
        self._stop = Stop()
        self._owner = lease.make_owner()
        self._tenants: dict[str, Tenant] = {}
        self._starts = RateLimiter()
        self._ahead = ahead
        self._left = anyio.Event()  # set when a tenant ends
        self._shared: Shared
        self.health = Health(named=settings.worker_session if capacity is None else None, capacity=capacity or 0)

    def stop(self) -> None:
        """End gracefully, as SIGTERM does."""
        self._stop.ask()

    async def run(self) -> None:
        """Run until told to stop.

        Raises:
            WorkerError: why the worker cannot go on; the text is for the operator.
        """
        self._announce()
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
                async with connect_store(url, key, sessions=self._capacity or 1) as store:
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
        bucket = BucketWatch(store, self.health)
        with self._stop.interrupts():
            await self._reach(store, url)
            self.health.supabase, self.health.supabase_ok = place, True
            logger.info("Supabase: {}", place)
            await bucket.look()
            if self.health.bucket_trouble:  # not fatal: messages do not need the bucket
                logger.warning("the bucket for media {}; files wait until it does", self.health.bucket_trouble)
        settings, folder = self._settings, self._settings.worker_data_dir.resolve()
        limits = Limits(max_bytes=settings.max_media_bytes)
        with holder_file.held(folder, self._owner):
            async with (
                open_downloader(media_source(settings), limits) as downloader,
                anyio.create_task_group() as tasks,
            ):
                host = (
                    ClaimHandler(free_slots=self._free_slots, on_claim=partial(self._take, tasks))
                    if self._capacity
                    else None
                )
                poll = HostPoll(store, self._owner, poll_timing(settings), host)
                self._shared = shared = Shared(
                    store=store,
                    owner=self._owner,
                    poll=poll,
                    downloader=downloader,
                    folder=folder,
                    logins=RateLimiter() if host else None,
                    files=Slots(max(FILES_AT_ONCE, settings.worker_media_concurrency)) if host else None,
                )
                tasks.start_soon(bucket.run)
                tasks.start_soon(store.key.run, store.schema_version, shared.show_key_refusal)
                self.health.away = lambda: poll.away
                if host is None:
                    tasks.start_soon(poll.run)
                    await self._serve_named(shared)
                else:
                    holder_file.sweep(folder)  # for a named session, its supervisor does this once it has the lease
                    await self._serve_claimed(poll)
                tasks.cancel_scope.cancel()

    async def _serve_named(self, shared: Shared) -> None:
        """Serve the session that the settings name. Its end is the end of the process."""
        supervisor = Supervisor(
            self._settings, shared, self.health.session, self._stop, self._on_view, self._follow, ahead=self._ahead
        )
        await supervisor.run()

    # Claimed sessions

    async def _serve_claimed(self, poll: HostPoll) -> None:
        """Serve the sessions that the poll claims until told to stop, then wait until all are given back."""
        async with anyio.create_task_group() as polling:
            polling.start_soon(poll.run)
            await self._stop.wait()
            await self._leave(poll)  # from here on, other hosts take over released sessions at once
            while self._tenants:
                self._left = anyio.Event()
                await self._left.wait()
            await self._leave(poll)  # polls since then have registered this host again
            polling.cancel_scope.cancel()

    async def _leave(self, poll: HostPoll) -> None:
        """Tell the other hosts that we are leaving. Sessions claimed by a poll in flight are given back (`_take`)."""
        with anyio.move_on_after(LEAVE_SECONDS):
            async with poll.at_rest():
                try:
                    await self._shared.store.host_leave(self._owner)
                except StoreError:
                    logger.warning("could not tell the other hosts; they take over the sessions a little later")

    def _free_slots(self) -> int:
        return 0 if self._stop.asked else max(0, (self._capacity or 0) - len(self._tenants))

    def _take(self, tasks: TaskGroup, claimed: ClaimedSession) -> None:
        if self._stop.asked:  # claimed by a poll in flight
            tasks.start_soon(release, self._shared, claimed.session, claimed.fence)
            return
        logger.info("serving {}", claimed.session)
        before = self._tenants.get(claimed.session)
        health = self.health.joins(claimed.session)
        tenant = Tenant(claimed, self._settings, self._shared, health, Stop(self._stop), self._starts)
        self._tenants[claimed.session] = tenant
        tasks.start_soon(self._run, tenant, before)

    async def _run(self, tenant: Tenant, before: Tenant | None) -> None:
        await tenant.run(before)
        if self._tenants.get(tenant.session) is tenant:
            del self._tenants[tenant.session]
            self.health.leaves(tenant.session, unwanted=tenant.give_up_reason == "unwanted")
        self._left.set()

    async def _reach(self, store: Store, url: str) -> None:
        """Wait for Supabase, up to WORKER_BOOT_WAIT_S.

        Raises:
            SettingsError: it keeps refusing the key, or our tables are missing.
            StoreUnavailable: no answer in time; a restart may help.
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
                    f"answers oddly ({error})"
                    if isinstance(error, UnexpectedAnswer)
                    else f"does not answer yet ({error})"
                )
            if said != reason:
                logger.warning("Supabase at {} {}; waiting for it", url, reason)
                self.health.supabase = f"{reason}; waiting for it"
                said = reason
            await anyio.sleep(ASK_SUPABASE_SECONDS)

    def _unreachable(self, url: str, error: StoreUnavailable) -> WorkerError:
        waited = f"(waited {self._settings.worker_boot_wait_s} s, WORKER_BOOT_WAIT_S)"
        if isinstance(error, UnexpectedAnswer) and error.remedy:
            return SettingsError(error.remedy)
        if isinstance(error, UnexpectedAnswer):
            return StoreUnavailable(f"SUPABASE_URL: {url} answers, but not as it should: {error} {waited}")
        return StoreUnavailable(
            f"SUPABASE_URL: {url} cannot be reached ({error}); is it right, and is Supabase running? {waited}"
        )

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
        for one in self.health.sessions.values():
            if one.sidecar_pid is not None:
                kill_at_once(one.sidecar_pid)
        os._exit(code)

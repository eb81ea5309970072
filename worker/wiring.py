"""Builds the parts of a leased session and wires them together. Decides nothing.

A leased session lasts as long as its lease. It may run several sidecars in turn, each with several connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loguru import logger

from worker.bridge.peer import Handler, Peer
from worker.bridge.protocol import Me, MediaHostList
from worker.errors import CallFailed, MediaExpired, MediaUnavailable
from worker.ingest.committer import Committer, Listeners
from worker.ingest.first_arrivals import FirstArrivals
from worker.ingest.rules.live import RETRY_WINDOW_S, LiveWindow
from worker.ingest.rules.normalise import Rules
from worker.media.download import Downloader, Limits, Source, open_downloader
from worker.media.hosts import MediaHosts
from worker.media.jobs import ClaimOptions, MediaRunner
from worker.media.remote import Json
from worker.media.reupload import Reuploads
from worker.media.slots import Slots
from worker.media.transfer import Transfers
from worker.session.arrivals import Arrivals
from worker.session.auth_state import AuthState
from worker.session.commit_times import CommitTimes
from worker.session.connection import Connection, SocketOptions
from worker.session.deafness import DeafnessDetector
from worker.session.discovery import Discovery
from worker.session.drop_warnings import DropWarnings
from worker.session.events import DatabaseGone, EventQueue
from worker.session.flags import FlagWatch, Monitored
from worker.session.host_poll import HostPoll, ServedParts
from worker.session.housekeeping import Housekeeping, Retention
from worker.session.members import MemberLists
from worker.session.rate_limit import OncePerProcess, RateLimiter
from worker.session.reconnect_policy import ReconnectPolicy, RetryState, first_retry_state
from worker.session.report import Report, View
from worker.session.requests import Requests
from worker.session.suspects import Suspects
from worker.session.version import VersionClaim, VersionPolicy, parse_kept
from worker.settings import Settings
from worker.store import Store
from worker.store.availability import PATIENCE_SECONDS, DatabaseWatch
from worker.store.cipher import StateCipher
from worker.store.embedded import Embedded, embedded_supabase
from worker.store.lease import PollTiming
from worker.store.retry import until_answered
from worker.store.session import SessionStore
from worker.web.figures import FiguresPoller
from worker.web.health import SessionHealth

NO_LONGER_THERE = (403, 404, 410)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all sessions of a process share. `folder`: the data folder; `leased`: sessions being served."""

    store: Store
    owner: str
    poll: HostPoll
    downloader: Downloader
    folder: Path
    logins: RateLimiter | None = None
    files: Slots | None = None
    once: OncePerProcess = field(default_factory=OncePerProcess)
    leased: list[LeasedSession] = field(default_factory=list)

    def show_key_refusal(self, refused: str | None) -> None:
        """Show in every session that Supabase refuses the key; None: show that it accepts the key again."""
        for one in self.leased:
            one.show_key_refusal(refused)


class Phone:
    """What file downloads need from the phone and from WhatsApp; available while a sidecar runs."""

    def __init__(self) -> None:
        self.peer: Peer | None = None

    async def refresh(self, key: Json, content: Json) -> Json:
        """Ask the phone to upload the file again. Returns the message with the new path.

        Raises:
            MediaExpired: the phone no longer has the file.
            MediaUnavailable: the phone could not be asked, or did not answer.
        """
        if self.peer is None:
            raise MediaUnavailable("no phone is linked at the moment")
        try:
            return await self.peer.media_refresh(dict(key), dict(content))
        except CallFailed as failed:
            status = failed.data.get("status") if isinstance(failed.data, dict) else None
            if status in NO_LONGER_THERE:
                raise MediaExpired("the phone no longer has the file") from failed
            raise MediaUnavailable("the phone did not upload the file again") from failed

    async def media_hosts(self) -> MediaHostList:
        """WhatsApp's current media hosts.

        Raises:
            MediaUnavailable: WhatsApp cannot be asked at the moment.
        """
        if self.peer is None:
            raise MediaUnavailable("no phone is linked at the moment")
        return await self.peer.media_hosts()


@dataclass(kw_only=True, eq=False)
class LeasedSession:
    """Everything that exists while we hold the lease."""

    report: Report
    state: AuthState
    suspects: Suspects
    served: ServedParts
    drop_warnings: DropWarnings
    arrivals: Arrivals
    figures: FiguresPoller
    deafness: DeafnessDetector
    commit_times: CommitTimes
    connection: Connection
    events: EventQueue
    phone: Phone
    handlers: dict[str, Handler]
    _before_refusal: View | None = None

    def tell_database_gone(self) -> None:
        logger.warning(
            "the database has not answered for {:g} s ({}); disconnecting from WhatsApp until it does",
            PATIENCE_SECONDS,
            self.served.watch.reason,
        )
        self.events.put(DatabaseGone(reason=self.served.watch.reason))

    def show_key_refusal(self, refused: str | None) -> None:
        """Show that Supabase refuses the key; None: restore the previous view."""
        if refused is None:
            if self._before_refusal is not None:
                self.report.show(self._before_refusal)
            self._before_refusal = None
            return
        self._before_refusal = self.report.view
        say = f"{refused}. Supabase has given no other answer for minutes; the worker asks again once a minute."
        self.report.show(View(status="disconnected", state="needs_you", say=say))


@asynccontextmanager
async def open_leased_session(
    settings: Settings, shared: Shared, fence: int, health: SessionHealth, on_view: Callable[[View], None]
) -> AsyncIterator[LeasedSession]:
    """Wire one leased session. Reads the session's row; raises what the store raises."""
    session = SessionStore(shared.store, settings.worker_session, fence)
    row = (await until_answered(session.status, what="the session's row")).get("session") or {}
    version = parse_kept(row.get("detail") or {})
    base = _Base(
        settings=settings,
        shared=shared,
        health=health,
        session=session,
        report=_make_report(session, {**_kept(version), **_stored_figures(row)}, health, on_view),
        watch=DatabaseWatch(lease_patience=poll_timing(settings).patience),
    )
    async with AsyncExitStack() as end:
        end.callback(base.events.close)
        downloader = await end.enter_async_context(_open_downloads(settings, shared, base.phone))
        end.callback(_forget, health)
        leased = _make_leased_session(base, downloader, _make_versions(base, version), first_retry_state(row))
        shared.leased.append(leased)
        end.callback(shared.leased.remove, leased)
        yield leased


@dataclass(frozen=True, kw_only=True)
class _Base:
    """What the parts of one leased session are built from."""

    settings: Settings
    shared: Shared
    health: SessionHealth
    session: SessionStore
    report: Report
    watch: DatabaseWatch
    monitored: Monitored = field(default_factory=Monitored)
    phone: Phone = field(default_factory=Phone)
    events: EventQueue = field(default_factory=EventQueue)


def _make_leased_session(
    base: _Base, downloader: Downloader, versions: VersionPolicy, retry: RetryState
) -> LeasedSession:
    settings, session, report, watch = base.settings, base.session, base.report, base.watch
    cipher = StateCipher(settings.worker_session, settings.state_key, settings.state_key_previous)
    state, suspects = AuthState(session, cipher, watch), Suspects(session)
    flags = FlagWatch(session, report, base.events.put, poll_timing(settings).retry_interval)
    media = _make_media(settings, base.shared, downloader, base.phone)
    housekeeping = _make_housekeeping(base)
    policy = ReconnectPolicy(settings=settings, report=report, version=versions, retry=retry)
    ingestion = _Ingestion(base, cipher, flags, media)
    connection = Connection(
        state=state,
        policy=policy,
        report=report,
        options=SocketOptions(settings, versions, suspects, base.shared.logins),
        events=base.events,
        requests=Requests(state, policy, report, ingestion.discovery, flags.done),
        on_open=ingestion.note_own_addresses,
        on_arrived=ingestion.first.note,
    )
    served = ServedParts(
        session=session.session,
        fence=session.fence,
        watch=watch,
        monitored=base.monitored,
        flags=flags,
        media=media,
        housekeeping=housekeeping,
    )
    return LeasedSession(
        report=report,
        state=state,
        suspects=suspects,
        served=served,
        drop_warnings=ingestion.drop_warnings,
        arrivals=ingestion.arrivals,
        figures=_make_figures(base, media),
        deafness=base.health.deafness,
        commit_times=ingestion.commit_times,
        connection=connection,
        events=base.events,
        phone=base.phone,
        handlers={
            "state.load": state.load,
            "state.get": state.get,
            "stanzas.known": state.known,
            "commit": ingestion.committer.commit,
        },
    )


class _Ingestion:
    """The committer and its listeners."""

    def __init__(self, base: _Base, cipher: StateCipher, flags: FlagWatch, media: MediaRunner) -> None:
        settings, session, report = base.settings, base.session, base.report
        self.first = FirstArrivals(base.monitored)
        self.drop_warnings, self.arrivals = DropWarnings(settings.worker_catch_up_s), Arrivals()
        self.commit_times = CommitTimes()
        self._members: MemberLists | None = None
        if settings.worker_group_members:
            self._members = MemberLists(session, report, lambda: base.monitored.groups)
        self.discovery = Discovery(session, report, flags.done, members=self._members)
        listeners = Listeners(
            error=report.error,
            media=media.notify,
            committed=(
                base.health.metrics.committed,
                self.drop_warnings.committed,
                self.discovery.committed,
                self.arrivals.committed,
                self.first.committed,
                self.commit_times.committed,
            ),
        )
        rules = _make_rules(settings, base.monitored, self.first)
        self.committer = Committer(session, cipher, base.watch, rules, listeners)

    def note_own_addresses(self, me: Me) -> None:
        self.committer.own = (me.lid, me.id)
        if self._members:
            self._members.linked_as(me)


def _make_versions(base: _Base, kept: VersionClaim | None) -> VersionPolicy:
    settings = base.settings
    return VersionPolicy(
        settings.wa_version,
        kept,
        lambda good: base.report.keep(**_kept(good)),
        unasked=settings.wa_socket_url is None or settings.wa_version_url is not None,
    )


def _make_housekeeping(base: _Base) -> Housekeeping:
    settings = base.settings
    retention = Retention(
        lost=float(RETRY_WINDOW_S),
        changes=settings.changes_seconds,
        messages=settings.keep_seconds,
        audit=settings.audit_seconds,
        expire=None if settings.worker_expire == "keep" else settings.worker_expire,
    )
    return Housekeeping(
        base.session, base.report, retention, analyze=settings.embedded, claim_task=base.shared.once.claim_task
    )


def _make_figures(base: _Base, media: MediaRunner) -> FiguresPoller:
    """The figures for /metrics. They are read on demand."""
    health = base.health
    figures = FiguresPoller(base.shared.store, base.settings.worker_session, health)
    health.metrics.away = lambda: base.watch.away
    health.metrics.media = media.counts
    health.refresh = figures.refresh
    return figures


def _forget(health: SessionHealth) -> None:
    """Detach the health page from a leased session that has ended."""
    health.refresh, health.metrics.away = None, lambda: False


@asynccontextmanager
async def _open_downloads(settings: Settings, shared: Shared, phone: Phone) -> AsyncIterator[Downloader]:
    """The process's downloader, bound to one account. An account with its own proxy gets its own connections."""
    limits, hosts = Limits(max_bytes=settings.max_media_bytes), MediaHosts(phone.media_hosts)
    if settings.proxy is None:
        yield shared.downloader.beside(limits, hosts)
        return
    async with open_downloader(media_source(settings), limits, hosts, proxy=settings.proxy) as own:
        yield own


def media_source(settings: Settings) -> Source:
    """Where to fetch files from."""
    return Source(origin=settings.wa_media_origin, ca=settings.wa_media_ca)


def poll_timing(settings: Settings) -> PollTiming:
    """How often to poll the database, and how long to wait for it."""
    return PollTiming(poll=settings.worker_poll_ms / 1000, lease=float(settings.worker_lease_s))


def _make_report(
    session: SessionStore, keep: dict[str, Any], health: SessionHealth, on_view: Callable[[View], None]
) -> Report:
    def show(view: View) -> None:
        health.view = view
        on_view(view)

    return Report(session, keep=keep, on_view=show, on_audit=health.metrics.audited)


def _stored_figures(row: dict[str, Any]) -> dict[str, Any]:
    """An earlier process's arrival and commit times, kept until this process has its own."""
    detail = row.get("detail") or {}
    return {name: detail[name] for name in ("heard", "commits") if isinstance(detail.get(name), dict)}


def _kept(good: VersionClaim | None) -> dict[str, Any]:
    """The fields of the session's row that store the version that worked."""
    if good is None:
        return {}
    return {"version": list(good.version or ()), "version_at": good.facts()["at"]}


def _make_media(settings: Settings, shared: Shared, downloader: Downloader, phone: Phone) -> MediaRunner:
    most, store = settings.worker_media_concurrency, shared.store
    options = ClaimOptions(owner=shared.owner, concurrency=most, session=settings.worker_session, poll_seconds=None)
    transfers = Transfers(store, downloader, settings.max_document_bytes)
    reuploads = Reuploads(phone.refresh, limit=max(1, most // 2), has_phone=lambda: phone.peer is not None)
    return MediaRunner(store, transfers, options, reuploads, slots=shared.files)


def _make_rules(settings: Settings, monitored: Monitored, first: FirstArrivals) -> Callable[[], Rules]:
    window = LiveWindow(live_s=settings.worker_live_window_s, catch_up_s=settings.worker_catch_up_s)
    blank, members = settings.worker_revoke == "blank", settings.worker_group_members
    return lambda: Rules(
        monitored=monitored.groups, window=window, blank_revoked=blank, first_arrival=first.of, members=members
    )


@asynccontextmanager
async def open_supabase(settings: Settings, say: Callable[[str], None]) -> AsyncIterator[tuple[str, str, str]]:
    """URL, key and description of the Supabase to use. Starts the embedded one if none is configured."""
    if settings.supabase_url and settings.supabase_service_key:
        yield settings.supabase_url, settings.supabase_service_key.get_secret_value(), settings.supabase_url
        return
    folder = settings.worker_data_dir.resolve()
    place = Embedded(data_dir=folder, node=settings.worker_node, report=say, users=settings.worker_embedded_users)
    async with embedded_supabase(place) as endpoint:
        yield endpoint.url, endpoint.key, f"embedded, in {folder} ({endpoint.url})"

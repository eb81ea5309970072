"""How the parts of one tenure fit together: from a lease that we hold to a running sidecar.

Constructs; decides nothing. A tenure lasts as long as the lease; a sidecar's life is shorter, a connection's shorter
still.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from loguru import logger

from worker.bridge.peer import Handler, Peer
from worker.errors import CallFailed, MediaExpired, MediaUnavailable
from worker.ingest.committer import Committer, Listeners
from worker.ingest.rules.live import LiveWindow
from worker.ingest.rules.normalise import Rules
from worker.media.download import Limits, Source, open_downloader
from worker.media.jobs import MediaRunner
from worker.media.remote import Json
from worker.session.auth_state import State
from worker.session.closes import BAN_SECONDS_MAX
from worker.session.connection import LOGGED_OUT, Connection
from worker.session.discovery import Discovery
from worker.session.events import DatabaseGone, Inbox
from worker.session.flags import FlagWatch, Monitored
from worker.session.housekeeping import Housekeeping
from worker.session.reconnect_policy import RetryState, Stay
from worker.session.report import Report, View
from worker.session.version import VersionPolicy, parse_version
from worker.settings import Settings
from worker.store import Store
from worker.store.availability import PATIENCE_SECONDS, DatabaseWatch
from worker.store.cipher import StateCipher
from worker.store.embedded import Embedded, embedded_supabase
from worker.store.retry import until_answered
from worker.store.session import SessionStore
from worker.web.figures import FiguresPoller
from worker.web.health import Health

LEASE_SHARE = 1 / 2  # after the renewal that failed at a third: the socket is ended before the lease can run out
NO_LONGER_THERE = (403, 404, 410)


class Phone:
    """The way to the phone, while there is a sidecar: asks it to upload a file again."""

    def __init__(self) -> None:
        self.peer: Peer | None = None

    async def refresh(self, key: Json, content: Json) -> Json:
        """The message with a new path.

        Raises:
            MediaExpired: the phone no longer has the file.
            MediaUnavailable: it could not be asked, or did not answer.
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


@dataclass(kw_only=True)
class LeasedSession:
    """Everything that lives while we hold the lease."""

    store: SessionStore
    report: Report
    watch: DatabaseWatch
    state: State
    flags: FlagWatch
    media: MediaRunner
    upkeep: Housekeeping
    census: FiguresPoller
    connection: Connection
    inbox: Inbox
    phone: Phone
    handlers: dict[str, Handler]

    def tell_database_gone(self) -> None:
        logger.warning("the database has not answered for {:g} s: leaving WhatsApp until it does", PATIENCE_SECONDS)
        self.inbox.put(DatabaseGone())


@asynccontextmanager
async def open_leased_session(
    settings: Settings, store: Store, owner: str, fence: int, health: Health, on_view: Callable[[View], None]
) -> AsyncIterator[LeasedSession]:
    """Wire one tenure. Reads the session's row; raises what the store raises."""
    session_store = SessionStore(store, settings.worker_session, fence)
    row = (await until_answered(session_store.status)).get("session") or {}
    detail: dict[str, Any] = row.get("detail") or {}

    def show(view: View) -> None:
        health.view = view
        on_view(view)

    last_good = parse_version(detail.get("version"))
    report = Report(
        session_store,
        keep={"version": list(last_good)} if last_good else {},
        on_view=show,
        on_audit=health.metrics.audited,
    )
    version = VersionPolicy(settings.wa_version, last_good, lambda good: report.keep(version=list(good)))
    watch = DatabaseWatch(lease_patience=min(PATIENCE_SECONDS, settings.worker_lease_s * LEASE_SHARE))
    seal = StateCipher(settings.worker_session, settings.state_key, settings.state_key_previous)
    state = State(session_store, seal, watch)
    inbox = Inbox()
    monitored = Monitored()
    flags = FlagWatch(session_store, monitored, report, inbox.put, settings.worker_poll_ms / 1000)
    discovery = Discovery(session_store, report, flags.done)
    window = LiveWindow(live_s=settings.worker_live_window_s, catch_up_s=settings.worker_catch_up_s)
    phone = Phone()
    source = Source(origin=settings.wa_media_origin, ca=settings.wa_media_ca)
    try:
        async with open_downloader(source, Limits(max_bytes=settings.max_media_bytes)) as downloader:
            media = MediaRunner(
                store,
                downloader,
                owner=owner,
                concurrency=settings.worker_media_concurrency,
                refresh=phone.refresh,
                has_phone=lambda: phone.peer is not None,
                session=settings.worker_session,
            )
            committer = Committer(
                session_store,
                seal,
                watch,
                rules=lambda: Rules(
                    monitored=monitored.groups, window=window, blank_revoked=settings.worker_revoke == "blank"
                ),
                listeners=Listeners(error=report.error, media=media.notify, committed=health.metrics.committed),
            )
            connection = Connection(
                store=session_store,
                settings=settings,
                state=state,
                committer=committer,
                discovery=discovery,
                report=report,
                watch=watch,
                version=version,
                inbox=inbox,
                done=flags.done,
                standing=first_retry_state(row),
            )
            health.metrics.away = lambda: watch.away
            health.metrics.media = media.counts
            yield LeasedSession(
                store=session_store,
                report=report,
                watch=watch,
                state=state,
                flags=flags,
                media=media,
                census=FiguresPoller(store, settings.worker_session, health),
                upkeep=Housekeeping(session_store, report, audit_seconds=settings.audit_seconds),
                connection=connection,
                inbox=inbox,
                phone=phone,
                handlers={
                    "state.load": state.load,
                    "state.get": state.get,
                    "stanzas.known": state.known,
                    "commit": committer.commit,
                },
            )
    finally:
        inbox.close()


def first_retry_state(row: dict[str, Any]) -> RetryState:
    """Where the session stands at the start: a logout that was asked for, and a ban for a time, outlive a restart."""
    detail = row.get("detail") or {}
    state, say = detail.get("state"), str(detail.get("say") or "")
    if state == "logged_out" and not row.get("has_creds"):
        return RetryState(plan=Stay(view=View(status="disconnected", state="logged_out", say=say or LOGGED_OUT)))
    linked = row.get("wa_number") is not None
    until = _time(detail.get("next_attempt_at"))
    if state == "needs_you" and until:
        view = View(status="disconnected", state="needs_you", say=say, next_attempt_at=until)
        seconds = min((until - datetime.now(UTC)).total_seconds(), BAN_SECONDS_MAX)
        return RetryState(plan=Stay(view=view, seconds=seconds), linked=linked)
    return RetryState(linked=linked)


def _time(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at if at.tzinfo else None


@asynccontextmanager
async def open_supabase(settings: Settings, say: Callable[[str], None]) -> AsyncIterator[tuple[str, str, str]]:
    """URL, key, and a description of the Supabase to use; the embedded one is started if none is configured."""
    if settings.supabase_url and settings.supabase_service_key:
        yield settings.supabase_url, settings.supabase_service_key.get_secret_value(), settings.supabase_url
        return
    folder = settings.worker_data_dir.resolve()
    async with embedded_supabase(Embedded(data_dir=folder, node=settings.worker_node, report=say)) as endpoint:
        yield endpoint.url, endpoint.key, f"embedded, in {folder} ({endpoint.url})"

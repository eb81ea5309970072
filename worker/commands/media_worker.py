"""`wa-worker media work`: fetches files on any machine, without a WhatsApp connection.

Any number of these processes share the jobs with each other and with the worker that has the phone. If WhatsApp no
longer has a file, its job is left to that worker, and comes back with a new address. A killed process's jobs are free
again when their leases end, after at most a minute.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Annotated
from uuid import uuid4

import anyio
import typer
from loguru import logger

from worker.commands.runtime import open_store, run
from worker.log import set_up_log
from worker.media.download import Limits, Source, open_downloader
from worker.media.jobs import LEASE_SECONDS, ClaimOptions, MediaCounts, MediaRunner
from worker.media.transfer import Transfers
from worker.settings import Settings
from worker.store import Store
from worker.store.retry import until_answered


def work(
    all_sessions: Annotated[
        bool, typer.Option("--all-sessions", help="Every session's files, not only WORKER_SESSION's.")
    ] = False,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="Exit when this process can fetch nothing more now.")
    ] = False,
    lease: Annotated[
        float, typer.Option(min=1.0, max=3600.0, help="Seconds after which a dead process's files are free again.")
    ] = LEASE_SECONDS,
) -> None:
    """Fetch media files until stopped; run as many of these as you like, on any machine.

    Needs Supabase and WhatsApp's media servers, no phone and no port. Exit codes: 0 stopped as asked · 2 a setting is
    wrong · 4 Supabase does not answer or refuses.
    """

    async def worker(settings: Settings) -> None:
        set_up_log(settings.log_level)
        async with open_store(settings) as store:
            await until_answered(store.check, float(settings.worker_boot_wait_s))
            await until_answered(store.bucket.ensure)
            session = None if all_sessions else settings.worker_session
            await fetch(settings, store, session, lease, until_empty)

    run(worker, interrupted=0)


async def fetch(settings: Settings, store: Store, session: str | None, lease: float, until_empty: bool) -> None:
    """Work on the jobs of a session (None: all) until SIGTERM or Ctrl-C. Gives unfinished jobs back."""
    owner = f"media-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    source = Source(origin=settings.wa_media_origin, ca=settings.wa_media_ca)
    async with open_downloader(source, Limits(max_bytes=settings.max_media_bytes)) as downloader:
        options = ClaimOptions(
            owner=owner, concurrency=settings.worker_media_concurrency, session=session, lease_seconds=lease
        )
        runner = MediaRunner(store, Transfers(store, downloader, settings.max_document_bytes), options)
        logger.info("fetching files of {} as {}", f"session {session}" if session else "all sessions", owner)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_signalled, tasks.cancel_scope)
            await runner.run(until_empty=until_empty)
            tasks.cancel_scope.cancel()
    _log_counts(runner.counts)


async def _until_signalled(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("{}: stopping", signal.Signals(number).name)
            scope.cancel()
            return


def _log_counts(counts: MediaCounts) -> None:
    logger.info(
        "stopped: {} stored, {} known before, {} put off, {} abandoned, {} left to the phone",
        counts.stored,
        counts.forwarded,
        counts.postponed,
        counts.abandoned,
        counts.handed_over,
    )

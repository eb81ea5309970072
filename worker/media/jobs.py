"""The media jobs: claimed from the database, done a few at a time, each ended for good or given back.

Owns the order of one transfer (known before? download, type, upload, link) and that nothing is left half claimed: the
object is in the bucket before its row exists, the upload replaces what a crash left, a lost lease ends the transfer.
What an error means is `steps.next_step`'s decision. Any number of processes may run this on the same database.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

import anyio
from loguru import logger
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from worker.errors import (
    BridgeError,
    MediaCorrupt,
    MediaExpired,
    MediaRefused,
    MediaUnavailable,
    StoreRefused,
    StoreUnavailable,
    WorkerError,
)
from worker.media.download import Downloader, Fetched
from worker.media.file_types import may_be_stored
from worker.media.paths import storage_path
from worker.media.remote import Json, RemoteFile, make_descriptor, parse_remote
from worker.media.sniff import sniff
from worker.media.steps import Abandon, Answer, AskPhone, Later, LetGo, PassOn, next_step
from worker.store import Claim, MediaFile, MediaJob, Store

QUICK_RETRY_SECONDS = (0.5, 1.0)  # docs/contract.md §7
REFRESH_SECONDS = 60.0  # Baileys itself waits for the phone without a limit (docs/whatsapp.md, "Media")
LEASE_SECONDS = 60.0  # renewed at a third; a crashed worker's jobs are free again after this
POLL_SECONDS = 5.0  # when nobody calls `notify`: jobs of other processes
GIVE_BACK_SECONDS = 2.0  # at a stop, to tell the database that a claimed job is free again

T = TypeVar("T")

# Asks the phone for a re-upload: (message key, content) → content with a new directPath.
# Raises MediaExpired if the phone says no; MediaUnavailable or a BridgeError if it could not be asked.
Refresh = Callable[[Json, Json], Awaitable[Json]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class MediaCounts:
    """Since the start of the process, for /metrics.

    `forwarded`: linked without a download; `passed_on`: left to the process that has the phone; `renewed`: given back
    to the others with a new place.
    """

    running: int = 0
    stored: int = 0
    reused: int = 0
    forwarded: int = 0
    bytes: int = 0
    postponed: int = 0
    abandoned: int = 0
    passed_on: int = 0
    renewed: int = 0


class MediaRunner:
    """Works on the jobs of one session (or of all: `session` None) until it is cancelled.

    Without `refresh`, or while `has_phone` says no, a job that waits for the phone is left to others. No more than half
    of the transfers wait for the phone at a time: one that is off must not hold up files that need none.
    """

    def __init__(
        self,
        store: Store,
        downloader: Downloader,
        *,
        owner: str,
        concurrency: int,
        refresh: Refresh | None = None,
        has_phone: Callable[[], bool] = lambda: True,
        session: str | None = None,
        document_max_bytes: int | None = None,
        lease_seconds: float = LEASE_SECONDS,
        sleep: Sleep = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.counts = MediaCounts()
        self._store = store
        self._downloader = downloader
        self.owner = owner
        self._concurrency = concurrency
        self._asking = 0
        self._asking_max = max(1, concurrency // 2)
        self._refresh = refresh
        self._has_phone = has_phone
        self._session = session
        self._document_max_bytes = document_max_bytes
        self._lease_seconds = lease_seconds
        self._sleep = sleep
        self._jitter = jitter
        self._woken = anyio.Event()

    def notify(self) -> None:
        """There may be a new job: look now instead of at the next poll."""
        self._woken.set()

    async def run(self, *, until_empty: bool = False) -> None:
        """Claim and work, for ever; or until nothing is left that could be claimed now."""
        async with anyio.create_task_group() as transfers:
            while True:
                self._woken = anyio.Event()
                pause, due = POLL_SECONDS, False
                for phone in (False, True):
                    room = self._room(phone)
                    if room <= 0:
                        continue
                    claim = await self._claim(room, phone) or Claim(jobs=(), next_in_seconds=POLL_SECONDS)
                    for job in claim.jobs:
                        self.counts.running += 1
                        transfers.start_soon(self._tend, job)
                    due = due or _due(claim)
                    if claim.next_in_seconds is not None and len(claim.jobs) < room:
                        pause = min(pause, max(claim.next_in_seconds, 0.05))
                if until_empty and not self.counts.running and not due:
                    return
                with anyio.move_on_after(pause):
                    await self._woken.wait()

    def _room(self, phone: bool) -> int:
        """How many more jobs may be claimed; `phone`: those that wait for the phone as well."""
        free = self._concurrency - self.counts.running
        if not phone:
            return free
        return min(free, self._asking_max - self._asking) if self._refresh is not None and self._has_phone() else 0

    async def _claim(self, limit: int, phone: bool) -> Claim | None:
        try:
            return await self._store.media_claim(self.owner, limit, self._lease_seconds, self._session, phone=phone)
        except (StoreUnavailable, StoreRefused) as error:
            logger.warning("no media jobs could be claimed: {}", error)
            return None

    async def _tend(self, job: MediaJob) -> None:
        """One job, while its lease is kept. Every line that is logged meanwhile says whose it is."""
        try:
            with logger.contextualize(session=job.session_id, wa_msg_id=job.wa_msg_id, group=job.chat_id):
                async with anyio.create_task_group() as tending:
                    tending.start_soon(self._keep_lease, job, tending.cancel_scope)
                    await self.work(job)
                    tending.cancel_scope.cancel()
        finally:
            self.counts.running -= 1
            self.notify()

    async def _keep_lease(self, job: MediaJob, scope: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(self._lease_seconds / 3)
            try:
                await self._store.media_renew(job.id, self.owner, self._lease_seconds)
            except StoreUnavailable:
                continue  # the lease has two more thirds; if it ends, another worker does the same work again
            except StoreRefused:
                logger.warning("media job {} went to another worker", job.id)
                scope.cancel()

    async def work(self, job: MediaJob) -> None:
        """One attempt at one job, to whatever end. Given back at once if it is cancelled."""
        file: RemoteFile | None = None
        answer: Answer | None = None
        try:
            file = parse_remote(job.descriptor)
            if job.wants_phone and self._refresh is not None:
                answer, file = await self._ask_phone(job, file)
                await self._answer(job, file, answer)
                return
            while True:
                try:
                    await self._transfer(job, file)
                    return
                except MediaExpired as error:
                    if not isinstance(next_step(error, job.attempts, answer, 0.0), AskPhone):
                        raise
                    answer, file = await self._ask_phone(job, file)
                    if answer != "renewed":
                        raise
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(GIVE_BACK_SECONDS, shield=True):
                await self._settle(self._store.media_retry(job.id, self.owner, "stopped", 0.0))
            raise
        except Exception as error:
            await self._settle(self._conclude(job, file, answer, error))

    async def _transfer(self, job: MediaJob, file: RemoteFile) -> None:
        known = await self._known(file)
        if known is not None:
            await self._once_more(lambda: self._store.media_done(job.id, self.owner, known))
            self.counts.forwarded += 1
            return
        async with AsyncExitStack() as stack:
            fetched = await self._once_more(
                lambda: stack.enter_async_context(
                    self._downloader.fetch(file.direct_path, file.url, file.keys, file.claims)
                )
            )
            stored = _media_file(file, fetched, self._document_max_bytes)
            await self._once_more(lambda: self._store.bucket.upload(stored.storage_path, fetched.content, stored.mime))
        try:
            linked = await self._once_more(lambda: self._store.media_done(job.id, self.owner, stored))
        except StoreRefused as refused:
            if refused.code == "stale_job":  # its new holder now knows the content, and may upload nothing
                await self._remove_double(stored)
            raise
        self.counts.stored += 1
        self.counts.reused += linked.reused
        self.counts.bytes += stored.bytes
        logger.debug("a file is stored: {} bytes, {}", stored.bytes, stored.mime)
        if linked.reused:
            await self._remove_double(stored)

    async def _remove_double(self, stored: MediaFile) -> None:
        """One content, one object: an earlier sender may have named another type, and so another extension.

        The job is done, or another's, whatever comes of this. The row of the content, which the message keeps from
        retention, names the object that stays.
        """
        try:
            kept = await self._store.media_known(stored.file_enc_sha256 or "", stored.media_key_sha256 or "")
            if kept is not None and kept.storage_path != stored.storage_path:
                await self._store.bucket.remove([stored.storage_path])
        except (StoreUnavailable, StoreRefused) as error:
            logger.warning("a second copy of a file may have been left in the bucket: {}", error)

    async def _known(self, file: RemoteFile) -> MediaFile | None:
        """The file of a forward: the same ciphertext under the same key was verified before.

        Source: docs/whatsapp.md, "Media".
        """
        if file.file_enc_sha256 is None:
            return None
        enc_sha256, key_sha256 = file.file_enc_sha256, file.media_key_sha256
        return await self._once_more(lambda: self._store.media_known(enc_sha256, key_sha256))

    async def _ask_phone(self, job: MediaJob, file: RemoteFile) -> tuple[Answer, RemoteFile]:
        if self._refresh is None:
            return "nobody", file
        if self._asking >= self._asking_max:
            return "busy", file
        self._asking += 1
        try:
            with anyio.fail_after(REFRESH_SECONDS):
                return "renewed", file.renewed(await self._refresh(file.key, file.as_message()))
        except (MediaExpired, MediaRefused):
            return "refused", file
        except (TimeoutError, MediaUnavailable, BridgeError) as error:
            logger.info("media job {}: the phone was not reached: {}", job.id, type(error).__name__)
            return "unanswered", file
        finally:
            self._asking -= 1

    async def _answer(self, job: MediaJob, file: RemoteFile, answer: Answer) -> None:
        """What the phone said to a job that another process has passed on; a renewed one is anybody's again."""
        if answer != "renewed":
            raise MediaExpired("it was passed on as expired")
        await self._store.media_retry(job.id, self.owner, "uploaded again", 0.0, make_descriptor(file))
        self.counts.renewed += 1

    async def _conclude(self, job: MediaJob, file: RemoteFile | None, answer: Answer | None, error: Exception) -> None:
        step = next_step(error, job.attempts, answer, self._jitter(), job.last_code)
        # The text of a library's error may hold an address.
        text = str(error) if isinstance(error, WorkerError) else type(error).__name__
        match step:
            case Abandon():
                await self._store.media_abandon(job.id, self.owner, step.status, step.code, text)
                self.counts.abandoned += 1
                logger.warning("media job {} abandoned: {} {}", job.id, step.code, text)
            case Later():
                renewed = make_descriptor(file) if file is not None and answer == "renewed" else None
                await self._store.media_retry(job.id, self.owner, f"{step.code}: {text}", step.seconds, renewed)
                self.counts.postponed += 1
                if job.attempts == 1:  # the contract wants an entry when the quick retry did not help
                    await self._store.audit(job.session_id, "error", _entry(job, step, text))
            case PassOn():
                await self._store.media_ask_phone(job.id, self.owner, f"MEDIA_EXPIRED: {text}")
                self.counts.passed_on += 1
            case LetGo() | AskPhone():
                logger.info("media job {} is no longer ours", job.id)

    async def _settle(self, writing: Awaitable[None]) -> None:
        """Write an outcome. If that fails too, the lease ends by itself and the job is tried again."""
        try:
            await writing
        except (StoreUnavailable, StoreRefused) as error:
            logger.warning("the outcome of a media job could not be written: {}", error)

    async def _once_more(self, call: Callable[[], Awaitable[T]]) -> T:
        """The contract's quick retry: what may pass is tried a second time, after 500 to 1000 ms."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((MediaUnavailable, MediaCorrupt, StoreUnavailable)),
            wait=wait_random(*QUICK_RETRY_SECONDS),
            stop=stop_after_attempt(2),
            sleep=self._sleep,
            reraise=True,
        )

        async def attempt() -> T:  # tenacity awaits coroutine functions only, not what a lambda returns
            return await call()

        return await retrying(attempt)


def _media_file(file: RemoteFile, fetched: Fetched, document_max_bytes: int | None) -> MediaFile:
    """What is stored of a proven file. Type and hash are its own, dimensions and duration the sender's word.

    Raises:
        MediaRefused: the contract does not let in a file of this type and size.
    """
    sniffed = sniff(fetched.head, file.mime, file.media_type)
    if not may_be_stored(sniffed.mime, fetched.proof.length, document_max_bytes):
        raise MediaRefused(f"{sniffed.mime} with {fetched.proof.length} bytes")
    return MediaFile(
        sha256=fetched.proof.sha256,
        mime=sniffed.mime,
        bytes=fetched.proof.length,
        storage_path=storage_path(fetched.proof.sha256, sniffed.extension),
        width=file.width,
        height=file.height,
        duration_s=file.duration_s,
        file_enc_sha256=fetched.proof.enc_sha256,
        media_key_sha256=file.media_key_sha256,
    )


def _due(claim: Claim) -> bool:
    """Whether another claim may find something at once: also after one that failed."""
    return claim.next_in_seconds is not None and claim.next_in_seconds <= POLL_SECONDS


def _entry(job: MediaJob, step: Later, text: str) -> Json:
    ctx = {"wa_msg_id": job.wa_msg_id, "chat_id": job.chat_id, "next_attempt_in_s": round(step.seconds)}
    return {"code": step.code, "msg": text, "ctx": ctx}

"""Media jobs: claimed from the database a few at a time, then completed, postponed, abandoned or given back.

Losing a job's lease ends its transfer. `steps.next_step` decides what an error means. Any number of processes may run
this on one database.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup
from loguru import logger

from worker.errors import MediaExpired, StoreRefused, StoreUnavailable, WorkerError
from worker.media.remote import Json, RemoteFile, make_descriptor, parse_remote
from worker.media.reupload import Reuploads
from worker.media.slots import Slots
from worker.media.steps import Abandon, Answer, AskPhone, HandOver, JobLost, RetryLater, next_step
from worker.media.transfer import Transfers
from worker.store import Claim, MediaJob, Store

LEASE_SECONDS = 60.0  # renewed after a third; a crashed worker's jobs are free again after this
POLL_SECONDS = 20.0  # finds jobs that other processes made or gave back, if no session poll reports them
DUE_SOON_SECONDS = 5.0  # `until_empty` waits this long for a job that is due soon
NOTHING = Claim(jobs=(), next_in_seconds=None)
GIVE_BACK_SECONDS = 2.0  # at a stop, for giving a claimed job back


@dataclass(slots=True)
class MediaCounts:
    """Counts since the start of the process, for /metrics.

    `forwarded`: linked without a download. `handed_over`: left to the process with the phone. `renewed`: given back to
    other processes with a new address.
    """

    running: int = 0
    stored: int = 0
    reused: int = 0
    forwarded: int = 0
    bytes: int = 0
    postponed: int = 0
    abandoned: int = 0
    handed_over: int = 0
    renewed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimOptions:
    """Whose jobs to claim (`session` None: every session's), for whom, how many at once and for how long.

    `poll_seconds`: how often to look without `notify`; None: never, because `notify` reports every job.
    """

    owner: str
    concurrency: int
    session: str | None = None
    lease_seconds: float = LEASE_SECONDS
    poll_seconds: float | None = POLL_SECONDS


class MediaRunner:
    """Works on jobs until cancelled.

    Without `reuploads`, or while no phone is linked, leaves jobs that wait for the phone to other processes.
    """

    def __init__(
        self,
        store: Store,
        transfers: Transfers,
        options: ClaimOptions,
        reuploads: Reuploads | None = None,
        jitter: Callable[[], float] = random.random,
        slots: Slots | None = None,
    ) -> None:
        self.counts = MediaCounts()
        self._slots = slots or Slots(2 * options.concurrency)  # not shared: half of them must not be a limit
        self._store = store
        self._transfers = transfers
        self._options = options
        self._reuploads = reuploads
        self._jitter = jitter
        self._woken = anyio.Event()

    @property
    def owner(self) -> str:
        return self._options.owner

    def notify(self) -> None:
        """There may be a new job: look now."""
        self._woken.set()

    def acceptable_jobs(self) -> int:
        """Which jobs could be claimed now, encoded as `HeldSession.media`."""
        return 0 if self._room(phone=False) <= 0 else 1 + (self._room(phone=True) > 0)

    async def run(self, *, until_empty: bool = False) -> None:
        """Claim and run jobs until cancelled. `until_empty`: return when no job can be claimed now."""
        try:
            async with anyio.create_task_group() as attempts:
                while True:
                    self._woken = anyio.Event()
                    pause, due = self._options.poll_seconds or float("inf"), False
                    for phone in (False, True):
                        claim, room = await self._claim(attempts, phone)
                        due = due or _due(claim)
                        if claim.next_in_seconds is not None and len(claim.jobs) < room:
                            pause = min(pause, max(claim.next_in_seconds, 0.05))
                    if until_empty and not self.counts.running and not due:
                        return
                    with anyio.move_on_after(pause):
                        await self._woken.wait()
        finally:
            self._slots.forget(self.notify)

    def _room(self, phone: bool) -> int:
        """How many more jobs may be claimed. `phone`: of those that wait for the phone."""
        free = min(self._own_room(phone), self._slots.room(self.counts.running))
        return max(0, free)

    def _own_room(self, phone: bool) -> int:
        """The same, ignoring other sessions."""
        free = self._options.concurrency - self.counts.running
        if not phone:
            return free
        return min(free, self._reuploads.room()) if self._reuploads else 0

    async def _claim(self, attempts: TaskGroup, phone: bool) -> tuple[Claim, int]:
        """Claim as many jobs as there is room for, and start them. Returns the claim and the room."""
        room, wished = self._room(phone), self._own_room(phone)
        claim = NOTHING
        if room > 0:
            self._slots.take(room)
            try:
                claim = await self._ask_for(room, phone)
            finally:
                self._slots.give(room - len(claim.jobs))
            for job in claim.jobs:
                self.counts.running += 1
                attempts.start_soon(self._run_job, job)
        if len(claim.jobs) == room < wished:  # there may be more jobs, but other sessions have the slots
            self._slots.tell_later(self.notify)
        return claim, room

    async def _ask_for(self, limit: int, phone: bool) -> Claim:
        own = self._options
        try:
            return await self._store.media_claim(own.owner, limit, own.lease_seconds, own.session, phone=phone)
        except (StoreUnavailable, StoreRefused) as error:
            logger.warning("could not claim media jobs: {}", error)
            return Claim(jobs=(), next_in_seconds=POLL_SECONDS)

    async def _run_job(self, job: MediaJob) -> None:
        """Run one attempt while keeping the job's lease. Adds the job's identity to all log lines."""
        try:
            with logger.contextualize(session=job.session_id, wa_msg_id=job.wa_msg_id, group=job.chat_id):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._keep_lease, job, tasks.cancel_scope)
                    await self.work(job)
                    tasks.cancel_scope.cancel()
        finally:
            self.counts.running -= 1
            self._slots.give(1)
            self.notify()

    async def _keep_lease(self, job: MediaJob, scope: anyio.CancelScope) -> None:
        seconds = self._options.lease_seconds
        while True:
            await anyio.sleep(seconds / 3)
            try:
                await self._store.media_renew(job.id, self.owner, seconds)
            except StoreUnavailable:
                continue  # two thirds of the lease are left; if it ends, another worker repeats the work
            except StoreRefused:
                logger.warning("media job {} went to another worker", job.id)
                scope.cancel()

    async def work(self, job: MediaJob) -> None:
        """Attempt one job and write the outcome. If cancelled, give the job back at once."""
        file: RemoteFile | None = None
        answer: Answer | None = None
        try:
            file = parse_remote(job.descriptor)
            if job.wants_phone and self._reuploads is not None:
                answer, file = await self._ask_phone(file)
                await self._return_renewed(job, file, answer)
                return
            while True:
                try:
                    await self._transfer(job, file)
                    return
                except MediaExpired as error:
                    if not isinstance(next_step(error, job.attempts, answer, 0.0), AskPhone):
                        raise
                    answer, file = await self._ask_phone(file)
                    if answer != "renewed":
                        raise
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(GIVE_BACK_SECONDS, shield=True):
                await self._write_outcome(self._store.media_retry(job.id, self.owner, "stopped", 0.0))
            raise
        except Exception as error:
            await self._write_outcome(self._conclude(job, file, answer, error))

    async def _transfer(self, job: MediaJob, file: RemoteFile) -> None:
        done = await self._transfers.run(job.id, self.owner, file)
        if not done.downloaded:
            self.counts.forwarded += 1
            return
        self.counts.stored += 1
        self.counts.reused += done.reused
        self.counts.bytes += done.file.bytes

    async def _ask_phone(self, file: RemoteFile) -> tuple[Answer, RemoteFile]:
        return await self._reuploads.ask(file) if self._reuploads else ("nobody", file)

    async def _return_renewed(self, job: MediaJob, file: RemoteFile, answer: Answer) -> None:
        """Free a job that another process handed over, with the file's new address.

        Raises:
            MediaExpired: the phone did not upload the file.
        """
        if answer != "renewed":
            raise MediaExpired("it was handed over as expired")
        await self._store.media_retry(job.id, self.owner, "uploaded again", 0.0, make_descriptor(file))
        self.counts.renewed += 1

    async def _conclude(self, job: MediaJob, file: RemoteFile | None, answer: Answer | None, error: Exception) -> None:
        step = next_step(error, job.attempts, answer, self._jitter(), job.last_code)
        # A library's error text may contain an address.
        text = str(error) if isinstance(error, WorkerError) else type(error).__name__
        match step:
            case Abandon():
                await self._store.media_abandon(job.id, self.owner, step.status, step.code, text)
                self.counts.abandoned += 1
                logger.warning("media job {} abandoned: {} {}", job.id, step.code, text)
            case RetryLater():
                renewed = make_descriptor(file) if file is not None and answer == "renewed" else None
                await self._store.media_retry(job.id, self.owner, f"{step.code}: {text}", step.seconds, renewed)
                self.counts.postponed += 1
                if job.attempts == 1:  # the contract requires an entry when the quick retry did not help
                    await self._store.audit(job.session_id, "error", _audit_payload(job, step, text))
            case HandOver():
                await self._store.media_ask_phone(job.id, self.owner, f"MEDIA_EXPIRED: {text}")
                self.counts.handed_over += 1
            case JobLost() | AskPhone():
                logger.info("media job {} is no longer ours", job.id)

    async def _write_outcome(self, writing: Awaitable[None]) -> None:
        """If this fails too, the lease ends by itself and the job is tried again."""
        try:
            await writing
        except (StoreUnavailable, StoreRefused) as error:
            logger.warning("the outcome of a media job could not be written: {}", error)


def _due(claim: Claim) -> bool:
    """Whether another claim may find something at once: also after one that failed."""
    return claim.next_in_seconds is not None and claim.next_in_seconds <= DUE_SOON_SECONDS


def _audit_payload(job: MediaJob, step: RetryLater, text: str) -> Json:
    ctx = {"wa_msg_id": job.wa_msg_id, "chat_id": job.chat_id, "next_attempt_in_s": round(step.seconds)}
    return {"code": step.code, "msg": text, "ctx": ctx}

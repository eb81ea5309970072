"""The poll: one call every WORKER_POLL_MS renews this process's leases and returns updates for its sessions.

An idle worker makes no other calls. A failed poll proves nothing: it is repeated soon, and the session's
`DatabaseWatch` ends the socket before the lease can run out.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import anyio
from loguru import logger

from worker.errors import StaleFence, StoreRefused, StoreUnavailable, UnexpectedAnswer
from worker.media.jobs import MediaRunner
from worker.session.flags import FlagWatch, Monitored
from worker.session.high_water import HighWater
from worker.session.housekeeping import Housekeeping
from worker.store import ClaimedSession, HeldSession, HostPollAnswer, SessionUpdate, Store, StoredSettings
from worker.store.availability import DatabaseWatch
from worker.store.lanes import LANE_CONNECTIONS
from worker.store.lease import PollTiming
from worker.store.retry import REFUSALS_BELIEVED

GiveUpReason = Literal["unwanted", "moves"]  # no longer wanted; moving to another host


@dataclass(frozen=True, kw_only=True)
class ServedParts:
    """The parts of a served session that receive its updates."""

    session: str
    fence: int
    watch: DatabaseWatch
    monitored: Monitored
    flags: FlagWatch
    media: MediaRunner
    housekeeping: Housekeeping
    high_water: HighWater = field(default_factory=HighWater)

    def held(self) -> HeldSession:
        return HeldSession(
            session=self.session,
            fence=self.fence,
            monitored=self.monitored.version,
            media=self.media.acceptable_jobs(),
            complete=self.high_water.value,
        )

    def apply(self, update: SessionUpdate, asked_at: float) -> None:
        if update.monitored is not None:
            self.monitored.take(update.monitored)
        self.flags.take(update.flags, asked_at)
        self.flags.take_requests(update.requests, asked_at)
        if update.media:
            self.media.notify()
        if update.refused:
            self.housekeeping.note_refused_due()


class ClaimCallbacks(Protocol):
    """Callbacks for a claimed session."""

    def on_give_up(self, why: GiveUpReason) -> None:
        """Give the session back. Repeated until done."""

    def on_settings(self, settings: StoredSettings) -> None:
        """The session's settings changed."""


class PolledSession:
    """A session whose lease this process holds, whether or not it is served yet.

    The poll renews the lease of a waiting session too. `callbacks`: only for a claimed session.
    """

    def __init__(
        self, session: str, fence: int, callbacks: ClaimCallbacks | None = None, settings: StoredSettings | None = None
    ) -> None:
        self.session = session
        self.fence = fence
        self._callbacks = callbacks
        self._settings = settings
        self._served: ServedParts | None = None
        self._last = HeldSession(session=session, fence=fence, monitored=None, media=0)
        self._ended = anyio.Event()
        self._end: Exception | None = None
        self.leaving = False  # being released: that its lease is lost is no news

    @contextmanager
    def serving(self, served: ServedParts) -> Iterator[None]:
        """Pass updates to these parts while the block runs."""
        self._served = served
        try:
            yield
        finally:
            self._last = replace(served.held(), media=0, complete=None)
            self._served = None

    def held(self) -> HeldSession:
        held = self._last if self._served is None else self._served.held()
        if self._settings is None:
            return held
        return replace(held, claimed=True, settings=self._settings.version)

    def answered(self) -> None:
        """The lease was renewed, or renewal was not due."""
        if self._served is not None:
            self._served.watch.answered("lease")

    def unanswered(self, since: float, why: str) -> None:
        """No poll was answered since `since`: the lease is running down."""
        if self._served is not None:
            self._served.watch.unanswered("lease", since, why)

    def apply(self, update: SessionUpdate, asked_at: float) -> None:
        """Pass on an update. An exception ends this session, not the poll."""
        try:
            if self._callbacks is not None and update.stop:
                self._callbacks.on_give_up("unwanted")
            if self._callbacks is not None and update.settings is not None:
                self._settings = update.settings
                self._callbacks.on_settings(update.settings)
            if self._served is not None:
                self._served.apply(update, asked_at)
        except Exception as fault:
            self.end(fault)

    def give_up(self) -> None:
        """Give the session up to another host."""
        if self._callbacks is not None:
            self._callbacks.on_give_up("moves")

    def end(self, why: Exception) -> None:
        """Stop serving the session here because of `why`."""
        self._end = self._end or why
        self._ended.set()

    async def until_lost(self) -> None:
        """Wait until the session must end here.

        Raises:
            StaleFence: another worker holds the lease. Also whatever `apply` raised.
        """
        await self._ended.wait()
        assert self._end is not None
        raise self._end


@dataclass(frozen=True, kw_only=True)
class ClaimHandler:
    """How many more sessions a host can serve, and what to do with each claimed one."""

    free_slots: Callable[[], int]
    on_claim: Callable[[ClaimedSession], None]


class HostPoll:
    """Polls for all sessions of this process. Without `claims` it claims no new ones."""

    def __init__(
        self,
        store: Store,
        owner: str,
        timing: PollTiming,
        claims: ClaimHandler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._owner = owner
        self._timing = timing
        self._claims = claims
        self._clock = clock
        self._sessions: dict[str, PolledSession] = {}
        self._joined = anyio.Event()
        self._polling = anyio.Lock()
        self._singles = anyio.Semaphore(LANE_CONNECTIONS - 1)  # if these hang, one connection is left for `run`
        self._away = False
        self._refusals = 0
        self._refused_since = 0.0

    @contextmanager
    def registered(self, polled: PolledSession) -> Iterator[None]:
        """Include this session in the polls while the block runs."""
        self._sessions[polled.session] = polled
        self._joined.set()
        try:
            yield
        finally:
            if self._sessions.get(polled.session) is polled:
                del self._sessions[polled.session]

    @property
    def away(self) -> bool:
        """The last poll by `run` got no answer."""
        return self._away

    async def run(self) -> None:
        """Poll until cancelled, through outages and refusals."""
        pause = self._timing.interval if self._claims is None else random.uniform(0, self._timing.retry_interval)  # noqa: S311
        while True:
            await self._until_needed()
            await anyio.sleep(pause)
            try:
                async with self._polling:
                    answer = await self.ask()
            except (StoreUnavailable, StoreRefused) as error:
                self._failed(error)
                pause = self._timing.retry_interval
            else:
                self._away = False
                pause = self._timing.retry_interval if answer.busy else self._timing.interval

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """A block during which `run` does not poll. Waits for a poll in flight first."""
        async with self._polling:
            yield

    async def _until_needed(self) -> None:
        while not self._sessions and self._claims is None:
            self._joined = anyio.Event()
            await self._joined.wait()

    async def ask(self, *sessions: PolledSession) -> HostPollAnswer:
        """Poll once, for these sessions or for all, and pass the updates on.

        Raises:
            StoreUnavailable: the database does not answer.
            StoreRefused: it refuses. Several in a row count as no answer.
        """
        async with self._singles if sessions else nullcontext():
            return await self._ask(sessions)

    async def _ask(self, sessions: Sequence[PolledSession]) -> HostPollAnswer:
        asked, asked_at = sessions or tuple(self._sessions.values()), self._clock()
        room = None if sessions else self._claims.free_slots() if self._claims is not None else 0
        try:
            answer = await self._call(asked, room)
        except StoreUnavailable as error:
            for one in asked:
                one.unanswered(asked_at if error.sent_at is None else error.sent_at, str(error))
            raise
        except StoreRefused as refused:
            self._note_refusal(asked, asked_at, str(refused))
            raise
        self._refusals = 0
        for one in asked:
            self._tell(one, answer, asked_at)
        for claimed in answer.claimed:
            assert self._claims is not None
            self._end_former(claimed.session)
            self._claims.on_claim(claimed)
        return answer

    def _end_former(self, session: str) -> None:
        """Our lease ran out unnoticed and we claimed the session again, under a new fence: end the old holder."""
        if session in self._sessions and not self._sessions[session].leaving:
            logger.warning("the lease of {} had run out; claimed it again", session)
            self._sessions[session].end(StaleFence("this process has claimed the session anew"))

    def _note_refusal(self, asked: Sequence[PolledSession], asked_at: float, why: str) -> None:
        """One refusal proves nothing. If they continue, the sockets must end before the leases run out."""
        self._refused_since = self._refused_since if self._refusals else asked_at
        self._refusals += 1
        for one in asked:
            if self._refusals < REFUSALS_BELIEVED:
                one.answered()
            else:
                one.unanswered(self._refused_since, why)

    async def _call(self, asked: Sequence[PolledSession], room: int | None) -> HostPollAnswer:
        held = [one.held() for one in asked]
        try:
            return await self._store.host_poll(self._owner, room, held, self._timing.lease, self._timing.call_timeout)
        except (KeyError, TypeError, ValueError) as odd:  # one session's data must not end the poll of all
            raise UnexpectedAnswer(f"wa_host_poll: the answer is not the function's ({type(odd).__name__})") from None

    def _tell(self, one: PolledSession, answer: HostPollAnswer, asked_at: float) -> None:
        if one.session in answer.busy:  # a commit holds the row lock: the session is ours, but its lease runs down
            one.unanswered(asked_at, "the session's row has been locked since the lease was due")
        else:
            one.answered()
        if one.session in answer.lost:
            if not one.leaving:
                logger.warning("another worker took the lease of {}", one.session)
            one.end(StaleFence("another worker took the lease"))
            return
        if one.session in answer.updates:
            one.apply(answer.updates[one.session], asked_at)
        if one.session in answer.give_up:
            one.give_up()

    def _failed(self, error: StoreUnavailable | StoreRefused) -> None:
        if self._away:
            return
        self._away = True
        if isinstance(error, StoreRefused):
            logger.error("the poll was refused (code {}); asking again", error.code)
        else:
            logger.warning("the database does not answer the poll ({}); flags are read again when it does", error)

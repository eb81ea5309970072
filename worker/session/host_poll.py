"""The poll: one call every WORKER_POLL_MS renews the leases of this process and brings what is new for its sessions.

Nothing else is asked while nothing happens. A poll that fails is no verdict: it is repeated soon, and the session's
`DatabaseWatch` ends the socket before the lease can run out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
from loguru import logger

from worker.errors import StaleFence, StoreRefused, StoreUnavailable
from worker.media.jobs import MediaRunner
from worker.session.flags import FlagWatch, Monitored
from worker.session.high_water import HighWater
from worker.session.housekeeping import Housekeeping
from worker.store import HeldSession, HostPolled, News, Store
from worker.store.availability import DatabaseWatch
from worker.store.lease import Pace
from worker.store.retry import REFUSALS_BELIEVED

CAPACITY = 0  # a process serves the session that it was told to


@dataclass(frozen=True, kw_only=True)
class Served:
    """A session that this process holds, and who is told its news."""

    session: str
    fence: int
    watch: DatabaseWatch
    monitored: Monitored
    flags: FlagWatch
    media: MediaRunner
    housekeeping: Housekeeping
    high_water: HighWater = field(default_factory=HighWater)
    lost: anyio.Event = field(default_factory=anyio.Event)

    def held(self) -> HeldSession:
        return HeldSession(
            session=self.session,
            fence=self.fence,
            monitored=self.monitored.version,
            media=self.media.takes(),
            complete=self.high_water.value,
        )

    def take(self, news: News, asked_at: float) -> None:
        if news.monitored is not None:
            self.monitored.take(news.monitored)
        self.flags.take(news.flags, asked_at)
        if news.media:
            self.media.notify()
        if news.refused:
            self.housekeeping.note_refused_due()

    async def until_lost(self) -> None:
        """Wait until somebody else holds the session.

        Raises:
            StaleFence: always.
        """
        await self.lost.wait()
        raise StaleFence("another worker took the lease")


class HostPoll:
    """Polls for all sessions of this process."""

    def __init__(
        self,
        store: Store,
        owner: str,
        pace: Pace,
        sessions: Sequence[Served],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._owner = owner
        self._pace = pace
        self._sessions = sessions
        self._clock = clock
        self._away = False
        self._refusals = 0
        self._refused_since = 0.0

    async def run(self) -> None:
        """Poll until cancelled. Neither an outage of the database nor a refusal ends it."""
        pause = self._pace.every
        while True:
            await anyio.sleep(pause)
            try:
                answer = await self.ask()
            except (StoreUnavailable, StoreRefused) as error:
                self._failed(error)
                pause = self._pace.again
            else:
                self._away = False
                pause = self._pace.again if answer.busy else self._pace.every

    async def ask(self) -> HostPolled:
        """Poll once, and tell everybody.

        Raises:
            StoreUnavailable: the database does not answer.
            StoreRefused: it says no. Several times in a row, it counts as no answer.
        """
        asked_at = self._clock()
        try:
            answer = await self._call()
        except StoreUnavailable as error:
            for one in self._sessions:
                one.watch.unanswered("lease", asked_at if error.sent_at is None else error.sent_at, str(error))
            raise
        except StoreRefused as refused:
            self._note_refusal(asked_at, str(refused))
            raise
        self._refusals = 0
        for one in self._sessions:
            self._tell(one, answer, asked_at)
        return answer

    def _note_refusal(self, asked_at: float, why: str) -> None:
        """One refusal says nothing. If it stays so, the leases run out, and the sockets have to end before."""
        self._refused_since = self._refused_since if self._refusals else asked_at
        self._refusals += 1
        for one in self._sessions:
            if self._refusals < REFUSALS_BELIEVED:
                one.watch.answered("lease")
            else:
                one.watch.unanswered("lease", self._refused_since, why)

    async def _call(self) -> HostPolled:
        with anyio.move_on_after(self._pace.call):
            return await self._store.host_poll(self._owner, CAPACITY, [one.held() for one in self._sessions])
        raise StoreUnavailable(f"wa_host_poll: no answer within {self._pace.call:g} s")

    def _tell(self, one: Served, answer: HostPolled, asked_at: float) -> None:
        if one.session in answer.busy:  # its commit holds the row, and with it the session; but the lease gets shorter
            one.watch.unanswered("lease", asked_at, "the session's row has been locked since the lease was due")
        else:
            one.watch.answered("lease")
        if one.session in answer.lost:
            logger.warning("the lease of {} went to another worker", one.session)
            one.lost.set()
        elif one.session in answer.news:
            one.take(answer.news[one.session], asked_at)

    def _failed(self, error: StoreUnavailable | StoreRefused) -> None:
        if self._away:
            return
        self._away = True
        if isinstance(error, StoreRefused):
            logger.error("the poll was refused (code {}); asking again", error.code)
        else:
            logger.warning("the database does not answer the poll ({}); flags are read again when it does", error)

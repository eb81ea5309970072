"""Which fault comes when: a shuffled deck, each kind once before any comes twice, until the time is over.

A kind that was injected and not seen goes back into the deck; one that was never seen by the end is a finding.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

import anyio

from testkit.phone import PhoneError
from testkit.waiting import TookTooLong
from tests.chaos.stage import Inject, NotSeen, Stage

FAULT_SECONDS = 120.0  # each has bounds of its own; this one is for a hang
RETRIES = 3  # of a kind that was not seen


@dataclass
class Tally:
    """What became of the faults."""

    injected: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    unseen: list[str] = field(default_factory=list)


class Deck:
    """Deals one kind after another."""

    def __init__(
        self,
        faults: Mapping[str, Inject],
        random: Random,
        tally: Tally,
        say: Callable[[str], None],
        pause: tuple[float, float],
    ) -> None:
        self._faults = faults
        self._random = random
        self._tally = tally
        self._say = say
        self._pause = pause
        self._cards: list[str] = []

    @property
    def complete(self) -> bool:
        return all(self._tally.seen[kind] for kind in self._faults)

    async def deal(self, stage: Stage, ends: float, latest: float) -> None:
        """Until `ends` (monotonic), and on until every kind was seen, at most until `latest`."""
        while time.monotonic() < ends or (not self.complete and time.monotonic() < latest):
            if not self._cards:
                self._cards = self._next_round()
            await self._play(stage, self._cards.pop())
            await anyio.sleep(self._random.uniform(*self._pause))

    def _next_round(self) -> list[str]:
        missing = [kind for kind in sorted(self._faults) if not self._tally.seen[kind]]
        cards = missing or sorted(self._faults)
        self._random.shuffle(cards)
        return cards

    async def _play(self, stage: Stage, kind: str) -> None:
        self._tally.injected[kind] += 1
        started = time.monotonic()
        try:
            with anyio.fail_after(FAULT_SECONDS):
                await self._faults[kind](stage)
        except (NotSeen, TookTooLong, PhoneError, TimeoutError) as unseen:
            why = (str(unseen) or type(unseen).__name__).splitlines()[0]
            self._tally.unseen.append(f"{kind}: {why}")
            self._say(f"{kind}: not seen ({why})")
        else:
            self._tally.seen[kind] += 1
            self._say(f"{kind} ({time.monotonic() - started:.1f} s)")

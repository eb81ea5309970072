"""What a fault of a chaos run may use, and how it waits until it is seen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from testkit.waiting import TookTooLong, until
from tests.chaos.attackers import Attackers
from tests.chaos.proxy import Rule
from tests.chaos.rig import Rig
from tests.chaos.traffic import Traffic

SEEN_SECONDS = 20.0  # traffic hits an armed fault within a second or two; a busy machine takes longer
BACK_SECONDS = 45.0  # a worker on a busy machine: Python, lease, Node, login


class NotSeen(AssertionError):
    """The fault was injected and nothing shows that it took effect."""


@dataclass(kw_only=True)
class Stage:
    """What a fault may use."""

    rig: Rig
    traffic: Traffic
    attackers: Attackers
    random: Random
    violations: list[tuple[str, str]] = field(default_factory=list)  # (check, what)

    async def until(self, what: str, probe: Callable[[], Awaitable[object]], seconds: float = SEEN_SECONDS) -> None:
        try:
            await until(what, probe, seconds=seconds, every=0.05)
        except TookTooLong as late:
            raise NotSeen(str(late)) from None

    async def connected(self) -> None:
        async def probe() -> bool:
            return bool((await self.rig.phone.state())["connected"])

        await self.until("the worker to be connected", probe, BACK_SECONDS)

    async def logins(self) -> int:
        return int((await self.rig.phone.state())["logins"])

    async def logged_in_again(self, before: int) -> None:
        async def probe() -> bool:
            state = await self.rig.phone.state()
            return bool(state["logins"] > before and state["connected"])

        await self.until("another login", probe, BACK_SECONDS)


Inject = Callable[[Stage], Awaitable[None]]


async def hit(rule: Rule) -> bool:
    """Whether a request has met it."""
    return rule.hits > 0

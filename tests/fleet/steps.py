"""What happens to a fleet, one step after the other: to one account that is loud, and to hosts."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio

from tests.fleet import loud
from tests.fleet.witness import Served

if TYPE_CHECKING:
    from tests.fleet.run import Fleet

ALL = ("burst", "slow", "crashes", "killed", "paused", "added", "drained")


async def burst(it: Fleet, served: Served) -> None:
    """One account's group talks as fast as it can, with files."""
    await loud.beside(it, "a burst of one account", loud.bursts)


async def slow(it: Fleet, served: Served) -> None:
    """The same, and the database takes seconds for each of this account's commits."""
    await loud.beside(it, "a burst of one account whose commits are slow", loud.slow_bursts)


async def crashes(it: Fleet, served: Served) -> None:
    """One account's sidecar dies as soon as it has started, again and again."""
    await loud.beside(it, "one account's sidecar crashes again and again", loud.crashes)
    await it.until_served("it crashes no more", served)


async def killed(it: Fleet, served: Served) -> None:
    """Power fails; the operator's supervisor starts the host again."""
    host = it.pick()
    it.hosts.remove(host)
    host.child.kill()
    await it.until_served("a host is killed", served)
    await it.start()
    await it.until_served("it is started again", served, balanced=True)


async def paused(it: Fleet, served: Served) -> None:
    """A host stands still for longer than its leases, and goes on as if nothing had been."""
    host = it.pick()
    it.paused.add(host.child.pid)
    os.kill(host.child.pid, signal.SIGSTOP)
    it.hosts.remove(host)
    await it.until_served("a host is paused", served)
    it.hosts.append(host)
    it.paused.discard(host.child.pid)
    os.kill(host.child.pid, signal.SIGCONT)
    await it.until_served("it goes on", served, balanced=True)


async def added(it: Fleet, served: Served) -> None:
    await it.start()
    await it.until_served("a host is added", served, balanced=True)


async def drained(it: Fleet, served: Served) -> None:
    host = it.pick()
    it.hosts.remove(host)
    code = await host.child.stop()
    if code:
        it.violations.append(("drained", f"its exit code is {code}"))
    await it.until_served("a host is drained", served, balanced=True)


async def watched(it: Fleet, served: Served) -> None:
    """Nothing happens for a while."""
    await anyio.sleep(it.options.patience / 3)

"""What a fleet is seen to do: every change of a lease as the database has it, every write that names a fence, who is
served, what it costs.

A migration of the run's own writes the leases down; the proxy before the database, the writes; /proc tells memory and
processor time.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio

from testkit.database import Database, parse_time
from testkit.processes import cpu_seconds, descendants, pss_bytes
from tests.chaos.proxy import FaultProxy, Request

LOOK_SECONDS = 1.0
CLOCK_SECONDS = 0.005  # the database writes microseconds, another process read the clock
LEASE_LOG = """
create table public.fleet_leases (
  id bigint generated always as identity primary key,
  at timestamptz not null default clock_timestamp(),
  session_id text not null, fence bigint not null, old_fence bigint not null, owner text, old_owner text,
  ends timestamptz
);
grant select, insert on public.fleet_leases to service_role;
create function public.fleet_note() returns trigger language plpgsql security invoker set search_path = '' as $$
begin
  insert into public.fleet_leases (session_id, fence, old_fence, owner, old_owner, ends)
  values (new.id, new.fence, old.fence, new.lease_owner, old.lease_owner, old.lease_expires_at);
  return null;
end
$$;
create trigger fleet_note after update on public.wa_sessions for each row
when (new.lease_owner is distinct from old.lease_owner or new.fence <> old.fence)
execute function public.fleet_note();
"""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Write:
    """A call that named a fence, and was not refused. `begun`: when it came to the proxy, seconds since 1970."""

    session: str
    fence: int
    function: str
    begun: float


class WatchingProxy(FaultProxy):
    """Remembers which fences wrote."""

    def __init__(self, upstream: str, seed: object) -> None:
        super().__init__(upstream, seed)
        self.writes: list[Write] = []

    def _expect(self, request: Request) -> Callable[[int, bytes], Callable[[], None]]:
        note, begun = super()._expect(request), time.time()

        def noted(status: int, body: bytes) -> Callable[[], None]:
            if status < 300 and (named := fence_of(request)) is not None:
                self.writes.append(
                    Write(session=named[0], fence=named[1], function=request.function or "", begun=begun)
                )
            return note(status, body)

        return noted


def fence_of(request: Request) -> tuple[str, int] | None:
    """Session and fence of a call that needs one. A release under another fence is answered, and does nothing."""
    if request.function in (None, "wa_lease_release", "wa_host_poll") or b"fence" not in request.body:
        return None
    args = json.loads(request.body)
    fence = args.get("p_fence") or (args.get("p_batch") or {}).get("fence")
    return None if fence is None else (args["p_session"], int(fence))


def stale_writes(leases: Iterable[Row], writes: Iterable[Write]) -> Iterator[str]:
    """Writes that came under a fence when a later one had been given out."""
    given: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in leases:
        given[row["session_id"]].append((row["fence"], parse_time(row["at"]).timestamp()))
    for write in writes:
        later = [
            fence for fence, at in given[write.session] if fence > write.fence and at + CLOCK_SECONDS < write.begun
        ]
        if later:
            yield f"{write.session}: {write.function} under fence {write.fence}, after {later[0]} was given out"


def two_holders(leases: Iterable[Row]) -> Iterator[str]:
    """Where a session had two holders: one took it while another held it, or under a fence that was given before."""
    owners: dict[tuple[str, int], str] = {}
    for row in leases:
        if row["owner"] is None:
            continue
        name, fence = row["session_id"], row["fence"]
        if owners.setdefault((name, fence), row["owner"]) != row["owner"]:
            yield f"{name}: fence {fence} was given to {owners[name, fence]} and to {row['owner']}"
        if row["owner"] == row["old_owner"]:
            continue
        if fence != row["old_fence"] + 1:
            yield f"{name}: {row['owner']} took it under fence {fence} after {row['old_fence']}"
        if row["old_owner"] and row["ends"] and parse_time(row["at"]) < parse_time(row["ends"]):
            yield f"{name}: {row['owner']} took it while {row['old_owner']} held it"


@dataclass
class Served:
    """Which accounts are served: connected, by a host that runs. `runs` says so of a process."""

    database: Database
    runs: Callable[[int], bool]
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    owners: Counter[str] = field(default_factory=Counter)  # sessions by holder, at the last look
    _since: dict[str, float] = field(default_factory=dict)
    _counts: bool = False

    def begin(self) -> None:
        """All are linked: from here on time counts."""
        self._counts = True

    async def look(self) -> bool:
        """Whether all are served."""
        rows = [row for row in await self.database.rows("wa_sessions") if row["wanted"]]
        now, every = time.monotonic(), True
        self.owners = Counter(row["lease_owner"] for row in rows if row["lease_owner"])
        for row in rows:
            owner = row["lease_owner"]
            if row["status"] == "connected" and owner and self.runs(process_of(owner)):
                since = self._since.pop(row["id"], None)
            else:
                every = False
                since = self._since.setdefault(row["id"], now)
            if since is not None and self._counts:
                self.longest[row["id"]] = max(self.longest[row["id"]], now - since)
        return every

    async def run(self) -> None:
        while True:
            await self.look()
            await anyio.sleep(LOOK_SECONDS)


def process_of(owner: str) -> int:
    return int(owner.split(":")[-2])


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of hosts with their sidecars: bytes (proportional set size), and seconds of processor time until now."""

    host_bytes: int
    sidecar_bytes: int
    sidecars: int
    cpu: float


def cost(hosts: Iterable[int]) -> Cost:
    own = list(hosts)
    sidecars = [pid for host in own for pid in descendants(host)]
    return Cost(
        host_bytes=pss_bytes(own),
        sidecar_bytes=pss_bytes(sidecars),
        sidecars=len(sidecars),
        cpu=cpu_seconds([*own, *sidecars]),
    )

"""What a fleet is seen to do: every change of a lease as the database has it, who is served, what it costs.

A migration of the run's own writes the leases down; /proc tells memory and processor time.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from testkit.database import Database, parse_time
from testkit.processes import cpu_seconds, descendants, pss_bytes
from worker.store.embedded import MIGRATIONS

LOOK_SECONDS = 1.0
LAST = "29991231235959_fleet.sql"
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


def migrations(folder: Path, sabotage: str = "") -> Path:
    """The project's, and one that notes leases. `sabotage`: SQL that undoes a protection."""
    target = folder / "migrations"
    shutil.copytree(MIGRATIONS, target)
    (target / LAST).write_text(LEASE_LOG + sabotage)
    return target


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

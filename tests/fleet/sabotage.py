"""What `--sabotage` breaks in a fleet: one protection each, so that a check can be seen to fail.

Two places: the database (the run's own migration, made here from the schema files) and the hosts (entry.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.sabotage import changed, migrations_with
from tests.fleet.witness import LEASE_LOG


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """`check`: the one that must fail; `also`: those that may, as a consequence. `steps`: what brings it to light."""

    check: str
    also: tuple[str, ...] = ()
    broken: str
    steps: tuple[str, ...]


SABOTAGES = {
    "early_claim": Sabotage(
        check="holders",
        also=("served", "balanced", "settled", "stored"),  # a session that goes back and forth is hardly served
        broken="a session is claimed before its lease has ended",
        steps=("killed",),
    ),
    "no_fence": Sabotage(
        check="fence",
        also=("served", "balanced", "settled", "stored"),  # two hosts log each other out
        broken="neither a write nor a poll is refused for its fence",
        steps=("paused",),
    ),
    "no_takeover": Sabotage(
        check="served",
        also=("balanced", "down", "settled", "stored"),
        broken="what a dead host held is claimed by nobody",
        steps=("killed",),
    ),
    "no_balance": Sabotage(check="balanced", broken="no host gives a session up", steps=("added",)),
    "one_connection": Sabotage(
        check="fair",
        also=("settled", "stored"),
        broken="all sessions of a host share one connection for each sort of call",
        steps=("slow",),
    ),
}


def migrations(sabotage: str, folder: Path) -> Path:
    """The project's migrations, and one that notes leases and undoes a protection."""
    make = _SQL.get(sabotage)
    return migrations_with("\n".join([LEASE_LOG, *([make()] if make else [])]), folder)


def _claim_before_the_lease_ends() -> str:
    """A third of it early: a host that polls has renewed it by then, a killed or a paused one has not."""
    third = "clock_timestamp() + make_interval(secs => s.lease_seconds / 3)"
    early = r"s\.lease_expires_at <= clock_timestamp\(\)", f"s.lease_expires_at <= {third}"
    claim = changed("wa.claim_sessions", *early).replace("<= clock_timestamp() - p_waited", "is not null")
    return "\n".join([changed("wa.free_sessions", *early), claim])


def _check_no_fence() -> str:
    lock = changed("wa.lock_session", r"or v_row\.fence is distinct from p_fence", "")
    lost = r"v_row\.fence is distinct from v_held\.fence or v_row\.lease_owner is distinct from p_owner"
    return "\n".join([lock, changed("public.wa_host_poll", lost, "false")])


def _claim_only_what_nobody_holds() -> str:
    return changed("wa.free_sessions", r"if p_all then", "if false then")


def _give_nothing() -> str:
    return changed("wa.session_to_give", r"coalesce\(v_excess, 0\) <= 0", "true")


_SQL: dict[str, Callable[[], str]] = {
    "early_claim": _claim_before_the_lease_ends,
    "no_balance": _give_nothing,
    "no_fence": _check_no_fence,
    "no_takeover": _claim_only_what_nobody_holds,
}

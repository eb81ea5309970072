"""What `--sabotage` breaks in a fleet: one thing each, in the database, so that a check can be seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.sabotage import changed


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """`check`: the one that must fail; `also`: those that may, as a consequence."""

    check: str
    broken: str
    sql: Callable[[], str]
    also: tuple[str, ...] = ()


def _claim_before_the_lease_ends() -> str:
    """Ten seconds early, which a host that polls never lets happen: a killed or a paused one does."""
    early = r"s\.lease_expires_at <= clock_timestamp\(\)", "s.lease_expires_at <= clock_timestamp() + interval '10 s'"
    return "\n".join(changed(function, *early) for function in ("wa.free_sessions", "wa.claim_sessions"))


def _claim_only_what_nobody_holds() -> str:
    return changed("wa.free_sessions", r"if p_all then", "if false then")


def _give_nothing() -> str:
    return changed("wa.session_to_give", r"coalesce\(v_excess, 0\) <= 0", "true")


SABOTAGES = {
    "early_claim": Sabotage(
        check="holders", broken="a session is claimed before its lease has ended", sql=_claim_before_the_lease_ends
    ),
    "no_takeover": Sabotage(
        check="served",
        also=("balanced", "down", "settled", "stored"),
        broken="what a dead host held is claimed by nobody",
        sql=_claim_only_what_nobody_holds,
    ),
    "no_balance": Sabotage(check="balanced", broken="no host gives a session up", sql=_give_nothing),
}

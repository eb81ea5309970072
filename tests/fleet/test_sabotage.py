"""Each check of a fleet's run can fail: one protection is broken, and the check that is aimed at it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.run import Options, fleet
from tests.fleet.sabotage import SABOTAGES

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

BRISK = {"WORKER_POLL_MS": "500", "WORKER_LEASE_S": "6"}


def small(steps: tuple[str, ...], sabotage: str = "", patience: float = 30.0) -> Options:
    """Two hosts with four accounts. Only what never comes is a violation, however slow this machine is."""
    return Options(
        accounts=4, hosts=2, seed=1, rate=2.0, steps=steps, measured_seconds=0, judges_times=False,
        patience=patience, settled_seconds=patience, settings=BRISK, sabotage=sabotage,
    )  # fmt: skip


@pytest.mark.parametrize("name", SABOTAGES)
async def test_the_check_that_a_sabotage_aims_at_is_the_one_that_fails(name: str, tmp_path: Path) -> None:
    sabotage = SABOTAGES[name]

    violations = await fleet(small(sabotage.steps, name), tmp_path, print)

    failed = {check for check, _ in violations}
    assert sabotage.check in failed, f"{sabotage.broken}, and nothing was seen"
    assert failed <= {sabotage.check, *sabotage.also}, violations


async def test_hosts_that_are_killed_paused_added_and_drained_lose_nothing(tmp_path: Path) -> None:
    violations = await fleet(small(("killed", "paused", "added", "drained"), patience=180.0), tmp_path, print)

    assert violations == []

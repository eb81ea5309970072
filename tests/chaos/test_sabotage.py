"""Each check of a chaos run can fail: one thing is broken, and the check that is aimed at it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import Options, chaos
from tests.chaos.sabotage import SABOTAGES

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SEED = 1


@pytest.mark.parametrize("name", SABOTAGES)
async def test_the_check_that_a_sabotage_aims_at_is_the_one_that_fails(name: str, tmp_path: Path) -> None:
    sabotage = SABOTAGES[name]

    result = await chaos(Options(seconds=0, seed=SEED, sabotage=name), tmp_path, print)

    assert sabotage.check in result.failed, f"{sabotage.broken}, and nothing was seen"
    assert result.failed <= {sabotage.check, *sabotage.also}, result.violations

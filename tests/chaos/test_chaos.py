"""A short chaos run, with every kind of fault once: what CI runs of `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import Options, chaos

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]  # four minutes; a loaded machine takes longer

SEED = 1


async def test_whatever_dies_nothing_that_was_receipted_is_lost(tmp_path: Path) -> None:
    result = await chaos(Options(seconds=0, seed=SEED), tmp_path, print)

    assert result.violations == []
    assert result.receipted > 0
    assert all(result.tally.seen[kind] for kind in result.tally.injected)

"""The benchmark judges its goals by the figures of the run, and says which it does not have."""

from __future__ import annotations

from typing import Any

import pytest

from bench.report import EMBEDDED, POSTGRES, STOCK, Figures, judged


def queue(side: str, per_second: float, **more: Any) -> dict[str, Any]:
    return {"what": "queue", "side": side, "messages": 10_000, "per_second": per_second} | more


def verdicts(*results: dict[str, Any]) -> dict[str, str]:
    return {goal: verdict for goal, _, verdict in judged(Figures(list(results)))}


def test_a_goal_without_figures_is_not_measured() -> None:
    assert set(verdicts().values()) == {"not measured"}


@pytest.mark.parametrize(("rate", "verdict"), [(601, "met"), (599, "missed")])
def test_the_least_and_the_most_are_judged_each_its_way(rate: float, verdict: str) -> None:
    found = verdicts(queue(STOCK, 50), queue(EMBEDDED, rate), queue(EMBEDDED, rate))
    assert found["embedded at least 12 x stock"] == verdict
    assert found["10,000 queued in at most 12 s, embedded"] == "missed"
    assert found["PostgreSQL at least 14 x stock"] == "not measured"


def test_the_slower_database_counts_and_growth_needs_its_largest_size() -> None:
    live = [
        {"what": "live", "side": side, "away_ms": 150, "p50": p50, "p99": 300}
        for side, p50 in ((EMBEDDED, 181), (POSTGRES, 160))
    ]
    sizes = [{"what": "growth", "side": "alone", "rows": rows, "commit_ms": 4.0} for rows in (1_000, 100_000)]
    found = verdicts(*live, *sizes)
    assert found["150 ms away p50 at most 1.2 round trips"] == "missed"
    assert found["flat to 1,000,000 rows"] == "not measured"
    sizes.append(sizes[0] | {"rows": 1_000_000, "commit_ms": 5.9})
    assert verdicts(*sizes)["flat to 1,000,000 rows"] == "met"

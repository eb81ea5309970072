"""What the health page takes from a session's row, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from console.rules.worker_figures import worker_figures

COMMITS = {
    "from": "2026-11-27T10:00:00Z", "to": "2026-11-27T10:30:00Z", "count": 9, "p50_ms": 12, "p95_ms": 80, "max_ms": 95,
}  # fmt: skip


def test_figures_of_a_row() -> None:
    heard = {"any": "2026-11-27T10:00:00Z", "group": None}
    found = worker_figures({"detail": {"heard": heard, "commits": COMMITS}})
    assert (found.anything, found.group) == ("2026-11-27T10:00:00Z", None)
    assert found.commits
    assert (found.commits.count, found.commits.half, found.commits.most, found.commits.longest) == (9, 12, 80, 95)


@pytest.mark.parametrize(
    "detail",
    [
        None,
        {},
        {"heard": "now", "commits": "fast"},
        {"heard": {"any": 7, "group": "yesterday"}, "commits": COMMITS | {"p50_ms": "12"}},
        {"heard": {"any": "2026-11-27T10:00:00"}, "commits": COMMITS | {"from": "then"}},
    ],
)
def test_what_is_no_figure_is_left_out(detail: Any) -> None:
    found = worker_figures({"detail": detail})
    assert (found.anything, found.group, found.commits) == (None, None, None)
    assert worker_figures(None).commits is None

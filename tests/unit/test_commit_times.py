"""What a session's row says of its commits."""

from __future__ import annotations

from typing import Any, cast

from worker.session.commit_times import KEPT, CommitTimes

START = 1_790_000_000.0


class Session:
    def __init__(self) -> None:
        self.now = START
        self.times = CommitTimes(lambda: self.now)

    def commits(self, *seconds: float, every: float = 1.0) -> None:
        for each in seconds:
            self.now += every
            self.times.committed(cast(Any, None), cast(Any, None), cast(Any, None), each)

    def figures(self) -> Any:
        return self.times.figures_to_store(self.now)


def test_nothing_is_stored_at_rest() -> None:
    session = Session()
    assert session.figures() is None
    session.commits(0.1)
    assert session.figures()["count"] == 1
    session.now += 600
    assert session.figures() is None, "there was no commit since"


def test_figures_are_stored_once_a_minute_at_most() -> None:
    session = Session()
    session.commits(0.1)
    assert session.figures()["count"] == 1
    session.commits(0.1)
    assert session.figures() is None
    session.now += 60
    assert session.figures()["count"] == 2


def test_half_most_and_the_slowest() -> None:
    session = Session()
    session.commits(*(place / 1000 for place in range(20, 0, -1)))
    told = session.figures()
    assert (told["p50_ms"], told["p95_ms"], told["max_ms"]) == (10, 19, 20)
    assert (told["from"], told["to"]) == ("2026-09-21T14:13:21Z", "2026-09-21T14:13:40Z")


def test_only_the_newest_of_an_hour_count() -> None:
    session = Session()
    session.commits(9.0)
    session.now += 3600
    session.commits(0.2)
    assert session.figures() | {"from": "", "to": ""} == {
        "from": "", "to": "", "count": 1, "p50_ms": 200, "p95_ms": 200, "max_ms": 200
    }  # fmt: skip
    session.commits(*[0.1] * (KEPT + 50), every=0.5)
    assert session.figures()["count"] == KEPT

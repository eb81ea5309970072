"""What coverage rests on: times of what was dropped, and the high-water mark that a sidecar tells."""

from __future__ import annotations

import pytest

from testkit.stanzas import GROUP, OTHER_GROUP, ingested, make_key, make_stanza
from tests.unit.test_policies import pong
from worker.bridge.protocol import Complete
from worker.ingest.rules.dropped import dropped_times
from worker.ingest.rules.live import iso
from worker.ingest.rules.normalise import Discard
from worker.session.high_water import HighWater

T = 1_790_000_000


def drop(seconds: float, reason: str = "waited_too_long", chat: str = GROUP) -> Discard:
    return Discard(reason=reason, chat_id=chat, sent_s=T + seconds)  # type: ignore[arg-type]


def stored(*seconds: float, chat: str = GROUP) -> list[dict[str, object]]:
    return [{"chat_id": chat, "ts": iso(T + each)} for each in seconds]


@pytest.mark.parametrize(
    ("discards", "messages", "runs"),
    [
        pytest.param([], stored(1), [], id="nothing was dropped"),
        pytest.param([Discard(reason="unmonitored")], [], [], id="other reasons have no time"),
        pytest.param([drop(5), drop(1), drop(3)], [], [(GROUP, 1, 5, 3)], id="in whatever order it came"),
        pytest.param([drop(1), drop(9)], stored(5), [(GROUP, 1, 1, 1), (GROUP, 9, 9, 1)], id="a stored one in between"),
        pytest.param([drop(1), drop(9)], stored(1, 9, 10), [(GROUP, 1, 9, 2)], id="a stored one at an end"),
        pytest.param([drop(1), drop(9)], stored(5, chat=OTHER_GROUP), [(GROUP, 1, 9, 2)], id="one of another group"),
        pytest.param(
            [drop(1), drop(2, chat=OTHER_GROUP)], [], [(GROUP, 1, 1, 1), (OTHER_GROUP, 2, 2, 1)], id="two groups"
        ),
    ],
)  # fmt: skip
def test_dropped_messages_make_runs_between_stored_ones(
    discards: list[Discard], messages: list[dict[str, object]], runs: list[tuple[str, int, int, int]]
) -> None:
    assert [
        (run["chat_id"], run["from_at"], run["to_at"], run["count"]) for run in dropped_times(discards, messages)
    ] == [(chat, iso(T + first), iso(T + last), count) for chat, first, last, count in runs]


def test_each_reason_has_runs_of_its_own() -> None:
    runs = dropped_times([drop(1), drop(2, reason="too_old"), drop(3)], [])
    assert [(run["reason"], run["count"]) for run in runs] == [("too_old", 1), ("waited_too_long", 2)]


def test_a_batch_tells_the_times_of_monitored_groups_alone() -> None:
    old = {"t": str(T - 5000), "offline": "1"}
    other = make_stanza(attrs=old, key=make_key(remoteJid=OTHER_GROUP))
    result = ingested([make_stanza(attrs=old), other])
    assert [run["chat_id"] for run in result["dropped"]] == [GROUP]


@pytest.mark.parametrize(
    ("complete", "value"),
    [
        (None, None),
        (Complete(epoch=3, to_ms=T * 1000.0), (3, T - 5)),
        (Complete(epoch=3, to_ms=1e300), None),
        (Complete(epoch=3, to_ms=float("nan")), None),
        (Complete(epoch=3, to_ms=0), None),
    ],
)
def test_the_mark_is_a_little_before_what_the_sidecar_says(
    complete: Complete | None, value: tuple[int, float] | None
) -> None:
    mark = HighWater()
    mark.take(pong(complete=Complete(epoch=2, to_ms=T * 1000.0)))
    mark.take(pong(complete=complete))
    assert (mark.value and (mark.value[0], mark.value[1].timestamp())) == value

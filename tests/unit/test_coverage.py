"""What coverage rests on: times of what was dropped, and the high-water mark that a sidecar tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testkit.stanzas import GROUP, OTHER_GROUP, ingested, make_key, make_stanza
from tests.unit.test_policies import pong
from worker.bridge.protocol import Complete
from worker.commands.coverage import REASONS, line, sentence
from worker.commands.show import local_time
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


A, B, C = "2026-11-20T08:00:00+00:00", "2026-11-20T09:30:00+00:00", "2026-11-22T10:00:00+00:00"
SINCE = f"complete since {local_time(C)}"


def gap(reason: str, start: str | None, end: str | None, count: int | None = None) -> dict[str, object]:
    return {"reason": reason, "from": start, "to": end, "count": count}


OFF = gap("not_monitored", None, A)


@pytest.mark.parametrize(
    ("gaps", "count", "said"),
    [
        pytest.param([], 0, "complete", id="nothing was ever missing"),
        pytest.param([OFF], 1, SINCE, id="before it was switched on there is no hole"),
        pytest.param([OFF, gap("lost", B, B, 1)], 2, f"{SINCE}; before that 1 gap", id="one hole"),
        pytest.param([gap("lost", B, B, 1)], 1200, f"{SINCE}; before that 1,200 gaps", id="many"),
        pytest.param([OFF, gap("away", B, None)], 2, f"not complete: no worker ran since {local_time(B)}", id="now"),
        pytest.param(
            [gap("away", None, None), gap("not_monitored", A, None)], 2,
            f"not complete: not switched on since {local_time(A)}", id="two reasons",
        ),
        pytest.param([gap("not_monitored", None, None)], 1, "not complete: not switched on", id="never"),
        pytest.param([gap("new\x1b", None, None)], 1, "not complete: new", id="a reason of a later version"),
    ],
)  # fmt: skip
def test_a_sentence_says_since_when_or_why_not(gaps: list[dict[str, object]], count: int, said: str) -> None:
    assert sentence({"gaps": gaps, "gap_count": count, "since": C}) == said


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (OFF, f"until {local_time(A)}  not switched on"),
        (gap("not_monitored", None, None), "always  not switched on"),
        (gap("away", A, None), f"since {local_time(A)}  no worker ran"),
        (gap("lost", A, A, 1), f"{local_time(A)}  never became readable (1 message)"),
        (gap("too_old", A, B, 12), f"{local_time(A)} to {local_time(B)[11:]}  dropped: came too late (12 messages)"),
        (gap("unlinked", A, C), f"{local_time(A)} to {local_time(C)}  no phone was linked"),
    ],
)
def test_a_line_says_when_why_and_how_much(shown: dict[str, object], said: str) -> None:
    assert line(shown) == said


def test_every_reason_of_the_page_has_words() -> None:
    page = (
        (Path(__file__).parents[2] / "docs" / "coverage.md").read_text().partition("## Reasons")[2].partition("##")[0]
    )
    first = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    assert {word for cell in first for word in re.findall(r"`(\w+)`", cell)} == REASONS.keys()

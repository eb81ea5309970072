"""Live only, judged once: the age rule and clocks that are off."""

from __future__ import annotations

import math
from typing import Any

import pytest

from testkit.stanzas import NOW_MS, NOW_S
from worker.ingest.rules.live import Arrival, LiveWindow, clock_at, is_live, iso, sent_at

CONTRACT = LiveWindow(live_s=30, catch_up_s=0)
RECOMMENDED = LiveWindow(live_s=30, catch_up_s=86_400)


@pytest.mark.parametrize(
    ("age_s", "how", "window", "expected", "why"),
    [
        (0, {}, CONTRACT, True, "just sent"),
        (30, {}, CONTRACT, True, "the contract discards what is older than 30 s, not what is as old"),
        (30.5, {}, CONTRACT, False, "older"),
        (-5, {}, CONTRACT, True, "the server's clock runs ahead of ours"),
        (31, {"offline": True}, CONTRACT, False, "waited offline, and catching up is off"),
        (30, {"offline": True}, CONTRACT, True, "waited offline, for less than the live window"),
        (31, {"offline": True}, RECOMMENDED, True, "catching up"),
        (86_400, {"offline": True}, RECOMMENDED, True, "as old as may be"),
        (86_401, {"offline": True}, RECOMMENDED, False, "older than that"),
        (31, {}, RECOMMENDED, False, "catching up is for the offline queue: a live stanza stays a live stanza"),
        (20, {"offline": True}, LiveWindow(live_s=30, catch_up_s=10), True, "the larger of the two counts"),
        (600, {"again": True}, CONTRACT, True, "the good copy of a stub that is there already"),
        (3601, {"again": True}, CONTRACT, False, "and too late even for that"),
        (7200, {"again": True}, RECOMMENDED, True, "unless catching up reaches as far"),
        (
            600,
            {"offline": True, "first_s": NOW_S - 590},
            CONTRACT,
            True,
            "it came live, and comes again after a reconnect",
        ),
        (600, {"offline": True, "first_s": NOW_S - 560}, CONTRACT, False, "it was too old when it first came"),
        (31, {"first_s": NOW_S + 60}, CONTRACT, False, "a first arrival after this one makes nothing younger or older"),
    ],
)
def test_age_decides(age_s: float, how: dict[str, Any], window: LiveWindow, expected: bool, why: str) -> None:
    arrival = Arrival(clock_s=NOW_S, **how)
    assert is_live(NOW_S - age_s, arrival, window) is expected, why


@pytest.mark.parametrize(
    ("stamp", "expected", "why"),
    [
        (str(NOW_S - 10), NOW_S - 10, "the server's stamp"),
        (str(NOW_S + 60), NOW_S + 60, "a little ahead is skew"),
        (str(NOW_S + 61), NOW_S, "further ahead is no time at all"),
        ("9467107200000", NOW_S, "the year 301969"),
        ("0", 0, "1970: too old, and judged so"),
        (None, NOW_S, "missing"),
        ("", NOW_S, "empty"),
        ("-5", NOW_S, "negative"),
        ("1e9", NOW_S, "not a whole number"),
        ("nan", NOW_S, "not a number"),
        ("infinity", NOW_S, "which Postgres would take"),
        ("9" * 400, NOW_S, "more digits than a number has"),
        ("\u0661\u0667\u0669", NOW_S, "digits of another script"),
    ],
)
def test_a_stamp_is_believed_within_reason(stamp: str | None, expected: float, why: str) -> None:
    assert sent_at(stamp, NOW_S) == expected, why


@pytest.mark.parametrize(
    ("arrived_ms", "offset_ms", "expected"),
    [
        (NOW_MS, None, NOW_S),
        (NOW_MS, -12_000.0, NOW_S - 12),
        (NOW_MS, math.nan, None),
        (NOW_MS, math.inf, None),
        (math.nan, None, None),
        (0, None, None),
        (10**15, None, None),
        (-(10**30), None, None),
    ],
)
def test_the_clock_is_whatsapps(arrived_ms: float, offset_ms: float | None, expected: float | None) -> None:
    assert clock_at(arrived_ms, offset_ms) == expected


def test_times_are_utc_in_iso_with_milliseconds() -> None:
    assert iso(1_790_000_000.123) == "2026-09-21T14:13:20.123Z"


@pytest.mark.parametrize("seconds", [-1.0, 4_102_444_800.0, math.nan, math.inf])
def test_a_time_outside_of_this_century_is_not_written(seconds: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        iso(seconds)


@pytest.mark.parametrize(
    ("arrived_ms", "offset_ms", "expected"),
    [
        (NOW_MS, math.nan, None),
        (math.inf, 0.0, None),
        (1_230_768_000_000, None, 1_230_768_000.0),
        (4_102_444_800_000, None, None),
    ],
)
def test_a_clock_at_the_edge_of_what_is_believed(
    arrived_ms: float, offset_ms: float | None, expected: float | None
) -> None:
    assert clock_at(arrived_ms, offset_ms) == expected


def test_the_first_second_of_1970_is_a_time() -> None:
    assert iso(0.0) == "1970-01-01T00:00:00.000Z"

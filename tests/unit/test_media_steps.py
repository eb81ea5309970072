"""What becomes of a media job: outcome and attempt → next step."""

from __future__ import annotations

import pytest

from worker.errors import (
    KeyRefused,
    MediaCorrupt,
    MediaExpired,
    MediaRefused,
    MediaTooLarge,
    MediaUnavailable,
    StoreRefused,
    StoreUnavailable,
)
from worker.media.steps import (
    BROKEN_ATTEMPTS,
    CORRUPT_ATTEMPTS,
    EXPIRED_ATTEMPTS,
    OUTAGE_ATTEMPTS,
    Abandon,
    Answer,
    AskPhone,
    HandOver,
    JobLost,
    RetryLater,
    Step,
    backoff_seconds,
    next_step,
)

EXPIRED = Abandon(status="expired", code="MEDIA_EXPIRED")


@pytest.mark.parametrize(
    ("error", "attempt", "answer", "expected", "why"),
    [
        (MediaUnavailable(), 1, None, RetryLater(seconds=30, code="MEDIA_UNAVAILABLE"), "the network may come back"),
        (MediaUnavailable(), 3, None, RetryLater(seconds=120, code="MEDIA_UNAVAILABLE"), "ever more slowly"),
        (MediaUnavailable(), OUTAGE_ATTEMPTS, None, Abandon(status="failed", code="MEDIA_UNAVAILABLE"), "18 days"),
        (MediaExpired(), 1, None, AskPhone(), "the phone may still have it"),
        (MediaExpired(), 1, "renewed", RetryLater(seconds=30, code="MEDIA_EXPIRED"), "uploaded, and not there yet"),
        (MediaExpired(), 2, "unanswered", RetryLater(seconds=60, code="MEDIA_EXPIRED"), "the phone is off"),
        (MediaExpired(), EXPIRED_ATTEMPTS, "unanswered", EXPIRED, "the phone was off for days"),
        (MediaExpired(), 1, "nobody", HandOver(), "another process has the phone"),
        (MediaExpired(), EXPIRED_ATTEMPTS - 1, "nobody", HandOver(), "and was asked before"),
        (MediaExpired(), EXPIRED_ATTEMPTS, "nobody", EXPIRED, "to and fro has an end"),
        (MediaExpired(), 99, "busy", HandOver(), "it was not asked: whatever the attempt, it waits for its turn"),
        (
            MediaExpired(others_silent=True),
            1,
            "refused",
            RetryLater(seconds=30, code="MEDIA_EXPIRED"),
            "another host may have it",
        ),
        (MediaExpired(others_silent=True), 1, None, AskPhone(), "meanwhile the phone may upload it again"),
        (MediaExpired(others_silent=True), EXPIRED_ATTEMPTS, "refused", EXPIRED, "it never answered"),
        (MediaExpired(), 1, "refused", EXPIRED, "the phone no longer has it"),
        (MediaTooLarge(), 1, None, Abandon(status="too_large", code="MEDIA_TOO_LARGE"), "it will not shrink"),
        (MediaRefused(), 1, None, Abandon(status="refused", code="MEDIA_REFUSED"), "a rule will not change"),
        (MediaCorrupt(), 1, None, RetryLater(seconds=30, code="MEDIA_CORRUPT"), "a cache may be at fault"),
        (MediaCorrupt(), CORRUPT_ATTEMPTS, None, Abandon(status="corrupt", code="MEDIA_CORRUPT"), "or the sender lies"),
        (StoreUnavailable(), 1, None, RetryLater(seconds=30, code="STORE_UNAVAILABLE"), "the database may come back"),
        (StoreUnavailable(), OUTAGE_ATTEMPTS, None, Abandon(status="failed", code="STORE_UNAVAILABLE"), "or not"),
        (StoreRefused("x", "400"), 1, None, RetryLater(seconds=30, code="STORE_REFUSED"), "it may be mended"),
        (StoreRefused("x", "400"), BROKEN_ATTEMPTS, None, Abandon(status="failed", code="STORE_REFUSED"), "or not"),
        (
            StoreRefused("x", "413"),
            1,
            None,
            Abandon(status="too_large", code="MEDIA_TOO_LARGE"),
            "Storage's limit",
        ),
        (KeyRefused("x"), 1, None, RetryLater(seconds=30, code="STORE_UNAVAILABLE"), "a stray 403 is that job's alone"),
        (
            StoreRefused("x", "object_doomed"),
            9,
            None,
            RetryLater(seconds=7680, code="STORE_REFUSED"),
            "retention is on it",
        ),
        (StoreRefused("x", "stale_job"), 1, None, JobLost(), "another worker has it"),
        (StoreRefused("x", "stale_job"), 99, None, JobLost(), "whatever the attempt"),
        (OSError(28), 1, None, RetryLater(seconds=30, code="MEDIA_INTERNAL"), "the disk is full: it can be mended"),
        (
            OSError(28),
            9,
            None,
            RetryLater(seconds=7680, code="MEDIA_INTERNAL"),
            "that may take more than five attempts",
        ),
        (OSError(28), OUTAGE_ATTEMPTS, None, Abandon(status="failed", code="MEDIA_INTERNAL"), "or it never is"),
        (KeyError(), BROKEN_ATTEMPTS, None, Abandon(status="failed", code="MEDIA_INTERNAL"), "never silence"),
    ],
)
def test_an_outcome_has_its_step(
    error: Exception, attempt: int, answer: Answer | None, expected: Step, why: str
) -> None:
    assert next_step(error, attempt, answer, jitter=0.0, before=getattr(expected, "code", None)) == expected, why


@pytest.mark.parametrize("before", [None, "stopped", "MEDIA_UNAVAILABLE"])
def test_a_file_that_was_corrupt_once_is_not_given_up_for_attempts_that_died_with_their_worker(
    before: str | None,
) -> None:
    step = next_step(MediaCorrupt(), CORRUPT_ATTEMPTS + 1, None, jitter=0.0, before=before)

    assert step == RetryLater(seconds=backoff_seconds(CORRUPT_ATTEMPTS + 1, 0.0), code="MEDIA_CORRUPT")


@pytest.mark.parametrize(
    ("attempt", "jitter", "seconds"),
    [
        (1, 0.0, 30),
        (1, 1.0, 37.5),
        (2, 0.0, 60),
        (9, 0.0, 7680),
        (10, 0.0, 15_360),
        (11, 0.0, 21_600),
        (80, 1.0, 27_000),
        (10**9, 0.0, 21_600),
    ],
)
def test_waiting_doubles_from_half_a_minute_to_six_hours(attempt: int, jitter: float, seconds: float) -> None:
    assert backoff_seconds(attempt, jitter) == seconds


def test_attempts_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        backoff_seconds(0, 0.0)


def test_all_attempts_together_outlast_whatsapps_own_memory() -> None:
    total = sum(backoff_seconds(attempt, 0.0) for attempt in range(1, OUTAGE_ATTEMPTS))
    assert 17 * 86_400 < total < 20 * 86_400

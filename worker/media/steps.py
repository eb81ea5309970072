"""What to do with a media job after a failed attempt. Pure.

Applies after the contract's quick retry (500 to 1000 ms) has failed. From then on the job waits in the database
between attempts until it succeeds, WhatsApp no longer has the file, or more attempts are pointless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.errors import (
    MediaCorrupt,
    MediaExpired,
    MediaRefused,
    MediaTooLarge,
    MediaUnavailable,
    StoreRefused,
    StoreUnavailable,
)

BACKOFF_FIRST_SECONDS = 30.0
BACKOFF_MAX_SECONDS = 6 * 3600.0
OUTAGE_ATTEMPTS = 80  # ten in nine hours, then one every six hours: 18 days, as long as WhatsApp keeps a file
EXPIRED_ATTEMPTS = 20  # three days: the phone may be off for a weekend
CORRUPT_ATTEMPTS = 6  # a quarter of an hour: a cache may be at fault; a broken upload stays broken
BROKEN_ATTEMPTS = 5  # the database refuses, or we have a bug; the next release may fix either

Status = Literal["expired", "too_large", "refused", "corrupt", "failed"]
# nobody: this process has no phone. busy: too many files already wait for the phone.
Answer = Literal["renewed", "refused", "unanswered", "nobody", "busy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AskPhone:
    """Ask the phone to upload the file again, then try once more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HandOver:
    """Hand the job over to the process that has the phone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryLater:
    """Try again after `seconds`."""

    seconds: float
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Abandon:
    """Give up. `status` becomes `messages.media_status`; `code` goes into the audit entry."""

    status: Status
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JobLost:
    """Another process holds the job now; write nothing."""


Step = AskPhone | HandOver | RetryLater | Abandon | JobLost


def next_step(
    error: BaseException, attempt: int, answer: Answer | None, jitter: float, before: str | None = None
) -> Step:
    """What to do after attempt number `attempt` (counted from 1) failed with `error`.

    `answer`: the phone's answer in this attempt; None: it was not asked. `jitter`: 0 to 1. `before`: the previous
    failure's code. Attempts that died with their worker count too, so a job is abandoned only if it fails twice in a
    row with the same code.
    """
    later = backoff_seconds(attempt, jitter)

    def bounded(most: int, status: Status, code: str) -> Step:
        over = attempt >= most and before == code
        return Abandon(status=status, code=code) if over else RetryLater(seconds=later, code=code)

    match error:
        case MediaTooLarge():
            return Abandon(status="too_large", code="MEDIA_TOO_LARGE")
        case MediaRefused():
            return Abandon(status="refused", code="MEDIA_REFUSED")
        case MediaExpired() if answer is None:
            return AskPhone()
        case MediaExpired() if answer == "busy":
            return HandOver()
        case MediaExpired(others_silent=True) if answer == "refused" and attempt < EXPIRED_ATTEMPTS:
            return RetryLater(seconds=later, code="MEDIA_EXPIRED")
        case MediaExpired() if answer == "refused" or attempt >= EXPIRED_ATTEMPTS:
            return Abandon(status="expired", code="MEDIA_EXPIRED")
        case MediaExpired() if answer == "nobody":
            return HandOver()
        case MediaExpired():
            return RetryLater(seconds=later, code="MEDIA_EXPIRED")
        case MediaCorrupt():
            return bounded(CORRUPT_ATTEMPTS, "corrupt", "MEDIA_CORRUPT")
        case MediaUnavailable():
            return bounded(OUTAGE_ATTEMPTS, "failed", "MEDIA_UNAVAILABLE")
        case StoreUnavailable():
            return bounded(OUTAGE_ATTEMPTS, "failed", "STORE_UNAVAILABLE")
        case StoreRefused(code="413"):  # Storage's limit, or its bucket's, is below WORKER_MAX_MEDIA_MB
            return Abandon(status="too_large", code="MEDIA_TOO_LARGE")
        case StoreRefused(code="stale_job"):
            return JobLost()
        case StoreRefused(code="object_doomed"):  # retention deletes this content; it may take a day
            return bounded(OUTAGE_ATTEMPTS, "failed", "STORE_REFUSED")
        case StoreRefused():
            return bounded(BROKEN_ATTEMPTS, "failed", "STORE_REFUSED")
        case OSError():  # a full disk, too many open files: an outage of this machine
            return bounded(OUTAGE_ATTEMPTS, "failed", "MEDIA_INTERNAL")
        case _:
            return bounded(BROKEN_ATTEMPTS, "failed", "MEDIA_INTERNAL")


def backoff_seconds(attempt: int, jitter: float) -> float:
    """Seconds to wait after attempt number `attempt`: doubles from 30 s to 6 h, plus up to a quarter of jitter.

    Raises:
        ValueError: `attempt` is below 1.
    """
    if attempt < 1:
        raise ValueError("attempts are counted from 1")
    doublings = min(attempt - 1, 16)  # 2**16 * 30 s is far above the maximum
    return min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0**doublings) * (1 + jitter / 4)

"""What becomes of a media job after an attempt: the whole policy, pure.

The contract's quick retry (500 to 1000 ms) has already been spent when these rules are asked. Beyond it, a job
waits in the database and is tried again, until WhatsApp no longer has the file or the matter is hopeless.
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
OUTAGE_ATTEMPTS = 80  # ten within nine hours, then one every six hours: 18 days, as long as WhatsApp keeps a file
EXPIRED_ATTEMPTS = 20  # the phone may be off for a weekend: three days
CORRUPT_ATTEMPTS = 3  # a cache on the way may have been at fault; the sender's lie stays one
BROKEN_ATTEMPTS = 5  # a refusal by the database or a fault of ours: perhaps mended by the next release

Status = Literal["expired", "too_large", "refused", "corrupt", "failed"]
# nobody: this process has no phone to ask; busy: it has, and as many files wait for its answer as may.
Answer = Literal["renewed", "refused", "unanswered", "nobody", "busy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AskPhone:
    """Ask for a re-upload, then try once more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassOn:
    """Leave it to the process that has the phone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Later:
    """Another attempt after `seconds`."""

    seconds: float
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Abandon:
    """No further attempt: `messages.media_status` and the code of the audit entry."""

    status: Status
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LetGo:
    """The job is no longer ours: touch nothing."""


Step = AskPhone | PassOn | Later | Abandon | LetGo


def next_step(
    error: BaseException, attempt: int, answer: Answer | None, jitter: float, before: str | None = None
) -> Step:
    """What to do after attempt number `attempt` (counted from 1) has failed with `error`.

    `answer` is what came of asking the phone within this attempt; None: it was not asked. `jitter` is 0 to 1. `before`
    is the code of the outcome before this one: attempts that died with their worker are counted too, and must not
    make the first bad outcome the last.
    """
    later = backoff_seconds(attempt, jitter)

    def bounded(most: int, status: Status, code: str) -> Step:
        over = attempt >= most and before == code
        return Abandon(status=status, code=code) if over else Later(seconds=later, code=code)

    match error:
        case MediaTooLarge():
            return Abandon(status="too_large", code="MEDIA_TOO_LARGE")
        case MediaRefused():
            return Abandon(status="refused", code="MEDIA_REFUSED")
        case MediaExpired() if answer is None:
            return AskPhone()
        case MediaExpired() if answer == "busy":
            return PassOn()
        case MediaExpired() if answer == "refused" or attempt >= EXPIRED_ATTEMPTS:
            return Abandon(status="expired", code="MEDIA_EXPIRED")
        case MediaExpired() if answer == "nobody":
            return PassOn()
        case MediaExpired():
            return Later(seconds=later, code="MEDIA_EXPIRED")
        case MediaCorrupt():
            return bounded(CORRUPT_ATTEMPTS, "corrupt", "MEDIA_CORRUPT")
        case MediaUnavailable():
            return bounded(OUTAGE_ATTEMPTS, "failed", "MEDIA_UNAVAILABLE")
        case StoreUnavailable():
            return bounded(OUTAGE_ATTEMPTS, "failed", "STORE_UNAVAILABLE")
        case StoreRefused(code="413"):  # Storage's limit, or its bucket's, is below WORKER_MAX_MEDIA_MB
            return Abandon(status="too_large", code="MEDIA_TOO_LARGE")
        case StoreRefused(code="stale_job"):
            return LetGo()
        case StoreRefused(code="object_doomed"):  # retention removes this very content; one interrupted may take a day
            return bounded(OUTAGE_ATTEMPTS, "failed", "STORE_REFUSED")
        case StoreRefused():
            return bounded(BROKEN_ATTEMPTS, "failed", "STORE_REFUSED")
        case OSError():  # a full disk, no descriptor left: an outage of this machine
            return bounded(OUTAGE_ATTEMPTS, "failed", "MEDIA_INTERNAL")
        case _:
            return bounded(BROKEN_ATTEMPTS, "failed", "MEDIA_INTERNAL")


def backoff_seconds(attempt: int, jitter: float) -> float:
    """Seconds until the attempt after number `attempt`: doubling from 30 s to 6 h, up to a quarter more by jitter.

    Raises:
        ValueError: if `attempt` is below 1.
    """
    if attempt < 1:
        raise ValueError("attempts are counted from 1")
    doublings = min(attempt - 1, 16)  # 2**16 * 30 s is far past the maximum; 2**80 would be a strange number to make
    return min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0**doublings) * (1 + jitter / 4)

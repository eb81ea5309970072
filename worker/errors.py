"""Every error of the worker, in one tree.

    WorkerError
    ├── SettingsError            a setting is missing or wrong; the text names it (exit code 2)
    ├── StoreError               Supabase
    │   ├── StoreUnavailable     no answer, or one that a retry may change; the outcome is unknown
    │   │   ├── TooSlow          the call timed out; a smaller one may succeed
    │   │   └── UnexpectedAnswer not from Supabase itself: a gateway's page, an empty body; one proves nothing
    │   │       ├── KeyRefused   401 or 403, which even a good key gets now and then
    │   │       └── TooLarge     413: a smaller body may succeed
    │   ├── StoreRefused         a final refusal (`code` is Postgres' or PostgREST's)
    │   ├── StaleFence           another worker holds the lease: this one must not write any more
    │   ├── StaleEpoch           the batch belongs to a connection that a newer one replaced
    │   └── SequenceGap          the batch before this one is missing: a broken invariant
    ├── StateError               credentials exist but cannot be read (torn, or the wrong WORKER_STATE_KEY)
    ├── InstallFailed            the npm packages could not be installed
    ├── Stuck                    the connection keeps stalling
    ├── BridgeError              the sidecar
    │   ├── SidecarGone          its process ended or broke the protocol
    │   ├── CallTimeout          it did not answer a call in time
    │   └── CallFailed           it answered a call with an error (`code`, `data`)
    └── MediaError               one file
        ├── MediaUnavailable     network or server trouble: try again later
        ├── MediaExpired         WhatsApp no longer has it: ask the phone to upload it again
        ├── MediaTooLarge        over WORKER_MAX_MEDIA_MB
        ├── MediaRefused         we do not fetch from its address, or do not store its type
        └── MediaCorrupt         a hash, the MAC, the length or the padding is wrong

Branch on the type or an attribute, never on the text. Library errors are translated at the edge, with `from`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Every exit code of `wa-worker` with its meaning, as the help prints it. Error classes set `exit_code`."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    STOPPED = 0, "stopped as asked"
    FAULT = 1, "a fault of ours; a command: it failed"
    SETTINGS = 2, "a setting or an argument is missing or wrong"
    STATE = 3, "the stored account state cannot be read"
    STORE = 4, "Supabase does not answer, or refuses for good"
    STUCK = 5, "the connection keeps stalling"
    TOO_SLOW = 6, "the end took more than ten seconds"
    INTERRUPTED = 130, "Ctrl-C during a command, or a second signal"


class WorkerError(Exception):
    """Base class of all errors that this project raises."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAULT


class SettingsError(WorkerError):
    """A setting is missing or wrong; the text names it and says what to do."""

    exit_code = ExitCode.SETTINGS


class InstallFailed(WorkerError):
    """The npm packages of an installed worker could not be fetched or written; the text says what to do."""


class StoreError(WorkerError):
    """A call to Supabase failed."""

    exit_code = ExitCode.STORE


class StoreUnavailable(StoreError):
    """No answer, or one that a retry may change. The statement may still have been committed.

    Attributes:
        sent_at: `time.monotonic()` when the call was sent, after waiting for its turn; None if not recorded.
    """

    sent_at: float | None = None


class TooSlow(StoreUnavailable):
    """The call hit our time limit, or the statement the database's (57014). A smaller one may succeed."""


class UnexpectedAnswer(StoreUnavailable):
    """An answer from a gateway, during a reload, or due to a wrong setting. Good settings get one now and then: retry.

    Attributes:
        remedy: what the operator should do if it persists; None if no setting can be the cause.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class KeyRefused(UnexpectedAnswer):
    """401 or 403. Final at start-up after a few in a row; later only after minutes of nothing else."""


class TooLarge(UnexpectedAnswer):
    """413: a gateway before the database refuses a body of this size. A smaller one may succeed."""


class StoreRefused(StoreError):
    """Supabase refused, and would refuse again.

    Attributes:
        code: Postgres' SQLSTATE or PostgREST's code, e.g. `"22P05"`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class StaleFence(StoreError):
    """Another worker holds the lease of this session."""


class StaleEpoch(StoreError):
    """The batch belongs to a connection that a newer one replaced."""


class SequenceGap(StoreError):
    """The batch before this one was never committed."""


class StateError(WorkerError):
    """The stored account state exists but is unreadable. Never treat it as absent."""

    exit_code = ExitCode.STATE


class Stuck(WorkerError):
    """The connection keeps stalling; a new socket and a new sidecar did not help. Restart the process."""

    exit_code = ExitCode.STUCK


class BridgeError(WorkerError):
    """A call to the sidecar failed."""


class SidecarGone(BridgeError):
    """The sidecar's process ended or broke the protocol."""


class CallTimeout(BridgeError):
    """The sidecar did not answer in time."""


class CallFailed(BridgeError):
    """The sidecar answered with an error.

    Attributes:
        code: the JSON-RPC error code.
        data: the error object's `data`, or None.
    """

    def __init__(self, message: str, code: int, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class MediaError(WorkerError):
    """One file could not be fetched, checked or stored."""


class MediaUnavailable(MediaError):
    """Network or server trouble; a later attempt may succeed."""


class MediaExpired(MediaError):
    """A host no longer has the file (HTTP 403, 404 or 410). `others_silent`: another host could not be asked."""

    def __init__(self, *args: object, others_silent: bool = False) -> None:
        super().__init__(*args)
        self.others_silent = others_silent


class MediaTooLarge(MediaError):
    """The file is larger than WORKER_MAX_MEDIA_MB."""


class MediaRefused(MediaError):
    """We do not accept the file's address or type."""


class MediaCorrupt(MediaError):
    """A hash, the MAC, the length or the padding of the file is wrong. `copies`: how many hosts' copies were."""

    def __init__(self, *args: object, copies: int = 1) -> None:
        super().__init__(*args)
        self.copies = copies


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the cause of a task group's exception group instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise cause(group) from None


def cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception to report. Prefers the first that is not a BridgeError, which is often only a consequence."""

    def leaves(error: BaseException) -> Iterator[BaseException]:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from leaves(inner)
        else:
            yield error

    return min(leaves(group), key=lambda error: isinstance(error, BridgeError))

"""Every error of the worker, in one tree.

    WorkerError
    ├── SettingsError            a setting is missing or wrong; the text names it (exit code 2)
    ├── StoreError               Supabase
    │   ├── StoreUnavailable     no answer, or an answer that a retry may change; the outcome is unknown
    │   │   ├── TooSlow          the time for this call ran out; a smaller one may pass
    │   │   └── UnexpectedAnswer not one of Supabase's own: a gateway's page, an empty body; one such proves nothing
    │   │       ├── KeyRefused   401 or 403, which a good key gets now and then, too
    │   │       └── TooLarge     413: a smaller body may pass
    │   ├── StoreRefused         it answered no, and would again (`code` is Postgres' or PostgREST's)
    │   ├── StaleFence           another worker holds the lease: this one may write nothing more
    │   ├── StaleEpoch           a newer connection of this worker exists: the batch belongs to an old one
    │   └── SequenceGap          a batch is missing before this one: a broken invariant
    ├── StateError               credentials are there but cannot be read (torn, or the wrong WORKER_STATE_KEY)
    ├── InstallFailed        the npm packages could not be installed
    ├── Stuck                    the connection keeps stalling
    ├── BridgeError              the sidecar
    │   ├── SidecarGone          its process ended, or broke the protocol
    │   ├── CallTimeout          a call was not answered in time
    │   └── CallFailed           it answered with an error (`code`, `data`)
    └── MediaError               one file
        ├── MediaUnavailable     network or server trouble: try again later
        ├── MediaExpired         WhatsApp no longer has it: ask the phone for a re-upload
        ├── MediaTooLarge        over WORKER_MAX_MEDIA_MB
        ├── MediaRefused         its address is not one that we fetch from, or its type may not be stored
        └── MediaCorrupt         a hash, the MAC, the length or the padding is wrong

Branch on the type or on an attribute, never on the text. Errors of libraries are translated at the edge, with `from`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Every exit code of `wa-worker` with its meaning, as the help prints it. An error class names its own."""

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
    """The base of all errors that this project raises."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAULT


class SettingsError(WorkerError):
    """A setting is missing or wrong; the text names it and says what to do."""

    exit_code = ExitCode.SETTINGS


class InstallFailed(WorkerError):
    """The npm packages of an installed worker could not be fetched or written; the text says what to do."""


class StoreError(WorkerError):
    """Supabase did not do what it was asked."""

    exit_code = ExitCode.STORE


class StoreUnavailable(StoreError):
    """No answer, or one that a retry may change. The statement may have been committed all the same.

    Attributes:
        sent_at: `time.monotonic()` when the call was sent, after its turn had come; None if nobody noted it.
    """

    sent_at: float | None = None


class TooSlow(StoreUnavailable):
    """Our own time limit for the call ran out, or the database's for the statement (57014). A smaller one may pass."""


class UnexpectedAnswer(StoreUnavailable):
    """An answer that a gateway, a reload or a wrong setting gives. A good setting gets one now and then: ask again.

    Attributes:
        remedy: what the operator should do if it never answers otherwise; None if no setting can be at fault.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class KeyRefused(UnexpectedAnswer):
    """401 or 403. Believed at the start after a second look; later only after minutes of nothing else."""


class TooLarge(UnexpectedAnswer):
    """413: what stands before the database takes no body of this size. A smaller one may pass."""


class StoreRefused(StoreError):
    """Supabase said no and would say it again.

    Attributes:
        code: Postgres' SQLSTATE or PostgREST's code, e.g. `"22P05"`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class StaleFence(StoreError):
    """Another worker holds the lease of this session."""


class StaleEpoch(StoreError):
    """The batch belongs to a connection that a newer one has replaced."""


class SequenceGap(StoreError):
    """A batch arrived whose predecessor was never committed."""


class StateError(WorkerError):
    """The stored account state is present but unreadable; it must never be taken for absent."""

    exit_code = ExitCode.STATE


class Stuck(WorkerError):
    """The connection keeps stalling: neither a new socket nor a new sidecar helped. The process must be restarted."""

    exit_code = ExitCode.STUCK


class BridgeError(WorkerError):
    """The sidecar did not do what it was asked."""


class SidecarGone(BridgeError):
    """The sidecar's process ended, or what it wrote is not the protocol."""


class CallTimeout(BridgeError):
    """The sidecar did not answer in time."""


class CallFailed(BridgeError):
    """The sidecar answered with an error.

    Attributes:
        code: the JSON-RPC error code.
        data: what the error object carried beside its message, or None.
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
    """A host no longer has the file (HTTP 403, 404 or 410). `others_silent`: another one could not be asked."""

    def __init__(self, *args: object, others_silent: bool = False) -> None:
        super().__init__(*args)
        self.others_silent = others_silent


class MediaTooLarge(MediaError):
    """The file is larger than WORKER_MAX_MEDIA_MB."""


class MediaRefused(MediaError):
    """The file's address or type is not one that we accept."""


class MediaCorrupt(MediaError):
    """A hash, the MAC, the length or the padding of the file is wrong. `copies`: of how many hosts."""

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
    """The exception to report: the first that is more than the end of a sidecar, which may only follow from it."""

    def leaves(error: BaseException) -> Iterator[BaseException]:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from leaves(inner)
        else:
            yield error

    return min(leaves(group), key=lambda error: isinstance(error, BridgeError))

"""The web app's input, as the poll returns it: requests (`runtime_flags`, `wa_requests`) and monitored groups.

Turns each flag or row into one request. The connection carries it out and reports when it is done. `handled_at` is
stored, so a restart neither repeats nor loses a request.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import anyio
from loguru import logger

from worker.errors import StoreRefused, StoreUnavailable
from worker.session.report import Report
from worker.store import Flag, MonitoredGroups, SessionRequest
from worker.store.session import SessionStore

PHONE = re.compile(r"[1-9][0-9]{6,14}")  # E.164 without the plus; no country code begins with 0
EXAMPLE = 'write {"at": …, "phone": "491511234567"}'


class RequestKind(Enum):
    """What a flag requests; the value is the flag's key. `wa_pending_flags` (schemas/flags.sql) lists them too."""

    GROUPS = "fetch_groups_requested"
    REFRESH = "wa_refresh_qr_requested"
    DISCONNECT = "wa_disconnect_requested"
    PAIRING_CODE = "wa_pairing_code_requested"
    PASSKEY_ANSWERED = "wa_passkey_answered"
    PASSKEY_COMPARED = "wa_passkey_compared"


# The names in `wa_requests`.
REQUESTS = {
    "fetch_groups": RequestKind.GROUPS,
    "refresh_qr": RequestKind.REFRESH,
    "disconnect": RequestKind.DISCONNECT,
    "pairing_code": RequestKind.PAIRING_CODE,
}
DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One unhandled flag or row of `wa_requests` (`id`). `given`: as in `Flag.given`."""

    kind: RequestKind
    flag: Flag
    id: int | None = None
    phone: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Done(Protocol):
    """Marks a request as handled. `result`: the outcome, for people."""

    def __call__(self, request: Request, result: str = DONE) -> None: ...


class Monitored:
    """The groups that were switched on at the last poll, and the set's version (None before the first poll)."""

    def __init__(self) -> None:
        self.groups: frozenset[str] = frozenset()
        self.version: int | None = None
        self.changed = anyio.Event()  # set at the next change, then replaced

    def take(self, now: MonitoredGroups) -> None:
        self.groups, self.version = now.groups, now.version
        self.changed.set()
        self.changed = anyio.Event()

    def __contains__(self, group: object) -> bool:
        return group in self.groups


def read_flag(flag: Flag) -> Request | str | None:
    """The flag's request; a sentence for people if it is malformed; None if it is not for the worker."""
    try:
        kind = RequestKind(flag.key)
    except ValueError:
        return None
    if flag.malformed:
        return f'the flag {flag.key} has no valid time; write {{"at": "2026-01-31T12:00:00Z"}}'
    if kind in (RequestKind.PASSKEY_ANSWERED, RequestKind.PASSKEY_COMPARED):
        given = _read_given(flag.given)
        if given is None:
            return f"the value of the flag {flag.key} is larger than 16 kB, or cannot be read"
        return Request(kind=kind, flag=flag, given=given)
    if kind is not RequestKind.PAIRING_CODE:
        return Request(kind=kind, flag=flag)
    phone = international(flag.phone or "")
    if phone.startswith("0"):
        return f"the phone number of the flag {flag.key} has no country code; {EXAMPLE}"
    if not PHONE.fullmatch(phone):
        return f"the flag {flag.key} has no phone number of 7 to 15 digits; {EXAMPLE}"
    return Request(kind=kind, flag=flag, phone=phone)


def _read_given(text: str | None) -> Mapping[str, Any] | None:
    try:
        given = json.loads(text or "")
    except (ValueError, RecursionError):  # JSON nested too deeply for Python
        return None
    return given if isinstance(given, dict) else None


def read_request(row: SessionRequest) -> Request | str:
    """The request of a row of `wa_requests`; a sentence for people if it is invalid."""
    kind = REQUESTS.get(row.name)
    if kind is None:
        return f"there is no request {row.name[:40]}; there are {', '.join(REQUESTS)}"
    flag = Flag(key=kind.value, at=None, at_text=None, age_seconds=None)
    if kind is not RequestKind.PAIRING_CODE:
        return Request(kind=kind, flag=flag, id=row.id)
    given = row.args.get("phone")
    phone = international(given if isinstance(given, str) else "")
    if not PHONE.fullmatch(phone):
        return 'the number needs its country code and 7 to 15 digits in all, like {"phone": "491511234567"}'
    return Request(kind=kind, flag=flag, id=row.id, phone=phone)


def international(written: str) -> str:
    """The bare digits of a phone number as people write it: `+49 (0)151 1234567`, `0049…` → `491511234567`.

    Drops the zero in brackets, which is dialled only without the country code. Guesses nothing else: a number without
    a country code keeps its leading 0.
    """
    digits = re.sub(r"[\s()/.-]", "", re.sub(r"^(\s*(?:\+|00).*?)\(0\)", r"\1", written))
    return re.sub(r"^(?:\+|00)", "", digits)


class FlagWatch:
    """Passes each request to `send` once, and marks its flag or row as handled when it is done."""

    def __init__(
        self,
        store: SessionStore,
        report: Report,
        send: Callable[[Request], None],
        again_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._report = report
        self._send = send
        self._again_seconds = again_seconds
        self._clock = clock
        self._taken: dict[str, str | None] = {}
        self._done: list[Flag | tuple[int, str]] = []  # to be marked: flags, and request ids with their results
        self._marked: dict[str, tuple[str | None, float]] = {}
        self._requested: dict[int, float] = {}  # request id → when it was marked as handled; inf: not yet
        self._woken = anyio.Event()

    def take(self, flags: Sequence[Flag], asked_at: float) -> None:
        """Send the new ones of these pending flags. `asked_at`: when the poll that returned them was sent."""
        for flag in flags:
            if flag.key in self._taken and self._taken[flag.key] == flag.at_text:
                continue
            marked, at = self._marked.get(flag.key, (None, float("-inf")))
            if marked == flag.at_text and at >= asked_at:
                continue  # the answer is older than the mark
            match read_flag(flag):
                case Request() as request:
                    self._taken[flag.key] = flag.at_text
                    self._send(request)
                case str(fault):
                    self._taken[flag.key] = flag.at_text
                    logger.warning("{}", fault)
                    self._report.error("FLAG_MALFORMED", fault, key=flag.key)
                    self._mark(flag)

    def take_requests(self, rows: Sequence[SessionRequest], asked_at: float) -> None:
        """As `take`, for rows of `wa_requests`, in order."""
        self._requested = {id_: marked for id_, marked in self._requested.items() if marked >= asked_at}
        for row in rows:
            if row.id in self._requested:
                continue
            self._requested[row.id] = float("inf")
            match read_request(row):
                case Request() as request:
                    self._send(request)
                case str(fault):
                    logger.warning("request turned down: {}", fault)
                    self._mark((row.id, fault))

    def done(self, request: Request, result: str = DONE) -> None:
        """Mark a request as handled, whether carried out or turned down. `result`: the outcome, for people."""
        if request.id is not None:
            self._mark((request.id, result))
        else:
            self._mark(request.flag)

    async def run(self) -> None:
        """Write the marks until cancelled; retries what the database does not accept."""
        while True:
            await self._woken.wait()
            self._woken = anyio.Event()
            while self._done:
                try:
                    await self._store_first()
                except (StoreUnavailable, StoreRefused) as error:
                    logger.warning("could not mark a flag as handled ({}); trying again", error)
                    await anyio.sleep(self._again_seconds)

    def _mark(self, done: Flag | tuple[int, str]) -> None:
        self._done.append(done)
        self._woken.set()

    async def _store_first(self) -> None:
        flag = self._done[0]
        if isinstance(flag, tuple):
            await self._store.request_handled(*flag)
            self._done.pop(0)
            self._requested[flag[0]] = self._clock()
            return
        await self._store.flag_handled(flag)
        self._done.pop(0)
        self._marked[flag.key] = (flag.at_text, self._clock())
        if self._taken.get(flag.key) == flag.at_text:
            del self._taken[flag.key]

"""Polls the web app's requests (`runtime_flags`) and its choice of groups every WORKER_POLL_MS.

Turns each flag into one request; the connection carries it out and says when it is done. `handled_at` is stored, so a
restart neither repeats nor misses a request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from loguru import logger

from worker.errors import StoreRefused, StoreUnavailable
from worker.session.report import Report
from worker.store import Flag
from worker.store.retry import repeat
from worker.store.session import SessionStore

PHONE = re.compile(r"[1-9][0-9]{6,14}")  # E.164 without the plus; no country code begins with 0
EXAMPLE = 'write {"at": …, "phone": "491511234567"}'


class Ask(Enum):
    """What a flag asks for; the value is the flag's key."""

    GROUPS = "fetch_groups_requested"
    REFRESH = "wa_refresh_qr_requested"
    DISCONNECT = "wa_disconnect_requested"
    PAIRING_CODE = "wa_pairing_code_requested"
    PASSKEY_ANSWERED = "wa_passkey_answered"
    PASSKEY_COMPARED = "wa_passkey_compared"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One flag that nobody has handled yet."""

    ask: Ask
    flag: Flag
    phone: str | None = None


class Monitored:
    """The groups that were switched on at the last poll."""

    def __init__(self) -> None:
        self.groups: frozenset[str] = frozenset()

    def __contains__(self, group: object) -> bool:
        return group in self.groups


def read_flag(flag: Flag) -> Request | str | None:
    """The request that a flag makes; a sentence if the flag is malformed; None if it is not for the worker."""
    try:
        ask = Ask(flag.key)
    except ValueError:
        return None
    if flag.malformed:
        return f'the flag {flag.key} has no valid time; write {{"at": "2026-01-31T12:00:00Z"}}'
    if ask is not Ask.PAIRING_CODE:
        return Request(ask=ask, flag=flag)
    phone = international(flag.phone or "")
    if phone.startswith("0"):
        return f"the phone number of the flag {flag.key} has no country code; {EXAMPLE}"
    if not PHONE.fullmatch(phone):
        return f"the flag {flag.key} has no phone number of 7 to 15 digits; {EXAMPLE}"
    return Request(ask=ask, flag=flag, phone=phone)


def international(written: str) -> str:
    """A number without what people write around its digits: `+49 (0)151 1234567`, `0049…` → `491511234567`.

    The zero in brackets is only dialled without the country code. Nothing else is guessed: a number without a country
    code stays one, and begins with 0 as it was written.
    """
    digits = re.sub(r"[\s()/.-]", "", re.sub(r"^(\s*(?:\+|00).*?)\(0\)", r"\1", written))
    return re.sub(r"^(?:\+|00)", "", digits)


class FlagWatch:
    """Polls the flags, hands each request to `send` once, and refreshes the monitored groups."""

    def __init__(
        self,
        store: SessionStore,
        monitored: Monitored,
        report: Report,
        send: Callable[[Request], None],
        poll_seconds: float,
    ) -> None:
        self._store = store
        self._monitored = monitored
        self._report = report
        self._send = send
        self._poll_seconds = poll_seconds
        self._taken: dict[str, str | None] = {}
        self._done: list[Flag] = []
        self._away = False

    async def run(self) -> None:
        """Poll until cancelled. Neither an outage of the database nor a malformed flag ends it."""
        await repeat(self._poll_seconds, self._poll_and_recover, self._failed)

    async def _poll_and_recover(self) -> None:
        await self.poll()
        self._away = False

    def _failed(self, error: StoreUnavailable | StoreRefused) -> None:
        if isinstance(error, StoreRefused):
            logger.error("the flags cannot be read (code {})", error.code)
        elif not self._away:
            logger.warning("the database does not answer; flags are read again when it does")
            self._away = True

    async def poll(self) -> None:
        """Poll once.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        await self._mark_done()
        self._monitored.groups = await self._store.monitored_groups()
        for flag in await self._store.pending_flags():
            if flag.key in self._taken and self._taken[flag.key] == flag.at_text:
                continue
            match read_flag(flag):
                case Request() as request:
                    self._taken[flag.key] = flag.at_text
                    self._send(request)
                case str(fault):
                    self._taken[flag.key] = flag.at_text
                    logger.warning("{}", fault)
                    self._report.error("FLAG_MALFORMED", fault, key=flag.key)
                    self._done.append(flag)
        await self._mark_done()

    def done(self, request: Request) -> None:
        """Mark a request as handled, whether carried out or turned down. Stored at the next poll."""
        self._done.append(request.flag)

    async def _mark_done(self) -> None:
        while self._done:
            flag = self._done[0]
            await self._store.flag_handled(flag)
            self._done.pop(0)
            if self._taken.get(flag.key) == flag.at_text:
                del self._taken[flag.key]

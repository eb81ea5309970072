"""Authentication: the token, one-time links, and the logins that they open. In memory only.

A restart ends every login. Nothing here is logged; only hashes of secrets are kept.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

LOGIN_SECONDS = 7 * 86_400.0
IDLE_SECONDS = 12 * 3600.0
LOGINS_MAX = 500
LINK_SECONDS = 3600.0
LINKS_MAX = 5
ATTEMPTS = 5  # wrong guesses from one address …
ATTEMPT_SECONDS = 60.0  # … in this time; further ones are refused until it is over
ADDRESSES_MAX = 10_000
NAME_MAX = 60

Clock = Callable[[], float]


@dataclass
class Login:
    """One logged-in browser. `csrf`: the token of its forms."""

    who: str
    csrf: str
    since: float
    seen: float


class Attempts:
    """Counts wrong guesses per address."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}

    def wait_seconds(self, address: str) -> float:
        """How long this address must wait before the next guess; 0: it may try now."""
        recent = self._recent(address)
        return recent[0] + ATTEMPT_SECONDS - self._clock() if len(recent) >= ATTEMPTS else 0.0

    def note_wrong(self, address: str) -> None:
        if len(self._wrong) >= ADDRESSES_MAX:  # drop the oldest entry
            self._wrong.pop(next(iter(self._wrong)))
        self._wrong[address] = [*self._recent(address), self._clock()]

    def _recent(self, address: str) -> list[float]:
        now = self._clock()
        return [at for at in self._wrong.get(address, ()) if now - at < ATTEMPT_SECONDS]


class Logins:
    """All logins, and the ways to open one."""

    def __init__(self, token: str | None, clock: Clock = time.monotonic) -> None:
        self._token = _digest(token) if token else None
        self._clock = clock
        self._logins: dict[bytes, Login] = {}
        self._links: dict[bytes, float] = {}
        self._csrf_key = secrets.token_bytes(32)
        self.attempts = Attempts(clock)

    @property
    def has_token(self) -> bool:
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Whether this is the token, compared in constant time."""
        return self._token is not None and hmac.compare_digest(self._token, _digest(given))

    def make_link(self, code: str | None = None) -> str:
        """A code that opens one login, once. Only a few are open at a time; the oldest expires."""
        made = code or secrets.token_urlsafe(32)
        while len(self._links) >= LINKS_MAX:
            self._links.pop(next(iter(self._links)))
        self._links[_digest(made)] = self._clock() + LINK_SECONDS
        return made

    def use_link(self, code: str) -> bool:
        """Use a code up. Returns whether it was valid."""
        until = self._links.pop(_digest(code), None)
        return until is not None and self._clock() < until

    def open(self, who: str) -> str:
        """Open a login. Returns the value of its cookie."""
        now = self._clock()
        while len(self._logins) >= LOGINS_MAX:
            self._logins.pop(min(self._logins, key=lambda key: self._logins[key].seen))
        cookie = secrets.token_urlsafe(32)
        self._logins[_digest(cookie)] = Login(who=who, csrf=secrets.token_urlsafe(32), since=now, seen=now)
        return cookie

    def find(self, cookie: str | None) -> Login | None:
        """The login of this cookie; None if it has ended."""
        key = _digest(cookie or "")
        login = self._logins.get(key)
        now = self._clock()
        if login is None or now - login.since > LOGIN_SECONDS or now - login.seen > IDLE_SECONDS:
            self._logins.pop(key, None)
            return None
        login.seen = now
        return login

    def close(self, cookie: str | None) -> None:
        self._logins.pop(_digest(cookie or ""), None)

    def of_proxy(self, who: str) -> Login:
        """The login of a request with the token itself, sent by a proxy that has authenticated the user."""
        csrf = hmac.new(self._csrf_key, who.encode(), hashlib.sha256).hexdigest()
        return Login(who=who, csrf=csrf, since=0.0, seen=0.0)


def clean_who(name: str) -> str:
    """A person's own name for the audit log, as one printable line."""
    return "".join(char for char in name if char.isprintable()).strip()[:NAME_MAX]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

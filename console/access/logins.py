"""Proofs of who looks: the token, one-time links, and the logins that they open. In memory only.

A restart ends every login. Nothing here is ever logged; only hashes of secrets are kept.
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
ATTEMPTS = 5  # wrong ones from one address …
ATTEMPT_SECONDS = 60.0  # … in this time; then none is judged until it is over
ADDRESSES_MAX = 10_000
NAME_MAX = 60

Clock = Callable[[], float]


@dataclass
class Login:
    """One browser that has proved itself. `csrf` is what its forms carry."""

    who: str
    csrf: str
    since: float
    seen: float


class Attempts:
    """Counts wrong guesses for each address."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}

    def wait_seconds(self, address: str) -> float:
        """How long this address has to wait; 0: it may try."""
        recent = self._recent(address)
        return recent[0] + ATTEMPT_SECONDS - self._clock() if len(recent) >= ATTEMPTS else 0.0

    def note_wrong(self, address: str) -> None:
        if len(self._wrong) >= ADDRESSES_MAX:  # the oldest entry goes first
            self._wrong.pop(next(iter(self._wrong)))
        self._wrong[address] = [*self._recent(address), self._clock()]

    def _recent(self, address: str) -> list[float]:
        now = self._clock()
        return [at for at in self._wrong.get(address, ()) if now - at < ATTEMPT_SECONDS]


class Logins:
    """Every login, and what opens one."""

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
        """Whether this is the token; takes the same time whatever is given."""
        return self._token is not None and hmac.compare_digest(self._token, _digest(given))

    def make_link(self, code: str | None = None) -> str:
        """A code that opens one login, once. At most a few are open: the oldest ends."""
        made = code or secrets.token_urlsafe(32)
        while len(self._links) >= LINKS_MAX:
            self._links.pop(next(iter(self._links)))
        self._links[_digest(made)] = self._clock() + LINK_SECONDS
        return made

    def use_link(self, code: str) -> bool:
        """Whether the code was open; it no longer is."""
        until = self._links.pop(_digest(code), None)
        return until is not None and self._clock() < until

    def open(self, who: str) -> str:
        """A new login; what its cookie holds."""
        now = self._clock()
        while len(self._logins) >= LOGINS_MAX:
            self._logins.pop(min(self._logins, key=lambda key: self._logins[key].seen))
        cookie = secrets.token_urlsafe(32)
        self._logins[_digest(cookie)] = Login(who=who, csrf=secrets.token_urlsafe(32), since=now, seen=now)
        return cookie

    def find(self, cookie: str | None) -> Login | None:
        """The login of this cookie, if it has not ended."""
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
        """The login of a request that carries the token itself, as a proxy sends it for somebody it knows."""
        csrf = hmac.new(self._csrf_key, who.encode(), hashlib.sha256).hexdigest()
        return Login(who=who, csrf=csrf, since=0.0, seen=0.0)


def clean_who(name: str) -> str:
    """A name as a person gives it for the audit log: one printable line."""
    return "".join(char for char in name if char.isprintable()).strip()[:NAME_MAX]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

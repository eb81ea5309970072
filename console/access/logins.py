"""Authentication: the token, one-time links, and the logins that they open. In memory only.

A restart ends every login. Nothing here is logged; only hashes of secrets are kept.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

LOGIN_SECONDS = 7 * 86_400.0
IDLE_SECONDS = 12 * 3600.0
LOGINS_MAX = 500
LINK_SECONDS = 3600.0
LINK_EVERY_SECONDS = 60.0  # strangers can ask for links, too: the terminal stays readable, and the owner's link valid
LINKS_MAX = 100  # more than anybody can ask for before they expire
ATTEMPTS = 5  # wrong guesses from one source …
ATTEMPT_SECONDS = 60.0  # … in this time; further ones are refused until it is over
SOURCES_MAX = 10_000
NETWORK_BITS = 64  # of an IPv6 address: whoever has one address has the others of its network
NAME_MAX = 60

Clock = Callable[[], float]


@dataclass
class Login:
    """One logged-in browser. `csrf`: the token of its forms. `proxied`: a proxy vouches for it with each request."""

    who: str
    csrf: str
    since: float
    seen: float
    proxied: bool = False


class Attempts:
    """Counts wrong guesses per source: an address, or a browser that has logged in before."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}

    def wait_seconds(self, source: str) -> float:
        """How long this source must wait before the next guess; 0: it may try now."""
        recent = self._recent(source)
        return recent[0] + ATTEMPT_SECONDS - self._clock() if len(recent) >= ATTEMPTS else 0.0

    def note_wrong(self, source: str) -> None:
        recent = [*self._recent(source), self._clock()]
        self._wrong.pop(source, None)  # the newest is the last
        while len(self._wrong) >= SOURCES_MAX:
            self._wrong.pop(next(iter(self._wrong)))
        self._wrong[source] = recent

    def _recent(self, source: str) -> list[float]:
        now = self._clock()
        return [at for at in self._wrong.get(source, ()) if now - at < ATTEMPT_SECONDS]


class Logins:
    """All logins, and the ways to open one."""

    def __init__(self, token: str | None, clock: Clock = time.monotonic) -> None:
        self._token = _digest(token) if token else None
        self._clock = clock
        self._logins: dict[bytes, Login] = {}
        self._links: dict[bytes, float] = {}
        self._csrf_key = secrets.token_bytes(32)
        self._browser_key = secrets.token_bytes(32)
        self.attempts = Attempts(clock)

    @property
    def has_token(self) -> bool:
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Whether this is the token, compared in constant time."""
        return self._token is not None and hmac.compare_digest(self._token, _digest(given))

    def make_link(self, code: str | None = None) -> str:
        """A code that opens one login, once."""
        made = code or secrets.token_urlsafe(32)
        while len(self._links) >= LINKS_MAX:
            self._links.pop(next(iter(self._links)))
        self._links[_digest(made)] = self._clock() + LINK_SECONDS
        return made

    @property
    def has_fresh_link(self) -> bool:
        """Whether the newest link is unused and was made only just now: a further one would be no better."""
        newest = next(reversed(self._links.values()), 0.0)
        return newest - LINK_SECONDS + LINK_EVERY_SECONDS > self._clock()

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

    def make_browser_mark(self) -> str:
        """A cookie for a browser that has logged in.

        Its attempts are counted alone, so that strangers at its address cannot keep it out by wrong guesses.
        """
        name = secrets.token_urlsafe(16)
        return f"{name}.{_sign(self._browser_key, name)}"

    def browser_of(self, mark: str | None) -> str | None:
        """The name in a mark that we made."""
        name, _, signature = (mark or "").partition(".")
        expected = _sign(self._browser_key, name)
        return name if hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")) else None

    def of_proxy(self, who: str) -> Login:
        """The login of a request with the token itself, sent by a proxy that has authenticated the user."""
        return Login(who=who, csrf=_sign(self._csrf_key, who), since=0.0, seen=0.0, proxied=True)


def clean_who(name: str) -> str:
    """A person's own name for the audit log, as one printable line."""
    return "".join(char for char in name if char.isprintable()).strip()[:NAME_MAX]


def source_of(address: str) -> str:
    """Whose guesses are counted together: an IPv4 address, or a whole IPv6 network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, NETWORK_BITS), strict=False))


def _sign(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

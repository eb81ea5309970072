"""Guards every page: checks a request's origin, sets security headers, limits the size of forms.

`Host` must be an IP address, `localhost`, or the name in WORKER_CONSOLE_ORIGIN. A name that an attacker points at this
machine (DNS rebinding) is none of these. Forms must come from our own pages (`Origin`). Other sites, and other ports of
this host, may link to our pages, but not load them as a part of theirs (`Sec-Fetch-Site`).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from console.context import Console

FORM_BYTES_MAX = 16_384
SAFE_METHODS = frozenset({"GET", "HEAD"})
PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
ALLOW = {405: {"allow": "GET, HEAD, POST"}}
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, browsers send the Origin of a form as `null`
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Guard:
    """The console as an ASGI application: `app` behind its guard. `origin`: WORKER_CONSOLE_ORIGIN."""

    def __init__(self, app: ASGIApp, console: Console, origin: str | None = None) -> None:
        self.console = console
        self._app = app
        self._origin = origin
        self._name = (urlsplit(origin).netloc if origin else "").lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refusal = self._refuse(scope["method"], headers)
        done = anyio.CancelScope()

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    given.setdefault(name, value)
            await send(message)
            if scope["method"] == "HEAD":  # nobody will read the body, which may be a whole archive or never end
                await send({"type": "http.response.body"})
                done.cancel()
                await anyio.lowlevel.checkpoint()

        with done:
            app = PlainTextResponse(refusal[1], refusal[0], ALLOW.get(refusal[0])) if refusal else self._app
            await app(scope, receive, send_guarded)

    def _refuse(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Status and text of a refusal; None if the request is allowed."""
        host = (headers.get("host") or "").lower()
        if not is_unnamed(host) and (not self._name or host != self._name):
            return 421, "This name is not the console's: open it by its address, or set WORKER_CONSOLE_ORIGIN.\n"
        if method in SAFE_METHODS:
            return (403, "Another page asked for this.\n") if is_embedded(headers) else None
        if method != "POST":
            return 405, "Only GET, HEAD and POST.\n"
        if not self._is_ours(headers.get("origin"), host):
            return 403, "This form was sent by another page. Behind a proxy, set WORKER_CONSOLE_ORIGIN.\n"
        size = headers.get("content-length", "")
        if "transfer-encoding" in headers or not (size.isascii() and size.isdigit()):  # chunks could go on for ever
            return 411, "A form must say how long it is (Content-Length).\n"
        if int(size) > FORM_BYTES_MAX:
            return 413, f"The form is larger than {FORM_BYTES_MAX:,} bytes. Go back and send less.\n"
        return None

    def _is_ours(self, origin: str | None, host: str) -> bool:
        ours = {f"http://{host}", f"https://{host}", (self._origin or "").lower()}
        return bool(origin) and str(origin).lower() in ours


def is_embedded(headers: Headers) -> bool:
    """Whether a page of another site, or of another port of this host, asks for a part of itself.

    Browsers send these headers to `https` and loopback addresses. Cookies alone do not tell two ports apart.
    """
    elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return elsewhere and not opened


def is_unnamed(host: str) -> bool:
    """Whether a Host header is an IP address or `localhost`, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False

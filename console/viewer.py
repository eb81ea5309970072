"""The viewer of a page: login, language, theme, and rendering."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

import anyio
from loguru import logger
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from console.access.logins import Login, Logins, clean_who, source_of
from console.templates import ENVIRONMENT
from console.texts import LANGUAGES, Texts, choose, texts

THEMES = ("auto", "light", "dark")
TOKEN_FIELD = Markup('<input type="hidden" name="csrf" value="{}">')
FIELDS_MAX = 50
FORM_SECONDS = 10.0  # for the whole of a form, of 16 KB at most
WHO_HEADER = "x-forwarded-user"
PREFERENCE_SECONDS = 365 * 86_400


class Forbidden(Exception):
    """A form without its token, or an action in read-only mode; the text is a key of the catalogue."""


class LoginNeeded(Exception):
    """Nobody has logged in on this browser."""


@dataclass(frozen=True, kw_only=True)
class ConsoleOptions:
    """How this console is set up."""

    read_only: bool
    secure: bool  # behind TLS
    cookie: str  # its name; one host may have a console on each of several ports

    @property
    def browser_cookie(self) -> str:
        """The name of the cookie that tells a browser which has logged in from strangers."""
        return f"{self.cookie}_known"


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """The person behind a request."""

    login: Login | None
    t: Texts
    theme: str
    options: ConsoleOptions

    @property
    def who(self) -> str:
        return self.login.who if self.login else ""

    @property
    def is_proxied(self) -> bool:
        return self.login is not None and self.login.proxied

    def page(self, template: str, values: Mapping[str, Any], status: int = 200) -> HTMLResponse:
        return HTMLResponse(self.render(template, values), status)

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        shared = {
            "t": self.t,
            "viewer": self,
            "token": TOKEN_FIELD.format(self.login.csrf if self.login else ""),
            "read_only": self.options.read_only,
            "languages": LANGUAGES,
            "themes": THEMES,
            "town": None,
            "present_town": None,
            "refusal": "",
        }
        return ENVIRONMENT.get_template(template).render(shared | dict(values))


def find_viewer(request: Request, logins: Logins, options: ConsoleOptions) -> Viewer:
    """The viewer identified by the cookie or the proxy's header; without either, one without a login."""
    language = choose(request.cookies.get("language"), request.headers.get("accept-language", ""))
    theme = request.cookies.get("theme", "")
    return Viewer(
        login=_login(request, logins, options),
        t=texts(language),
        theme=theme if theme in THEMES else THEMES[0],
        options=options,
    )


def _login(request: Request, logins: Logins, options: ConsoleOptions) -> Login | None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return logins.find(request.cookies.get(options.cookie))
    address = address_of(request)
    source = f"header {source_of(address)}"  # not the form's: a wrong token there must not shut the proxy's users out
    if logins.attempts.wait_seconds(source) > 0:
        return None
    if not logins.is_token(given.strip()):
        logins.attempts.note_wrong(source)
        return None
    names = request.headers.getlist(WHO_HEADER)
    if len(names) > 1:  # the proxy has added its own to the visitor's, who may have invented it
        logger.warning("console: {} comes several times from {}; the proxy must replace it", WHO_HEADER, address)
        return None
    return logins.of_proxy(_name(names) or f"token, {address}")


def _name(headers: list[str]) -> str:
    """The name in a proxy's header. Proxies send it as UTF-8, which servers read as Latin-1."""
    return clean_who("".join(headers).encode("latin-1").decode("utf-8", "replace"))


def address_of(request: Request) -> str:
    """The address that a request comes from; behind a proxy, the proxy's."""
    return request.client.host if request.client else "?"


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, whose length the guard has limited. Without NUL, which the database cannot store.

    Raises:
        HTTPException: it does not come, or has too many fields.
    """
    try:
        with anyio.fail_after(FORM_SECONDS):
            body = await request.body()
        fields = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except TimeoutError:
        raise HTTPException(408) from None
    except (ClientDisconnect, ValueError):
        raise HTTPException(400) from None
    return {name: value.replace("\0", "") for name, value in fields}


async def read_own_form(request: Request, viewer: Viewer) -> dict[str, str]:
    """The fields of a form that our own page created for this login.

    Raises:
        LoginNeeded: nobody has logged in.
        Forbidden: the form lacks the login's token.
    """
    if viewer.login is None:
        raise LoginNeeded
    form = await read_form(request)
    if not hmac.compare_digest(form.pop("csrf", "").encode(), viewer.login.csrf.encode()):
        raise Forbidden("error.csrf")
    return form


async def read_action(request: Request, viewer: Viewer) -> dict[str, str]:
    """The form of an action that this viewer may take.

    Raises:
        LoginNeeded, Forbidden: as `read_own_form`; Forbidden also in read-only mode.
    """
    form = await read_own_form(request, viewer)
    if viewer.options.read_only:
        raise Forbidden("error.read_only")
    return form


def number(text: str | None) -> int | None:
    """A parameter as a whole number of at most 18 digits; None if it is not one."""
    return int(text) if text and text.removeprefix("-").isdigit() and len(text) < 19 and text.isascii() else None


def go_to(path: str, **query: str) -> Response:
    """Redirect to a page after a form."""
    return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303)


def is_local_path(path: str) -> bool:
    """Whether a redirect to `path` stays on this console."""
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and "\\" not in path

"""The login page: with the token, or with a link printed in the terminal."""

from __future__ import annotations

import math

from loguru import logger
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from console.access.logins import LOGIN_SECONDS, clean_who, source_of
from console.context import console_of, viewer_of
from console.viewer import ConsoleOptions, address_of, go_to, read_form, read_own_form

BROWSER_SECONDS = 365 * 86_400


async def form(request: Request) -> Response:
    """The login form. Redirects viewers who are logged in."""
    viewer = viewer_of(request)
    if viewer.login is not None:
        return go_to("/")
    return _form(request, "")


async def with_token(request: Request) -> Response:
    console, address = console_of(request), address_of(request)
    given = await read_form(request)
    browser = console.logins.browser_of(request.cookies.get(console.options.browser_cookie))
    source = f"browser {browser}" if browser else f"form {source_of(address)}"
    if (wait := console.logins.attempts.wait_seconds(source)) > 0:
        return _form(request, "login.limited", 429, wait)
    if not console.logins.is_token(given.get("token", "")):
        console.logins.attempts.note_wrong(source)
        logger.warning("console: a wrong token from {}", address)
        return _form(request, "login.wrong", 403)
    return _open(request, clean_who(given.get("who", "")) or f"token, {address}")


async def with_link(request: Request) -> Response:
    console = console_of(request)
    if console.logins.use_link(request.query_params.get("code", "")):
        return _open(request, f"terminal link, {address_of(request)}")
    if viewer_of(request).login is not None:  # opened again in the same browser
        return go_to("/")
    return _form(request, "login.used", 403)


async def ask_for_link(request: Request) -> Response:
    """Print a new link in the terminal, where only its owner sees it, unless one has just been printed."""
    console = console_of(request)
    if not console.logins.has_fresh_link:
        console.say(f"Open the console, once: {console.link()}")
    return _form(request, "login.printed")


async def log_out(request: Request) -> Response:
    console = console_of(request)
    viewer = viewer_of(request)
    await read_own_form(request, viewer)
    console.logins.close(request.cookies.get(console.options.cookie))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(console.options.cookie, secure=console.options.secure, httponly=True, samesite="strict")
    return answer


def _open(request: Request, who: str) -> Response:
    console = console_of(request)
    console.logins.close(request.cookies.get(console.options.cookie))
    answer = RedirectResponse("/", 303)
    set_cookie(answer, console.options, console.logins.open(who))
    mark, secure = console.logins.make_browser_mark(), console.options.secure
    answer.set_cookie(
        console.options.browser_cookie, mark, max_age=BROWSER_SECONDS, secure=secure, samesite="strict", httponly=True
    )
    logger.info("console: {} logged in from {}", who, address_of(request))
    return answer


def set_cookie(answer: Response, options: ConsoleOptions, value: str) -> None:
    """Set the cookie of a login."""
    answer.set_cookie(
        options.cookie,
        value,
        max_age=int(LOGIN_SECONDS),
        path="/",
        secure=options.secure,
        httponly=True,
        samesite="strict",
    )


def _form(request: Request, key: str, status: int = 200, wait: float = 0.0) -> Response:
    console = console_of(request)
    seconds = math.ceil(wait)
    answer = viewer_of(request).page(
        "login.html",
        {"key": key, "seconds": seconds, "has_token": console.logins.has_token, "session": None},
        status,
    )
    if wait > 0:
        answer.headers["retry-after"] = str(seconds)
    return answer

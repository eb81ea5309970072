"""Error pages: log in, not found, not allowed, database away, internal error. Each says the one thing to do.

The texts are in the catalogue: `error.NAME.title` and `error.NAME.do`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loguru import logger
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from console.context import TownGone, console_of, viewer_of
from console.database import situation_of
from console.rules.situations import Situation
from console.viewer import Forbidden, LoginNeeded, go_to
from worker.errors import StoreError, StoreUnavailable
from worker.settings import is_session_name

WORDS = {400: "error.form", 404: "error.not_found", 405: "error.not_found", 408: "error.form"}


def login_needed(request: Request, fault: Exception) -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse("Log in first.\n", 401)
    if request.method != "GET":
        return _page(request, "error.login", 401)
    if request.headers.get("sec-fetch-site") != "cross-site":
        return RedirectResponse("/login", 303)
    # Somebody followed a link on another site, and the browser has left the strict cookie out. It comes along when our
    # own page asks again.
    answer = viewer_of(request).page("opening.html", _nowhere())
    answer.headers["refresh"] = "0"
    return answer


def forbidden(request: Request, fault: Exception) -> Response:
    return _page(request, str(fault), 403)


def not_found(request: Request, fault: Exception) -> Response:
    """An HTTP error, in the words that its detail names, if it names any."""
    status, detail = (fault.status_code, fault.detail) if isinstance(fault, HTTPException) else (404, "")
    known = f"{detail}.title" in viewer_of(request).t.keys
    return _page(request, detail if known else WORDS.get(status, "error.busy"), status)


def town_gone(request: Request, fault: Exception) -> Response:
    """Lead from the pages of a town that has ended, which a browser's history still has, to the console's own."""
    if "text/html" in request.headers.get("accept", ""):
        return go_to(f"/s/{console_of(request).session}/link", did="town_over")
    return PlainTextResponse("This town is gone.\n", 404)


def store_fault(request: Request, fault: Exception) -> Response:
    """A page that waits for the database: its script reloads it when the database answers again."""
    logger.warning("the console could not read a page: {}", fault)
    if isinstance(fault, StoreUnavailable):
        situation = situation_of(fault)
        return _page(request, f"error.{situation.name}", 503, situation)
    return _page(request, "error.refused", 502)


def own_fault(request: Request, fault: Exception) -> Response:
    """An internal error; uvicorn logs it."""
    return _page(request, "error.fault", 500)


def _page(request: Request, key: str, status: int, away: Situation | None = None) -> Response:
    viewer = viewer_of(request)
    values: dict[str, Any] = {"key": key, "away": away is not None}
    if viewer.login is None:
        return viewer.page("fault.html", values | _nowhere(), status)
    console = console_of(request)
    session = str(request.path_params.get("session", console.session))
    if not is_session_name(session):
        return viewer.page("fault.html", values | _nowhere(), status)
    frame = _nowhere() | {"session": session, "base": f"/s/{session}", "situation": away}
    frame |= {"home": f"/s/{console.session}", "town": console.towns.of(session)}
    return viewer.page("fault.html", values | frame, status)


def _nowhere() -> dict[str, Any]:
    return {"session": None, "base": "", "situation": None, "did": "", "section": ""}


HANDLERS: Mapping[Any, Any] = {
    LoginNeeded: login_needed,
    Forbidden: forbidden,
    TownGone: town_gone,
    HTTPException: not_found,
    StoreError: store_fault,
    Exception: own_fault,
}

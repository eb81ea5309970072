"""The context of every page: the console, the viewer, and the session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.abc
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from console.access.logins import Logins
from console.database import Database
from console.live import LiveFeed
from console.rules.situations import Situation, judge
from console.town import Town, Towns, is_town_name
from console.viewer import ConsoleOptions, LoginNeeded, Viewer, find_viewer, read_action
from worker.settings import is_session_name

FEEDS_MAX = 200


@dataclass(kw_only=True)
class Console:
    """One console process. `say` prints a line at its terminal."""

    database: Database
    logins: Logins
    options: ConsoleOptions
    session: str  # WORKER_SESSION: what the start page opens
    tasks: anyio.abc.TaskGroup
    say: Callable[[str], None]
    towns: Towns
    address: str = ""
    folder: Path | None = None  # of the embedded database, if it is used
    feeds: dict[str, LiveFeed] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)  # sessions seen in the database

    def database_of(self, session: str) -> Database:
        """The session's database: a demo town has its own."""
        town = self.towns.of(session)
        return town.database if town else self.database

    def live(self, session: str) -> LiveFeed:
        """The shared reader of a session's changes."""
        if session not in self.feeds:
            for name in [name for name in self.feeds if self.towns.is_gone(name)]:
                del self.feeds[name]
            if len(self.feeds) >= FEEDS_MAX:
                self.feeds = {name: feed for name, feed in self.feeds.items() if not feed.is_idle}
            if len(self.feeds) >= FEEDS_MAX:
                raise HTTPException(503)
            town = self.towns.of(session)
            self.feeds[session] = LiveFeed(
                self.database_of(session), session, self.tasks, town.judge if town else judge
            )
        return self.feeds[session]

    def link(self) -> str:
        """A new one-time login link, for the terminal."""
        return f"{self.address}/login/link?code={self.logins.make_link()}"


class TownGone(HTTPException):
    """The page of a town that has ended."""

    def __init__(self) -> None:
        super().__init__(404)


@dataclass(frozen=True, kw_only=True)
class PageContext:
    """A logged-in viewer's request about one session."""

    console: Console
    viewer: Viewer
    session: str
    request: Request
    town: Town | None  # the demo town, if this session is one
    database: Database  # fixed for the request: if a town ends meanwhile, its request must not reach the main database

    @property
    def base(self) -> str:
        return f"/s/{self.session}"

    async def situation(self) -> Situation:
        """Raises:
        TownGone: this was a town of a console that has ended.
        """
        view = await self.database.ask(lambda store: store.console.pairing_view(self.session))
        if self.town:
            return self.town.judge(view)
        if view is None and is_town_name(self.session):
            raise TownGone
        return judge(view)

    async def show(
        self, template: str, values: Mapping[str, Any], status: int = 200, situation: Situation | None = None
    ) -> Response:
        """A page in the common frame. `situation`: if it was already read."""
        await self.require_session()
        frame = frame_of(self, situation or await self.situation())
        return self.viewer.page(template, frame | dict(values), status)

    async def require_session(self) -> None:
        """Raises:
        HTTPException: there is no such session, and it is not the one that this console waits for.
        """
        known = self.console.known
        if self.town or self.session == self.console.session or self.session in known:
            return
        if not await self.database.read(
            "session", lambda c: c.table("wa_sessions").select("id").eq("id", self.session)
        ):
            raise HTTPException(404)
        known.add(self.session)

    async def act(self, action: str, **more: object) -> dict[str, str]:
        """Authorise and audit an action. Returns its form.

        Raises:
            Forbidden, StoreError: not allowed, or the audit entry could not be written. Do nothing then.
        """
        form = await read_action(self.request, self.viewer)
        await self.audit(action, **more)
        return form

    async def audit(self, action: str, **more: object) -> None:
        """Audit what this viewer is about to do."""
        await self.require_session()
        await self.database.audit(self.session, action, self.viewer.who, **more)


def console_of(request: Request) -> Console:
    found: Console = request.app.state.console
    return found


def viewer_of(request: Request) -> Viewer:
    """The viewer behind a request, logged in or not."""
    console = console_of(request)
    return find_viewer(request, console.logins, console.options)


def context_of(request: Request) -> PageContext:
    """Raises:
    LoginNeeded: nobody has logged in.
    HTTPException: no session can have this name.
    TownGone: the session was a town that has ended.
    """
    viewer = viewer_of(request)
    if viewer.login is None:
        raise LoginNeeded
    console = console_of(request)
    session = str(request.path_params.get("session", console.session))
    if not is_session_name(session):
        raise HTTPException(404)
    if console.towns.is_gone(session):
        raise TownGone
    town = console.towns.of(session)
    if town:
        town.see()
    database = console.database_of(session)
    return PageContext(console=console, viewer=viewer, session=session, request=request, town=town, database=database)


def frame_of(context: PageContext, situation: Situation) -> dict[str, Any]:
    """The values for the frame of a page."""
    return {
        "session": context.session,
        "base": context.base,
        "home": f"/s/{context.console.session}",
        "town": context.town,
        "present_town": context.console.towns.present,
        "situation": situation,
        "did": context.request.query_params.get("did", ""),
        "refusal": context.request.query_params.get("refused", ""),
        "section": context.request.url.path.removeprefix(context.base).strip("/").split("/")[0],
    }

"""The stream that keeps an open page up to date (server-sent events).

`situation`: the account's new state, for the frame and the link page's panel. `bubble`: a new or changed message.
`gap`: more messages came than are kept here; reload the page. `over`: the login or the town has ended; go to this page.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from console.context import PageContext, context_of, frame_of, viewer_of
from console.live import LiveFeed, Snapshot, rows_of
from console.messages import MessageScope, Page
from console.rules.bubbles import Bubble, make_bubbles
from console.rules.situations import Situation
from console.viewer import number

STREAMS_MAX = 150  # of all viewers; other pages need connections, too (`console.connections`)
PROXIED_SECONDS = 300.0  # then the browser reconnects, and the proxy can refuse who has logged out there


async def stream(request: Request) -> Response:
    """`after`: the newest message on the page, if it shows messages. `group`: only this group's messages.

    `heard`, or the header that a browser sends when it reconnects: the newest message, of any group, told before.
    """
    context = context_of(request)
    await context.require_session()
    if sum(feed.viewers for feed in context.console.feeds.values()) >= STREAMS_MAX:
        raise HTTPException(503)
    live = context.console.live(context.session)  # now, while the session is still the same
    return StreamingResponse(
        _events(context, live),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no", "cache-control": "no-store"},
    )


async def _events(context: PageContext, live: LiveFeed) -> AsyncIterator[str]:
    group, after = (number(context.request.query_params.get(name)) for name in ("group", "after"))
    heard = number(context.request.headers.get("last-event-id")) or number(context.request.query_params.get("heard"))
    if heard is None and group is None:
        heard = after
    told: object = None
    began = time.monotonic()
    sent: dict[int, str] = {}
    yield "retry: 2000\n\n"
    async for snapshot in live.snapshots():
        if page := page_after_the_end(context):
            yield event("over", page)
            return
        if context.viewer.is_proxied and time.monotonic() - began > PROXIED_SECONDS:
            return
        if snapshot is None:
            yield ": still here\n\n"
            continue
        if (state := _state_of(snapshot.situation)) != told:
            told = state
            yield event("situation", json.dumps(_situation(context, snapshot.situation)))
        if after is not None and snapshot.situation.is_read and snapshot.page.rows:
            newest = snapshot.page.rows[-1]["id"]
            if is_gap(snapshot.page, heard):
                yield event("gap", "", newest)
            for data in _bubbles(context, snapshot, group, sent):
                yield event("bubble", data, newest)
            if newest != heard:
                heard = newest
                yield f"id: {newest}\n\n"


def page_after_the_end(context: PageContext) -> str | None:
    """Where the page goes if its login or town has ended."""
    if viewer_of(context.request).login is None:
        return "/login"
    if context.console.towns.is_gone(context.session):
        return f"/s/{context.console.session}/link?did=town_over"
    if context.town:
        context.town.see()
    return None


def is_gap(page: Page, heard: int | None) -> bool:
    """Whether messages came since `heard` that these newest ones do not include."""
    return bool(heard) and page.more and page.rows[0]["id"] > (heard or 0)


def _bubbles(context: PageContext, snapshot: Snapshot, group: int | None, sent: dict[int, str]) -> list[str]:
    """The new and the changed ones."""
    rows = rows_of(snapshot, group)
    found: list[str] = []
    language = context.viewer.t.language
    for bubble in snapshot.share(("bubbles", group), lambda: make_bubbles(rows)):
        if sent.get(bubble.head["id"]) != bubble.version:
            sent[bubble.head["id"]] = bubble.version
            key = (language, group, bubble.head["id"])
            found.append(snapshot.share(key, partial(_bubble, context, snapshot, group, bubble)))
    return found


def _bubble(context: PageContext, snapshot: Snapshot, group: int | None, bubble: Bubble) -> str:
    """The message's HTML, which is the same for all viewers with one language."""
    values = {"page": snapshot.page, "where": MessageScope(session=context.session, group=group), "base": context.base}
    html = context.viewer.render("bubble.html", values | {"bubble": bubble, "marked": None})
    return json.dumps({"id": bubble.head["id"], "parts": [row["id"] for row in bubble.parts], "html": html})


def _state_of(situation: Situation) -> tuple[Any, ...]:
    """The visible parts of a situation; the page counts seconds down itself."""
    return (
        situation.name,
        situation.who,
        situation.say,
        situation.qr,
        situation.code,
        situation.passkey,
        situation.compare,
        situation.next_attempt_at,
    )


def _situation(context: PageContext, situation: Situation) -> dict[str, Any]:
    frame = frame_of(context, situation)
    panel = context.viewer.render("link_panel.html", frame) if context.request.query_params.get("panel") else ""
    return {
        "name": situation.name,
        "read": situation.is_read,
        "pill": context.viewer.render("pill.html", frame),
        "banner": context.viewer.render("banner.html", frame),
        "panel": panel,
    }


def event(name: str, data: str, heard: int | None = None) -> str:
    """One event; JSON has no line breaks. `heard`: what the browser sends back when it reconnects."""
    return f"event: {name}\ndata: {data}\n" + (f"id: {heard}\n\n" if heard is not None else "\n")

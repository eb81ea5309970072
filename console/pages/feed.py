"""The message pages: the newest, older and later ones, of a day, of all groups or one, and each at its own address."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from console import messages
from console.context import PageContext, context_of
from console.messages import MessageScope, Page
from console.parallel import parallel_reads
from console.rules.days import day_begins
from console.town import TownRefused
from console.viewer import go_to, number


async def newest(request: Request) -> Response:
    """`group`: only this group's. `before`, `after`: older or newer than this message. `at`: the messages around it.

    `date` and `offset`: the first of that day. `part`: only the messages, for a page that has others.
    """
    context = context_of(request)
    where = MessageScope(session=context.session, group=number(request.query_params.get("group")))
    if day := request.query_params.get("date"):
        return await _jump(context, where, day)
    if (at := number(request.query_params.get("at"))) is not None:
        return await _show(context, where, messages.around(context.database, where, at), live=False, marked=at)
    for name, read in (("before", messages.older), ("after", messages.later)):
        if (edge := number(request.query_params.get(name))) is None:
            continue
        if request.query_params.get("part"):
            page = await read(context.database, where, edge)
            return context.viewer.page("feed_part.html", _values(context, where, page) | {"newer": name == "after"})
        return await _show(context, where, read(context.database, where, edge), live=False)
    return await _show(context, where, messages.newest(context.database, where), live=True)


async def message(request: Request) -> Response:
    """One message with its neighbours in the group. A rendition is shown as the message that it belongs to."""
    context = context_of(request)
    wanted = int(request.path_params["message"])
    row = await messages.one(context.database, context.session, wanted)
    if row is None:
        raise HTTPException(404)
    wanted = row["rendition_of"] or wanted
    where = MessageScope(session=context.session, group=row["group_id"])
    return await _show(context, where, messages.around(context.database, where, wanted), live=False, marked=wanted)


async def _jump(context: PageContext, where: MessageScope, day: str) -> Response:
    try:
        at = day_begins(day, number(context.request.query_params.get("offset")) or 0)
    except ValueError:
        raise HTTPException(404) from None
    found = await messages.first_since(context.database, where, at.isoformat())
    if found is None:
        return go_to(f"{context.base}/feed", **({"group": str(where.group)} if where.group else {}))
    return go_to(f"{context.base}/messages/{found}" if where.group else f"{context.base}/feed?at={found}")


async def _show(
    context: PageContext, where: MessageScope, read: Coroutine[Any, Any, Page], *, live: bool, marked: int | None = None
) -> Response:
    async with parallel_reads() as reads:
        page = reads.start(read)
        names = reads.start(messages.group_names(context.database, context.session))
        situation = reads.start(context.situation())
    chosen = next((group for group in names.value if group["id"] == where.group), None)
    values = _values(context, where, page.value)
    values |= {"groups": names.value, "chosen": chosen, "live": live, "marked": marked}
    if context.town and live:
        with suppress(TownRefused):
            values["seen"] = await context.town.ask("look")
            values["last_who"] = context.request.query_params.get("who", "")
    return await context.show("feed.html", values, situation=situation.value)


def _values(context: PageContext, where: MessageScope, page: Page) -> dict[str, Any]:
    return {"page": page, "where": where, "base": context.base, "marked": None}

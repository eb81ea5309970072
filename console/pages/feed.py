"""The messages: newest over all or of one group, older ones, a date, and every message at an address of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from console import messages
from console.here import Here, here
from console.messages import Page, Where
from console.rules.days import day_begins
from console.town import TownSaysNo
from console.viewer import go_to, number


async def newest(request: Request) -> Response:
    """`group`: one group's; `before`: older than this message; `date` and `offset`: the first of that day."""
    place = here(request)
    where = Where(session=place.session, group=number(request.query_params.get("group")))
    if day := request.query_params.get("date"):
        return await _jump(place, where, day)
    before = number(request.query_params.get("before"))
    if before is not None:
        page = await messages.older(place.database, where, before)
        if request.query_params.get("part"):
            return place.viewer.page("feed_part.html", _values(place, where, page))
        return await _show(place, where, page, live=False)
    return await _show(place, where, await messages.newest(place.database, where), live=True)


async def message(request: Request) -> Response:
    """One message with those around it, in its group. A rendition is shown as the message that it belongs to."""
    place = here(request)
    wanted = int(request.path_params["message"])
    row = await messages.one(place.database, place.session, wanted)
    if row is None:
        raise HTTPException(404)
    wanted = row["rendition_of"] or wanted
    where = Where(session=place.session, group=row["group_id"])
    page = await messages.around(place.database, where, wanted)
    return await _show(place, where, page, live=False, marked=wanted)


async def _jump(place: Here, where: Where, day: str) -> Response:
    try:
        at = day_begins(day, number(place.request.query_params.get("offset")) or 0)
    except ValueError:
        raise HTTPException(404) from None
    found = await messages.first_since(place.database, where, at.isoformat())
    if found is None:
        return go_to(f"{place.base}/feed", **({"group": str(where.group)} if where.group else {}))
    return go_to(f"{place.base}/messages/{found}")


async def _show(place: Here, where: Where, page: Page, *, live: bool, marked: int | None = None) -> Response:
    groups = await messages.group_names(place.database, place.session)
    chosen = next((group for group in groups if group["id"] == where.group), None)
    values = _values(place, where, page) | {"groups": groups, "chosen": chosen, "live": live, "marked": marked}
    if place.town and live:
        with suppress(TownSaysNo):
            values["seen"] = await place.town.ask("look")
    return await place.show("feed.html", values)


def _values(place: Here, where: Where, page: Page) -> dict[str, Any]:
    return {"page": page, "where": where, "base": place.base, "marked": None}

"""Trying it without a phone: a town is started and stopped, and people of the town write from its virtual phone."""

from __future__ import annotations

from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from console.here import Here, here
from console.town import Town, TownSaysNo, is_installed
from console.viewer import go_to, number, read_action
from worker.errors import StoreError

BUILDING_SECONDS = "1"  # between two looks


async def start(request: Request) -> Response:
    """Start a town, if no account is linked here."""
    place = _at_home(request)
    await read_action(request, place.viewer)
    if not is_installed() or not (await place.situation()).may_play:
        raise HTTPException(404)
    await place.audit("town_start")
    await place.console.towns.start()
    return go_to(f"{place.base}/town")


async def progress(request: Request) -> Response:
    """How far it is. The page asks again by itself, and leads into the town once that is there."""
    place = _at_home(request)
    town = place.console.towns.last
    if town and town.state == "running":
        town.see()
        return go_to(f"/s/{town.session}/link")
    answer = await place.show("town.html", {"building": town})
    if town and town.state == "starting":
        town.see()
        answer.headers["refresh"] = BUILDING_SECONDS
    return answer


async def stop(request: Request) -> Response:
    """Stop and forget the town, whether or not that can be noted."""
    place = _at_home(request)
    await read_action(request, place.viewer)
    with suppress(StoreError):
        await place.audit("town_stop")
    await place.console.towns.stop()
    return go_to(f"{place.base}/link", did="town_gone")


async def phone(request: Request) -> Response:
    """The virtual phone; `part`: what changes by itself alone."""
    place, town = _in_town(request)
    try:
        seen = await town.ask("look")
    except TownSaysNo:
        raise HTTPException(503) from None
    if request.query_params.get("part"):
        return place.viewer.page("phone_part.html", {"seen": seen, "base": place.base})
    return await place.show("phone.html", {"seen": seen})


async def send(request: Request) -> Response:
    """A person of the town sends a text or a picture to a group."""
    place, town, form = await _order(request, "phone_send")
    who, _, group = form.get("who", "").partition(" ")
    text, picture = form.get("text", "").strip(), form.get("picture") == "true"
    done = await _do(town, "send", who=who, group=group, text=text, picture=picture)
    return _back(place, form, done)


async def change(request: Request) -> Response:
    """Edit, react to, or take back a message that was sent from the virtual phone."""
    place, town, form = await _order(request, "phone_change")
    of, what = number(form.get("of")), form.get("what", "")
    done = await _do(town, "change", of=-1 if of is None else of, what=what, text=form.get("text", "").strip())
    return _back(place, form, done)


async def link(request: Request) -> Response:
    """The virtual phone scans the code that the worker shows, or types it in."""
    place, town, _ = await _order(request, "phone_link")
    done = await _do(town, "link")
    return go_to(f"{place.base}/link", did="phone_linked" if done else "phone_no")


async def worker(request: Request) -> Response:
    """Kill the town's worker, or start it again."""
    place, town, form = await _order(request, "phone_worker")
    do = "start" if form.get("do") == "start" else "kill"
    done = await _do(town, do)
    return go_to(f"{place.base}/phone", did=f"phone_{do}" if done else "phone_no")


async def _do(town: Town, do: str, **more: object) -> bool:
    try:
        await town.ask(do, **more)
    except TownSaysNo:
        return False
    return True


def _back(place: Here, form: dict[str, str], done: bool) -> Response:
    page = "feed" if form.get("back") == "feed" else "phone"
    return go_to(f"{place.base}/{page}") if done else go_to(f"{place.base}/{page}", did="phone_no")


def _at_home(request: Request) -> Here:
    """The session of this console: a town is started and stopped from there."""
    place = here(request)
    if place.session != place.console.session:
        raise HTTPException(404)
    return place


async def _order(request: Request, action: str) -> tuple[Here, Town, dict[str, str]]:
    """A form of one of a town's pages, noted in the town's own log."""
    form = await read_action(request, here(request).viewer)
    place, town = _in_town(request)
    await place.audit(action)
    return place, town, form


def _in_town(request: Request) -> tuple[Here, Town]:
    place = here(request)
    if place.town is None:
        raise HTTPException(404)
    return place, place.town

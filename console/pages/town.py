"""The demo town's pages: start and stop it, and write as its people from its virtual phone."""

from __future__ import annotations

from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from console.context import PageContext, context_of
from console.town import Town, TownRefused, is_installed
from console.viewer import go_to, number, read_action
from worker.errors import StoreError

STEPS = ("packages", "phone", "database", "worker")  # of a start; packages: only if they must be fetched


async def start(request: Request) -> Response:
    """Start a town, if no account is linked here. If there is one already, go there."""
    context = _at_home(request)
    await read_action(request, context.viewer)
    if context.console.towns.present is None:
        if not is_installed() or not (await context.situation()).may_play:
            raise HTTPException(404)
        await context.audit("town_start")
        await context.console.towns.start()
    return go_to(f"{context.base}/town")


async def progress(request: Request) -> Response:
    """The progress of starting; leads into the town once it is running. `part`: only what the page reads again."""
    context = _at_home(request)
    part = bool(request.query_params.get("part"))
    situation = None if part else await context.situation()
    town = context.console.towns.last  # after the only wait: the page must show one state
    if town and town.state != "over":
        town.see()
    values: dict[str, object] = {"building": town, "steps": _steps(town) if town else []}
    if situation is None:
        return context.viewer.page("town_part.html", values | {"base": context.base})
    if town and town.state == "running":
        return go_to(f"/s/{town.session}/link")
    return await context.show(
        "town.html", values | {"may_start": is_installed() and situation.may_play}, situation=situation
    )


async def stop(request: Request) -> Response:
    """Stop and delete the town, even if the action cannot be audited."""
    context = _at_home(request)
    await read_action(request, context.viewer)
    with suppress(StoreError):
        await context.audit("town_stop")
    await context.console.towns.stop()
    return go_to(f"{context.base}/link", did="town_gone")


async def phone(request: Request) -> Response:
    """The virtual phone. `part`: only the section that updates itself."""
    context, town = _in_town(request)
    try:
        seen = await town.ask("look")
    except TownRefused:
        raise HTTPException(503, "error.town") from None
    values = {"seen": seen, "last_who": request.query_params.get("who", "")}
    if request.query_params.get("part"):
        return context.viewer.page("phone_part.html", values | {"base": context.base})
    return await context.show("phone.html", values)


async def send(request: Request) -> Response:
    """Send a text or picture to a group as a person of the town."""
    context, town, form = await _order(request, "phone_send")
    who, _, group = form.get("who", "").partition(" ")
    text, picture = form.get("text", "").strip(), form.get("picture") == "true"
    refused = await _do(town, "send", who=who, group=group, text=text, picture=picture)
    return _back(context, form, refused)


async def change(request: Request) -> Response:
    """Edit, react to, or delete a message that was sent from the virtual phone."""
    context, town, form = await _order(request, "phone_change")
    of, what = number(form.get("of")), form.get("what", "")
    refused = await _do(town, "change", of=-1 if of is None else of, what=what, text=form.get("text", "").strip())
    return _back(context, form, refused)


async def link(request: Request) -> Response:
    """Let the virtual phone scan or type the worker's code."""
    context, town, _ = await _order(request, "phone_link")
    refused = await _do(town, "link")
    return go_to(f"{context.base}/link", **({"refused": refused} if refused else {"did": "phone_linked"}))


async def worker(request: Request) -> Response:
    """Kill the town's worker, or start it again."""
    context, town, form = await _order(request, "phone_worker")
    do = "start" if form.get("do") == "start" else "kill"
    refused = await _do(town, do)
    return go_to(f"{context.base}/phone", **({"refused": refused} if refused else {}))


async def _do(town: Town, do: str, **more: object) -> str:
    """Send an order. Returns why it was refused; empty if it was done."""
    try:
        await town.ask(do, **more)
    except TownRefused as refused:
        return str(refused)
    return ""


def _steps(town: Town) -> list[tuple[str, str]]:
    """The steps of a start, each with `done`, `now` or `next`."""
    steps = [step for step in STEPS if step != "packages" or step in town.steps]
    now = steps.index(town.steps[-1]) if town.steps and town.steps[-1] in steps else 0
    return [(step, "done" if place < now else "now" if place == now else "next") for place, step in enumerate(steps)]


def _back(context: PageContext, form: dict[str, str], refused: str) -> Response:
    """The page that the form came from, with the same person still chosen."""
    page = "feed" if form.get("back") == "feed" else "phone"
    query = {"who": form["who"]} if form.get("who") else {}
    return go_to(f"{context.base}/{page}", **query, **({"refused": refused} if refused else {}))


def _at_home(request: Request) -> PageContext:
    """The context of the console's own session, from which towns are started and stopped."""
    context = context_of(request)
    if context.session != context.console.session:
        raise HTTPException(404)
    return context


async def _order(request: Request, action: str) -> tuple[PageContext, Town, dict[str, str]]:
    """The form of an action in a town, audited in the town's own log."""
    form = await read_action(request, context_of(request).viewer)
    context, town = _in_town(request)
    await context.audit(action)
    return context, town, form


def _in_town(request: Request) -> tuple[PageContext, Town]:
    context = context_of(request)
    if context.town is None:
        raise HTTPException(404)
    return context, context.town

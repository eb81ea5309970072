"""The pages of groups: the list with its switches, and one group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from console import messages
from console.charts import activity, covered
from console.context import PageContext, context_of
from console.database import Row
from console.exports import prepare
from console.members import members_of
from console.messages import MessageScope
from console.parallel import parallel_reads
from console.rules.charts import SPANS, span_of
from console.rules.people import Names
from console.viewer import go_to, number, read_action, read_own_form
from worker.session.flags import RequestKind
from worker.store.console import ListedGroup

WRITERS_FROM = 1000  # the newest messages of a group, from which its page takes who writes
MEMBERS_SHOWN = 12  # on the group's page; the others have a page of their own
MEMBERS_PAGE = 1500  # more than WhatsApp lets into a group
PAGES_MAX = 1000
GALLERY = 24
GALLERY_PAGE = 60
GAPS = 50  # the newest
RENAMES = 200


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A writer. `count` and `last`: among the newest messages of the group."""

    address: str
    name: str
    count: int
    last: str


async def listed(request: Request) -> Response:
    """All groups, or those with `q` in their name. `part`: only what an empty list reads again until it has groups."""
    context = context_of(request)
    wanted = request.query_params.get("q", "").strip()
    async with parallel_reads() as reads:
        groups = reads.start(context.database.ask(lambda store: store.console.groups(context.session)))
        former = reads.start(_former_names(context))
        situation = reads.start(context.situation())
    found = groups.value
    shown = [group for group in found if wanted.casefold() in (group.name or group.wa_group_id).casefold()]
    values = {"groups": shown, "all": len(found), "stored": _stored(found), "wanted": wanted, "former": former.value}
    if request.query_params.get("part"):
        return context.viewer.page("groups_part.html", values | {"base": context.base, "situation": situation.value})
    return await context.show("groups.html", values, situation=situation.value)


async def one(request: Request) -> Response:
    context = context_of(request)
    group = await _group(context)
    span = span_of(request.query_params.get("span"))
    names = {group.id: group.name or group.wa_group_id}
    ask = context.database.ask
    async with parallel_reads() as reads:
        total = reads.start(ask(lambda store: store.console.count_messages(context.session, group.id)))
        coverage = reads.start(ask(lambda store: store.console.coverage(context.session, group.wa_group_id, GAPS)))
        gallery = reads.start(_gallery(context, group.id, None, GALLERY))
        people = reads.start(members_of(context, group.id, MEMBERS_SHOWN))
        writers = reads.start(_writers(context, group.id))
        chart = reads.start(activity(context.database, context.session, group.id, span, names))
        former = reads.start(_former_names(context))
        situation = reads.start(context.situation())
    pictures, more = gallery.value
    values = {
        "group": group,
        "total": total.value,
        "people": people.value,
        "writers": writers.value,
        "gallery": pictures,
        "more_gallery": more,
        "covered": covered({}, coverage.value, datetime.now(UTC)),
        "chart": chart.value,
        "span": span,
        "spans": SPANS,
        "former": former.value,
    }
    return await context.show("group.html", values, situation=situation.value)


async def members(request: Request) -> Response:
    """All current and former members. `page`: which part of a very long list."""
    context = context_of(request)
    group = await _group(context)
    wanted = min(PAGES_MAX, max(1, number(request.query_params.get("page")) or 1))
    people = await members_of(context, group.id, MEMBERS_PAGE, MEMBERS_PAGE * (wanted - 1))
    pages = -(-(people.present + people.left) // MEMBERS_PAGE)
    return await context.show("members.html", {"group": group, "people": people, "number": wanted, "pages": pages})


async def gallery(request: Request) -> Response:
    """Pictures and films, newest first. `before`: older than this message."""
    context = context_of(request)
    group = await _group(context)
    before = number(request.query_params.get("before"))
    pictures, more = await _gallery(context, group.id, before, GALLERY_PAGE)
    values = {"group": group, "gallery": pictures, "more": more, "newest": before is None}
    return await context.show("gallery.html", values)


async def fetch(request: Request) -> Response:
    context = context_of(request)
    await context.act("fetch_groups")
    await context.database.ask(lambda store: store.console.raise_flag(context.session, RequestKind.GROUPS.value))
    return go_to(f"{context.base}/groups", did="fetch")


async def switch(request: Request) -> Response:
    """Switch the storing of a group on or off."""
    context = context_of(request)
    form = await read_action(request, context.viewer)
    group = await _group(context)
    on = form.get("monitor") == "true"
    await context.audit("switch", group=group.wa_group_id, name=group.name, on=on)
    await context.database.ask(lambda store: store.console.set_monitor(context.session, [group.id], on))
    back = f"{context.base}/groups/{group.id}" if form.get("back") == "group" else f"{context.base}/groups"
    return go_to(back, did="on" if on else "off")


async def export(request: Request) -> Response:
    """All messages and members of a group, as a streamed ZIP file."""
    context = context_of(request)
    await read_own_form(request, context.viewer)
    group = await _group(context)
    await context.audit("export", group=group.wa_group_id)
    headers = {"content-disposition": f'attachment; filename="group-{group.id}.zip"'}
    content = await context.database.ask(lambda store: prepare(store.console, context.session, group))
    return StreamingResponse(content, media_type="application/zip", headers=headers)


async def _group(context: PageContext) -> ListedGroup:
    wanted = int(context.request.path_params["group"])
    found = await context.database.ask(lambda store: store.console.groups(context.session, wanted))
    if not found:
        raise HTTPException(404)
    return found[0]


def _stored(groups: Sequence[ListedGroup]) -> int:
    return sum(1 for group in groups if group.monitor and group.left_at is None)


async def _former_names(context: PageContext) -> dict[str, str]:
    """The previous name of each recently renamed group, by WhatsApp's id."""
    rows = await context.database.read(
        "renames",
        lambda c: (
            c.table("audit_log")
            .select("payload")
            .eq("session_id", context.session)
            .eq("event", "group_rename")
            .order("at", desc=True)
            .limit(RENAMES)
        ),
    )
    former: dict[str, str] = {}
    for row in rows:
        payload = row["payload"]
        former.setdefault(str(payload.get("wa_group_id")), str(payload.get("from") or ""))
    return former


async def _writers(context: PageContext, group: int) -> list[Writer]:
    """Recent writers, the busiest first."""
    rows: list[Row] = await context.database.read(
        "writers",
        lambda c: (
            c.table("messages")
            .select("sender,sender_alt,push_name,ts")
            .eq("group_id", group)
            .neq("kind", "system")
            .order("ts", desc=True)
            .limit(WRITERS_FROM)
        ),
    )
    names = Names()
    names.learn(reversed(rows))
    counted: Counter[str] = Counter(row["sender"] for row in rows)
    last = {row["sender"]: row["ts"] for row in reversed(rows)}
    return [
        Writer(address=address, name=names.of(address), count=count, last=last[address])
        for address, count in counted.most_common()
    ]


async def _gallery(context: PageContext, group: int, before: int | None, limit: int) -> tuple[list[Row], bool]:
    """A page of pictures, and whether there are older ones."""
    found = await messages.pictures(
        context.database, MessageScope(session=context.session, group=group), before, limit + 1
    )
    return found[:limit], len(found) > limit

"""The groups: which there are, which are stored, and one group by itself."""

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
from console.database import Row
from console.exports import prepare
from console.here import Here, here
from console.members import members_of
from console.messages import Where
from console.parallel import parallel_reads
from console.rules.charts import SPANS, span_of
from console.rules.people import Names
from console.viewer import go_to, number, read_action
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
    """Somebody who wrote; `count` and `last`: among the newest messages of the group."""

    address: str
    name: str
    count: int
    last: str


async def listed(request: Request) -> Response:
    place = here(request)
    wanted = request.query_params.get("q", "").strip()
    async with parallel_reads() as reads:
        groups = reads.start(place.database.ask(lambda store: store.console.groups(place.session)))
        former = reads.start(_former_names(place))
        situation = reads.start(place.situation())
    found = groups.value
    shown = [group for group in found if wanted.casefold() in (group.name or group.wa_group_id).casefold()]
    values = {"groups": shown, "all": len(found), "stored": _stored(found), "wanted": wanted, "former": former.value}
    return await place.show("groups.html", values, situation=situation.value)


async def one(request: Request) -> Response:
    place = here(request)
    group = await _group(place)
    span = span_of(request.query_params.get("span"))
    names = {group.id: group.name or group.wa_group_id}
    ask = place.database.ask
    async with parallel_reads() as reads:
        size = reads.start(ask(lambda store: store.console.export_size(place.session, group.id, 0)))
        coverage = reads.start(ask(lambda store: store.console.coverage(place.session, group.wa_group_id, GAPS)))
        gallery = reads.start(_gallery(place, group.id, None, GALLERY))
        people = reads.start(members_of(place, group.id, MEMBERS_SHOWN))
        writers = reads.start(_writers(place, group.id))
        chart = reads.start(activity(place.database, place.session, group.id, span, names))
        former = reads.start(_former_names(place))
        situation = reads.start(place.situation())
    pictures, more = gallery.value
    values = {
        "group": group,
        "total": size.value[0],
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
    return await place.show("group.html", values, situation=situation.value)


async def members(request: Request) -> Response:
    """Everybody who is or was in the group; `page`: which part of a very long list."""
    place = here(request)
    group = await _group(place)
    wanted = min(PAGES_MAX, max(1, number(request.query_params.get("page")) or 1))
    people = await members_of(place, group.id, MEMBERS_PAGE, MEMBERS_PAGE * (wanted - 1))
    pages = -(-(people.present + people.left) // MEMBERS_PAGE)
    return await place.show("members.html", {"group": group, "people": people, "number": wanted, "pages": pages})


async def gallery(request: Request) -> Response:
    """Pictures and films, the newest first; `before`: older than this message."""
    place = here(request)
    group = await _group(place)
    before = number(request.query_params.get("before"))
    pictures, more = await _gallery(place, group.id, before, GALLERY_PAGE)
    values = {"group": group, "gallery": pictures, "more": more, "newest": before is None}
    return await place.show("gallery.html", values)


async def fetch(request: Request) -> Response:
    place = here(request)
    await place.act("fetch_groups")
    await place.database.ask(lambda store: store.console.raise_flag(place.session, RequestKind.GROUPS.value))
    return go_to(f"{place.base}/groups", did="fetch")


async def switch(request: Request) -> Response:
    """Store a group from now on, or no longer."""
    place = here(request)
    form = await read_action(request, place.viewer)
    group = await _group(place)
    on = form.get("monitor") == "true"
    await place.audit("switch", group=group.wa_group_id, name=group.name, on=on)
    await place.database.ask(lambda store: store.console.set_monitor(place.session, [group.id], on))
    back = f"{place.base}/groups/{group.id}" if form.get("back") == "group" else f"{place.base}/groups"
    return go_to(back, did="on" if on else "off")


async def export(request: Request) -> Response:
    """Every message, and the members, of a group: a ZIP file, streamed."""
    place = here(request)
    group = await _group(place)
    await place.audit("export", group=group.wa_group_id)
    headers = {"content-disposition": f'attachment; filename="group-{group.id}.zip"'}
    content = await place.database.ask(lambda store: prepare(store.console, place.session, group))
    return StreamingResponse(content, media_type="application/zip", headers=headers)


async def _group(place: Here) -> ListedGroup:
    wanted = int(place.request.path_params["group"])
    found = await place.database.ask(lambda store: store.console.groups(place.session, wanted))
    if not found:
        raise HTTPException(404)
    return found[0]


def _stored(groups: Sequence[ListedGroup]) -> int:
    return sum(1 for group in groups if group.monitor and group.left_at is None)


async def _former_names(place: Here) -> dict[str, str]:
    """The last former name of each group that was renamed lately, by WhatsApp's id."""
    rows = await place.database.read(
        "renames",
        lambda c: (
            c.table("audit_log")
            .select("payload")
            .eq("session_id", place.session)
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


async def _writers(place: Here, group: int) -> list[Writer]:
    """Those who wrote lately, the busiest first."""
    rows: list[Row] = await place.database.read(
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


async def _gallery(place: Here, group: int, before: int | None, limit: int) -> tuple[list[Row], bool]:
    """A page, and whether there are older ones."""
    found = await messages.pictures(place.database, Where(session=place.session, group=group), before, limit + 1)
    return found[:limit], len(found) > limit

"""The groups: which there are, which are stored, and one group by itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from console import messages
from console.charts import activity, covered
from console.database import Row
from console.here import Here, here
from console.messages import Where
from console.rules.charts import SPANS, span_of
from console.rules.people import Names
from console.viewer import go_to, number, read_action
from worker.session.flags import RequestKind
from worker.store.console import ListedGroup

MEMBERS_FROM = 1000  # the newest messages of a group, from which its page takes who writes
GALLERY = 24
GALLERY_PAGE = 60
GAPS = 50  # the newest
RENAMES = 200
EXPORT_PAGE = 200


@dataclass(frozen=True, kw_only=True)
class Member:
    """Somebody who wrote; `count` and `last`: among the newest messages of the group."""

    address: str
    name: str
    count: int
    last: str


async def listed(request: Request) -> Response:
    place = here(request)
    wanted = request.query_params.get("q", "").strip()
    found = await place.database.ask(lambda store: store.console.groups(place.session))
    shown = [group for group in found if wanted.casefold() in (group.name or group.wa_group_id).casefold()]
    values = {"groups": shown, "all": len(found), "stored": _stored(found), "wanted": wanted}
    return await place.show("groups.html", values | {"former": await _former_names(place)})


async def one(request: Request) -> Response:
    place = here(request)
    group = await _group(place)
    span = span_of(request.query_params.get("span"))
    total, _ = await place.database.ask(lambda store: store.console.export_size(place.session, group.id, 0))
    coverage = await place.database.ask(lambda store: store.console.coverage(place.session, group.wa_group_id, GAPS))
    names = {group.id: group.name or group.wa_group_id}
    pictures, more = await _gallery(place, group.id, None, GALLERY)
    values = {
        "group": group,
        "total": total,
        "members": await _members(place, group.id),
        "gallery": pictures,
        "more_gallery": more,
        "covered": covered({}, coverage, datetime.now(UTC)),
        "chart": await activity(place.database, place.session, group.id, span, names),
        "span": span,
        "spans": SPANS,
        "former": await _former_names(place),
    }
    return await place.show("group.html", values)


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
    """Every message of a group as JSON lines, streamed."""
    place = here(request)
    group = await _group(place)
    await place.audit("export", group=group.wa_group_id)
    headers = {"content-disposition": f'attachment; filename="group-{group.id}.jsonl"'}
    return StreamingResponse(_lines(place, group.id), media_type="application/jsonl", headers=headers)


async def _lines(place: Here, group: int) -> AsyncIterator[bytes]:
    cursor = 0
    while page := await _export_page(place, group, cursor):
        yield b"".join(json.dumps(message, ensure_ascii=False).encode() + b"\n" for message in page)
        cursor = int(page[-1]["id"])


async def _export_page(place: Here, group: int, after: int) -> list[Row]:
    return await place.database.ask(
        lambda store: store.console.export_messages(place.session, group, after, EXPORT_PAGE)
    )


async def _group(place: Here) -> ListedGroup:
    wanted = int(place.request.path_params["group"])
    found = await place.database.ask(lambda store: store.console.groups(place.session))
    for group in found:
        if group.id == wanted:
            return group
    raise HTTPException(404)


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


async def _members(place: Here, group: int) -> list[Member]:
    """Those who wrote lately, the busiest first."""
    rows: list[Row] = await place.database.read(
        "members",
        lambda c: (
            c.table("messages")
            .select("sender,sender_alt,push_name,ts")
            .eq("group_id", group)
            .neq("kind", "system")
            .order("ts", desc=True)
            .limit(MEMBERS_FROM)
        ),
    )
    names = Names()
    names.learn(reversed(rows))
    counted: Counter[str] = Counter(row["sender"] for row in rows)
    last = {row["sender"]: row["ts"] for row in reversed(rows)}
    return [
        Member(address=address, name=names.of(address), count=count, last=last[address])
        for address, count in counted.most_common()
    ]


async def _gallery(place: Here, group: int, before: int | None, limit: int) -> tuple[list[Row], bool]:
    """A page, and whether there are older ones."""
    found = await messages.pictures(place.database, Where(session=place.session, group=group), before, limit + 1)
    return found[:limit], len(found) > limit

"""The groups: which there are, which are stored, and one group by itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from console.database import Row
from console.here import Here, here
from console.rules.people import Names
from console.viewer import go_to, read_action
from worker.session.flags import Ask
from worker.store.console import ListedGroup, open_gap

MEMBERS_FROM = 1000  # the newest messages of a group, from which its page takes who writes
GALLERY = 24
GAPS = 50  # the newest
GALLERY_KINDS = ["image", "video", "gif", "ptv"]
RENAMES = 200
EXPORT_PAGE = 200


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
    total, _ = await place.database.ask(lambda store: store.console.export_size(place.session, group.id, 0))
    values = {"group": group, "total": total, "members": await _members(place, group.id)}
    gallery = await _gallery(place, group.id)
    coverage = await place.database.ask(lambda store: store.console.coverage(place.session, group.wa_group_id, GAPS))
    values |= {"coverage": coverage, "present": open_gap(coverage["gaps"])}
    return await place.show("group.html", values | {"gallery": gallery, "former": await _former_names(place)})


async def fetch(request: Request) -> Response:
    place = here(request)
    await place.act("fetch_groups")
    await place.database.ask(lambda store: store.console.raise_flag(place.session, Ask.GROUPS.value))
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


async def _members(place: Here, group: int) -> list[tuple[str, str, int]]:
    """Address, name and number of messages of those who wrote lately, the busiest first."""
    rows: list[Row] = await place.database.read(
        "members",
        lambda c: (
            c.table("messages")
            .select("sender,sender_alt,push_name,from_me")
            .eq("group_id", group)
            .neq("kind", "system")
            .order("ts", desc=True)
            .limit(MEMBERS_FROM)
        ),
    )
    names = Names()
    names.learn(reversed(rows))
    counted: Counter[str] = Counter(row["sender"] for row in rows)
    return [(address, names.of(address), count) for address, count in counted.most_common()]


async def _gallery(place: Here, group: int) -> list[dict[str, Any]]:
    return await place.database.read(
        "gallery",
        lambda c: (
            c.table("messages")
            .select("id,kind,ts,push_name,media(mime,width,height)")
            .eq("group_id", group)
            .eq("media_status", "stored")
            .in_("kind", GALLERY_KINDS)
            .is_("revoked_at", "null")
            .order("ts", desc=True)
            .limit(GALLERY)
        ),
    )

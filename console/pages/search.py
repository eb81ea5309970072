"""The search page. Each result links to the message in its context."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from console.context import PageContext, context_of
from console.messages import group_names
from console.parallel import parallel_reads
from console.rules.days import day_begins
from console.rules.people import Names
from console.viewer import number
from worker.store.console import Found

PAGE = 30
PEOPLE = 50  # with a name like the typed one
KINDS = ("text", "image", "video", "voice", "document", "sticker", "contact", "location", "poll")
SORTS = ("newest", "best")
CHARS_MAX = 500  # of each field; the database is asked for some of them by an address, whose length is limited
CURSOR = re.compile(r"\d{1,18}|\d{1,6}(?:\.\d{1,12})?(?:e-[0-2]?\d)? \d{1,18} \d{1,18}")
FIELDS = ("q", "group", "person", "kind", "since", "until", "offset", "file", "sort")


async def page(request: Request) -> Response:
    """The query is in the URL; without one, shows only the form."""
    context = context_of(request)
    asked = {name: request.query_params.get(name, "").replace("\0", "").strip()[:CHARS_MAX] for name in FIELDS}
    is_asked = any(value for name, value in asked.items() if name not in ("offset", "sort"))
    async with parallel_reads() as reads:
        hits = reads.start(_find(context, asked)) if is_asked else None
        listed = reads.start(group_names(context.database, context.session))
        situation = reads.start(context.situation())
    found, groups, names = hits.value if hits else None, listed.value, Names()
    if found:
        names.learn({**each, "push_name": each["name"], "sender_alt": None} for each in found.results)
    values: dict[str, Any] = {
        "asked": asked,
        "found": found,
        "groups": groups,
        "group_names": {group["id"]: group["name"] or group["wa_group_id"] for group in groups},
        "kinds": KINDS,
        "sorts": SORTS,
        "names": names,
        "more": urlencode({**asked, "cursor": found.next}) if found and found.next else None,
    }
    return await context.show("search.html", values, situation=situation.value)


async def _find(context: PageContext, asked: Mapping[str, str]) -> Found:
    """Raises:
    HTTPException: the query has an invalid day or number.
    """
    narrow: dict[str, Any] = {}
    offset = number(asked["offset"]) or 0
    try:
        if asked["since"]:
            narrow["since"] = day_begins(asked["since"], offset).isoformat()
        if asked["until"]:
            narrow["until"] = (day_begins(asked["until"], offset) + timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        raise HTTPException(404) from None
    if asked["group"]:
        narrow["groups"] = [number(asked["group"]) or 0]
    if asked["kind"]:
        narrow["kinds"] = [asked["kind"]]
    if asked["file"]:
        narrow["has_file"] = True
    if asked["person"]:
        narrow["people"] = await _people(context, asked["person"]) or ["nobody"]
    return await context.database.ask(
        lambda store: store.console.search(
            context.session,
            asked["q"],
            narrow,
            sort=asked["sort"] if asked["sort"] in SORTS else SORTS[0],
            cursor=_cursor(context.request.query_params.get("cursor")),
            limit=PAGE,
        )
    )


def _cursor(text: str | None) -> str | None:
    """A valid cursor (whole numbers and perhaps a rank); None otherwise, which would be a database error."""
    return text if text and CURSOR.fullmatch(text) else None


async def _people(context: PageContext, wanted: str) -> list[str]:
    """Senders whose name or number contains these words."""
    like = "%" + wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    digits = "".join(letter for letter in wanted if letter.isascii() and letter.isdigit())
    columns = [("push_name", like), *([("number", f"%{digits}%")] if digits else []), ("sender", like)]
    found: list[str] = []
    for column, pattern in columns:
        found += await _people_like(context, column, pattern)
    return list(dict.fromkeys(found))[:PEOPLE]


async def _people_like(context: PageContext, column: str, pattern: str) -> list[str]:
    rows = await context.database.read(
        "people",
        lambda c: (
            c.table("people").select("sender").eq("session_id", context.session).ilike(column, pattern).limit(PEOPLE)
        ),
    )
    return [row["sender"] for row in rows]

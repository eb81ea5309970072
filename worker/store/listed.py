"""Pages of refused and waiting items, with or without their content."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import Any

from worker.store.console import RefusedItem
from worker.store.store import Store

AT_ONCE = 200


async def every_item(store: Store, session: str) -> list[RefusedItem]:
    """All listed items, oldest first, without their content."""
    items: list[RefusedItem] = []
    while page := await store.console.refused(session, items[-1].id if items else 0, AT_ONCE):
        items += page
    return items


async def exported_page(store: Store, session: str, after: int) -> list[dict[str, Any]]:
    """The items after the id `after`, as documents with their `content`. Empty at the end."""
    documents = []
    for item in await store.console.refused(session, after, AT_ONCE):
        body, encoding = await store.console.refused_body(session, item.id)
        documents.append(asdict(item) | {"id": str(item.id), "content": content_of(body, encoding)})
    return documents


def content_of(body: str | None, encoding: str) -> object:
    """The item's content: parsed JSON, else text; None if it was not kept."""
    if body is None:
        return None
    text = base64.b64decode(body).decode("utf-8", "replace") if encoding == "base64" else body
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text

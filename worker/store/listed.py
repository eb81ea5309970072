"""What is listed as refused or waiting, page by page, without and with its content."""

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
    """The items behind the id `after` as documents for people: `content` is what was to be stored. Empty at the end."""
    documents = []
    for item in await store.console.refused(session, after, AT_ONCE):
        body, encoding = await store.console.refused_body(session, item.id)
        documents.append(asdict(item) | {"id": str(item.id), "content": content_of(body, encoding)})
    return documents


def content_of(body: str | None, encoding: str) -> object:
    """The item as it was to be stored; its text if that is no JSON; None if it is not kept."""
    if body is None:
        return None
    text = base64.b64decode(body).decode("utf-8", "replace") if encoding == "base64" else body
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text

"""The content of a group's export, for the command line (a folder) and the console (a download)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from worker.store.console import Console, Row

LINES_FILE = "messages.jsonl"
MEMBERS_FILE = "members.jsonl"
MANIFEST_FILE = "export.json"
FORMAT = 1
PAGE = 200
MEMBERS_PAGE = 10_000


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an export covers, and how far it got. `bytes`: size of the lines up to `cursor`, in a folder."""

    format: int = FORMAT
    session: str
    wa_group_id: str
    cursor: int = 0
    bytes: int = 0
    messages: int = 0
    members: int = 0  # lines of MEMBERS_FILE; 0: there is no such file, because members are not kept
    complete: bool = False
    coverage: dict[str, Any] | None = None  # docs/coverage.md


async def message_pages(console: Console, session: str, group: int, after: int = 0) -> AsyncIterator[list[Row]]:
    """Pages of the messages after `after`, in order of arrival."""
    while page := await console.export_messages(session, group, after, PAGE):
        yield page
        after = int(page[-1]["id"])


async def all_members(console: Console, session: str, group: int) -> list[Row]:
    """Current members of the group, then former ones."""
    found: list[Row] = []
    while True:
        page = (await console.members(session, group, MEMBERS_PAGE, len(found))).members
        found += page
        if len(page) < MEMBERS_PAGE:
            return found


def to_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON document per line."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)

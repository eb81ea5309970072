"""A group's export as a ZIP download: what `wa-worker export` writes, without the media files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from worker.store.console import Console, ListedGroup, Row
from worker.store.exports import (
    LINES_FILE,
    MANIFEST_FILE,
    MEMBERS_FILE,
    Manifest,
    all_members,
    message_pages,
    to_lines,
)


class _Sink(io.RawIOBase):
    """Buffers the ZIP writer's output until it is sent."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._kept += data
        return len(data)

    def take(self) -> bytes:
        taken, self._kept = bytes(self._kept), bytearray()
        return taken


async def prepare(console: Console, session: str, group: ListedGroup) -> AsyncIterator[bytes]:
    """The ZIP file, piece by piece. Messages that arrive meanwhile are included, but not in the coverage."""
    coverage = await console.coverage(session, group.wa_group_id)
    members = await all_members(console, session, group.id)
    manifest = Manifest(session=session, wa_group_id=group.wa_group_id, members=len(members), coverage=coverage)
    return _pieces(message_pages(console, session, group.id), members, manifest)


async def _pieces(pages: AsyncIterator[list[Row]], members: list[Row], manifest: Manifest) -> AsyncIterator[bytes]:
    """The manifest comes last, so a truncated file has none, and cannot be opened."""
    sink = _Sink()
    written: dict[str, Any] = {"cursor": 0, "messages": 0, "bytes": 0}
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        if members:
            archive.writestr(MEMBERS_FILE, to_lines(members))
        with archive.open(LINES_FILE, "w", force_zip64=True) as file:
            async for page in pages:
                written["bytes"] += file.write(to_lines(page))
                written["messages"] += len(page)
                written["cursor"] = int(page[-1]["id"])
                yield sink.take()
        archive.writestr(MANIFEST_FILE, json.dumps(asdict(manifest) | written | {"complete": True}))
    yield sink.take()

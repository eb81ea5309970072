"""Groups rows that are shown as one: an album with its pictures, a file with its text."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bubble:
    """One message as people see it. `head` determines its id and position; `parts` follow in order."""

    head: Row
    parts: tuple[Row, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        return (self.head, *self.parts)

    @property
    def version(self) -> str:
        """Changes whenever anything about its rows changes."""
        return f"{zlib.crc32(json.dumps(self.rows, sort_keys=True, default=str).encode()):08x}"


def make_bubbles(rows: Sequence[Row]) -> list[Bubble]:
    """Bubbles in the order of the rows. A part goes with its head if that is among the rows."""
    present = {row["id"]: row for row in rows}
    heads = {row["id"]: _head(row, present) for row in rows}
    parts: dict[int, list[Row]] = {}
    for row in rows:
        if heads[row["id"]] != row["id"]:
            parts.setdefault(heads[row["id"]], []).append(row)
    return [Bubble(head=row, parts=tuple(parts.get(row["id"], ()))) for row in rows if heads[row["id"]] == row["id"]]


def owners(row: Row) -> set[int]:
    """Ids of the messages in whose bubble a row may be."""
    return {row[name] for name in ("album_id", "parent_id") if row.get(name)} - {row["id"]}


def _head(row: Row, present: Mapping[int, Row]) -> int:
    """The id of the row whose bubble contains this one. Parts have no parts, so one step is enough."""
    for owner in (row.get("album_id"), row.get("parent_id")):
        if owner is not None and owner in present and owner != row["id"] and not _is_part(present[owner], present):
            return int(owner)
    return int(row["id"])


def _is_part(row: Row, present: Mapping[int, Row]) -> bool:
    return any(owner in present for owner in owners(row))


def references(rows: Iterable[Row]) -> set[int]:
    """Ids of quoted rows that are missing from `rows`."""
    listed = list(rows)
    here = {row["id"] for row in listed}
    return {row["quoted_id"] for row in listed if row.get("quoted_id")} - here

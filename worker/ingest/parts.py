"""Splits a batch that does not fit into one call. Pure.

Its items (messages and changes) go first, in as many parts as needed; the rest goes last, with the number. The
database's side is supabase/schemas/commit.sql.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from worker.store.rows import Batch, Json, Refused

MAX_PLAIN_CHARS = 256  # WhatsApp's addresses and ids are far shorter
MAX_REPR_CHARS = 100_000  # for an item that cannot be written as JSON
SMALLEST_BYTES = 2_000  # no gateway refuses this for its size
PIECE_BYTES = 500_000
ENVELOPE_BYTES = 600  # overhead of a piece
# Successful parts near a limit before the limit is raised. Grows each time a raise fails: a batch that is too slow
# costs many seconds.
PARTS_TO_GROWTH = 4
PARTS_TO_GROWTH_MAX = 256


@dataclass(frozen=True)
class Item:
    """A message or a change of a batch."""

    kind: Literal["message", "change"]
    value: Json

    @property
    def name(self) -> tuple[str | None, str | None, str | None]:
        """Chat, sender and id."""
        names = ("sender", "wa_msg_id") if self.kind == "message" else ("author", "change_id")
        chat_id, sender, wa_msg_id = (plain(self.value.get(name)) for name in ("chat_id", *names))
        return chat_id, sender, wa_msg_id

    def as_base64(self, code: str = "", reason: str = "", state: str = "refused") -> Refused:
        """The whole item, in a form that every gateway and JSON parser accepts."""
        chat_id, sender, wa_msg_id = self.name
        return Refused.keeping(
            self._text(),
            code=code,
            reason=reason,
            item=self.kind,
            state=state,
            chat_id=chat_id,
            sender=sender,
            wa_msg_id=wa_msg_id,
            sent_at=plain(self.value.get("ts" if self.kind == "message" else "at")),
        )

    def _text(self) -> str:
        try:
            return json.dumps(self.value)
        except (ValueError, RecursionError, TypeError):
            return repr(self.value)[:MAX_REPR_CHARS]


def messages_of(batch: Batch) -> list[Item]:
    return [Item("message", message) for message in batch.messages]


def changes_of(batch: Batch) -> list[Item]:
    return [Item("change", change) for change in batch.changes]


def part_of(batch: Batch, items: Sequence[Item]) -> Batch:
    """A part with only these items, under the batch's number."""
    return replace(
        number_of(batch),
        messages=[item.value for item in items if item.kind == "message"],
        changes=[item.value for item in items if item.kind == "change"],
    )


def number_of(batch: Batch) -> Batch:
    return Batch(fence=batch.fence, epoch=batch.epoch, seq=batch.seq, digest=batch.digest)


def rest_of(batch: Batch) -> Batch:
    """The last part: the batch without its items."""
    return replace(batch, messages=(), changes=())


def digest_of(batch: Batch) -> str:
    """Identifies the batch by the names of its items, its keys and its hashes."""
    names = [[plain(m.get(name)) for name in ("chat_id", "sender", "wa_msg_id")] for m in batch.messages]
    names += [[plain(c.get(name)) for name in ("chat_id", "author", "change_id", "kind")] for c in batch.changes]
    told = repr((names, batch.creds, batch.keys, batch.hashes, sorted(batch.discards.items())))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def size_of(batch: Batch) -> int:
    """Approximate bytes of its body; 0 if it cannot be written as JSON."""
    try:
        return len(json.dumps(batch.as_document(), ensure_ascii=False, separators=(",", ":")).encode())
    except (ValueError, RecursionError, TypeError):
        return 0


def plain(value: object) -> str | None:
    """ASCII without NUL, at most `MAX_PLAIN_CHARS`: safe for any column and any log. None if it is not a string."""
    if not isinstance(value, str):
        return None
    return value.encode("ascii", "ignore").decode().replace("\0", "")[:MAX_PLAIN_CHARS]


class PartSizes:
    """Learns how much fits into one call from failures, and tries larger sizes now and then.

    `bytes` and `items` are the limits; None: no limit known.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self.items: int | None = None
        self._near = 0
        self._parts_to_growth = PARTS_TO_GROWTH
        self._grown = False

    def admits(self, batch: Batch) -> bool:
        if self.items is not None and len(batch.messages) + len(batch.changes) > self.items:
            return False
        return self.bytes is None or size_of(batch) <= self.bytes

    def first(self, batch: Batch, items: Sequence[Item]) -> int:
        """How many of the first `items` fit into one part; at least one."""
        count = min(len(items), self.items or len(items))
        while count > 1 and not self.admits(part_of(batch, items[:count])):
            count //= 2
        return count

    @property
    def piece(self) -> int:
        """Characters of one piece."""
        return max(min(PIECE_BYTES, self.bytes or PIECE_BYTES), SMALLEST_BYTES) - ENVELOPE_BYTES

    def too_large(self, size: int) -> None:
        self.bytes = max(SMALLEST_BYTES, min(size, self.bytes or size) // 2)
        self._shrunk()

    def too_slow(self, items: int) -> None:
        self.items = max(1, min(items, self.items or items) // 2)
        self._shrunk()

    def passed(self, part: Batch) -> None:
        """Note a part that succeeded. After many near a limit, raise the limits."""
        if self.bytes is None and self.items is None:
            return
        items = len(part.messages) + len(part.changes)
        near = self.items is not None and items * 2 > self.items
        self._near += near or (self.bytes is not None and size_of(part) * 2 > self.bytes)
        if self._near >= self._parts_to_growth:
            self._near = 0
            self._grown = True
            self.bytes = None if self.bytes is None else self.bytes * 2
            self.items = None if self.items is None else self.items * 2

    def _shrunk(self) -> None:
        self._near = 0
        if self._grown:
            self._parts_to_growth = min(PARTS_TO_GROWTH_MAX, self._parts_to_growth * 2)
        self._grown = False


def pieces_of(part: Batch, size: int) -> tuple[str, list[str]]:
    """The part as base64 pieces of `size` characters, and a name for this split."""
    body = json.dumps(part.as_document()).encode()
    name = f"{hashlib.sha256(body).hexdigest()} {size}"
    text = base64.b64encode(body).decode()
    return name, [text[at : at + size] for at in range(0, len(text), size)]

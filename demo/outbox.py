"""What was sent from a town's virtual phone and what became of it: waiting, acknowledged, stored.

Read from the phone's receipts and from the worker's tables, so it says what is, not what should be.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from testkit.database import Database
from testkit.phone import PhoneError, Sent, VirtualPhone

LOOKED_FOR = 200  # rows in one query
DISCONNECT_SECONDS = 5.0  # a killed worker's sidecar ends when it finds its stdin closed
CHANGED = "id,edit_msg_id,revoked_at,message_edits(edit_msg_id),message_reactions(wa_msg_id)"

What = Literal["text", "picture", "edit", "reaction", "delete"]
Row = dict[str, Any]


@dataclass(kw_only=True)
class Item:
    """A message that was sent, or a change of one (`of` is its number).

    Attributes:
        row: the id of the message's row, or of the row that the change changed.
        settled: nothing more will become of it.
    """

    number: int
    what: What
    who: str
    group: str
    words: str
    sent: Sent
    of: int | None = None
    receipted: bool = False
    row: int | None = None
    settled: bool = False

    @property
    def is_message(self) -> bool:
        return self.of is None


class Outbox:
    """Everything that one town sent, in order."""

    def __init__(self, phone: VirtualPhone, database: Database) -> None:
        self._phone = phone
        self._database = database
        self._next_receipt = 0
        self._waited: list[Item] | None = None
        self.items: list[Item] = []

    def add(self, what: What, who: str, group: str, words: str, sent: Sent, of: int | None = None) -> int:
        """Note what was sent; returns its number."""
        item = Item(number=len(self.items), what=what, who=who, group=group, words=words, sent=sent, of=of)
        self.items.append(item)
        if sent.queued and self._waited is not None:
            self._waited.append(item)
        return item.number

    def is_deleted(self, item: Item) -> bool:
        return any(other.what == "delete" and other.of == item.number for other in self.items)

    async def begin_absence(self) -> None:
        """The worker is gone: count what waits for the next one, first of all what it had not acknowledged."""
        self._waited = waited = []
        with suppress(PhoneError):  # too late: then what it acknowledges last also counts as having waited
            await self._phone.wait_for("disconnected", DISCONNECT_SECONDS)
        await self._take_receipts()
        waited += [item for item in self.items if not item.receipted and item not in waited]

    def absence(self) -> Row | None:
        """How many waited since the worker last ended, how many of them came, and how many are stored."""
        if self._waited is None:
            return None
        came = [item for item in self._waited if item.receipted]
        stored = sum(item.row is not None for item in came)
        return {"waited": len(self._waited), "came": len(came), "stored": stored}

    async def update(self) -> None:
        """Find out what became of everything."""
        await self._take_receipts()
        await self._find_messages()
        await self._find_changes()

    async def _take_receipts(self) -> None:
        answer = await self._phone.get("/receipts", since=self._next_receipt)
        self._next_receipt = int(answer["next"])
        there = {each["id"] for each in answer["items"] if each["kind"] == "receipt"}
        for item in self.items:
            item.receipted = item.receipted or item.sent.id in there

    async def _find_messages(self) -> None:
        """Queried after the receipts: what is acknowledged already has its row, or never gets one."""
        wanted = {item.sent.id: item for item in self.items if item.is_message and not item.settled}
        asked = list(wanted)[:LOOKED_FOR]
        for row in await self._rows("id,wa_msg_id", "wa_msg_id", asked):
            wanted[row["wa_msg_id"]].row = row["id"]
        for item in (wanted[each] for each in asked):
            item.settled = item.row is not None or item.receipted

    async def _find_changes(self) -> None:
        """A change of a message that is not stored is acknowledged, and comes to nothing."""
        wanted = [item for item in self.items if item.of is not None and item.receipted and not item.settled]
        targets = {item.number: self.items[item.of].row for item in wanted if item.of is not None}
        found = {row["id"]: row for row in await self._rows(CHANGED, "id", list({*targets.values()} - {None}))}
        for item in wanted:
            target = targets[item.number]
            if target is None:
                item.settled = self.items[item.of or 0].settled
            elif target in found and self._shows(found[target], item):
                item.row, item.settled = target, True

    def _shows(self, row: Row, change: Item) -> bool:
        """Whether the message's row shows this change, or a later one of its kind that replaced it."""
        if change.what == "delete":
            return row["revoked_at"] is not None
        if change.what == "edit":
            written = {row["edit_msg_id"], *(each["edit_msg_id"] for each in row["message_edits"])}
            return change.sent.id in written
        same = [item for item in self.items[change.number :] if item.what == change.what and item.of == change.of]
        return not {item.sent.id for item in same}.isdisjoint(each["wa_msg_id"] for each in row["message_reactions"])

    async def _rows(self, columns: str, column: str, values: Iterable[Any]) -> list[Row]:
        asked = list(values)[:LOOKED_FOR]
        if not asked:
            return []
        query = self._database.client.table("messages").select(columns).eq("session_id", self._database.session)
        found: list[Row] = (await query.in_(column, asked).execute()).data  # type: ignore[assignment]
        return found

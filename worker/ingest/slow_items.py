"""Records which parts of batches timed out while the cheapest call succeeded. Pure.

Remembered across connections: a time-out takes seconds, WhatsApp drops a client that is silent for half a minute, and
the next connection brings the same item again in another batch. A restart forgets it, which only costs time.
"""

from __future__ import annotations

from worker.ingest.parts import Item
from worker.store import Batch

TIMEOUTS_BELIEVED = 2
REMEMBERED_MAX = 1_000  # names; drops the oldest beyond that

Name = tuple[str, str | None, str | None, str | None, bool]
SEVERAL: Name = ("several", None, None, None, False)


class SlowItems:
    """Counts time-outs: of each item alone (plain and as base64), and of parts with several items."""

    def __init__(self) -> None:
        self._timeouts: dict[Name, int] = {}

    def timed_out(self, part: Batch) -> int:
        """Count a time-out of this part. Returns the total."""
        name = _name_of(part)
        if name is None:
            return 1
        self._timeouts[name] = self._timeouts.pop(name, 0) + 1
        if len(self._timeouts) > REMEMBERED_MAX:
            del self._timeouts[next(iter(self._timeouts))]
        return self._timeouts[name]

    def passed(self, part: Batch) -> None:
        """Forget the time-outs of such a part."""
        name = _name_of(part)
        if name is not None:
            self._timeouts.pop(name, None)

    def as_it_is(self, item: Item) -> bool:
        """Whether the item is too slow in plain form."""
        return self._timeouts.get(_name(item, base64=False), 0) >= TIMEOUTS_BELIEVED

    def as_base64(self, item: Item) -> bool:
        """Whether the item is too slow as base64 too."""
        return self._timeouts.get(_name(item, base64=True), 0) >= TIMEOUTS_BELIEVED

    def forget(self, item: Item) -> None:
        for base64 in (False, True):
            self._timeouts.pop(_name(item, base64=base64), None)

    def forget_several(self) -> None:
        """Forget the time-outs of larger parts: smaller ones come next."""
        self._timeouts.pop(SEVERAL, None)


def _name_of(part: Batch) -> Name | None:
    """None: the part has no items."""
    items = [Item("message", value) for value in part.messages] + [Item("change", value) for value in part.changes]
    if len(items) + len(part.opaque) > 1:
        return SEVERAL
    if items:
        return _name(items[0], base64=False)
    return next(((sent.item, sent.chat_id, sent.sender, sent.wa_msg_id, True) for sent in part.opaque), None)


def _name(item: Item, *, base64: bool) -> Name:
    return item.kind, *item.name, base64

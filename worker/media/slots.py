"""How many files a process works on at once, over all its sessions: one session's burst leaves room for the others."""

from __future__ import annotations

from collections.abc import Callable


class Slots:
    """A session gets a first slot as long as one is free, and more only while more than half of them are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = most
        self._turned_away: dict[Callable[[], None], None] = {}  # in their order

    def room(self, running: int) -> int:
        """How many a session may take now that has so many `running`."""
        first = 1 if self._free and not running else 0
        return max(first, self._free - self._most // 2)

    def take(self, count: int) -> None:
        self._free -= count

    def give(self, count: int) -> None:
        """Slots that are free again; as many of those that were turned away are told."""
        self._free += count
        for tell in list(self._turned_away)[:count]:
            del self._turned_away[tell]
            tell()

    def tell_later(self, tell: Callable[[], None]) -> None:
        """A session got less than it had use for: call `tell`, once, when a slot is free again."""
        self._turned_away[tell] = None

    def forget(self, tell: Callable[[], None]) -> None:
        self._turned_away.pop(tell, None)

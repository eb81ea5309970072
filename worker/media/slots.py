"""Limits the files that a process transfers at once. Shared so that one session's burst leaves room for others."""

from __future__ import annotations

from collections.abc import Callable


class Slots:
    """A session gets its first slot if one is free, and more only while more than half of them are free."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = most
        self._turned_away: dict[Callable[[], None], None] = {}  # in order

    def room(self, running: int) -> int:
        """How many slots a session with `running` transfers may take now."""
        first = 1 if self._free and not running else 0
        return max(first, self._free - self._most // 2)

    def take(self, count: int) -> None:
        self._free -= count

    def give(self, count: int) -> None:
        """Free slots, and notify as many waiting sessions."""
        self._free += count
        for tell in list(self._turned_away)[:count]:
            del self._turned_away[tell]
            tell()

    def tell_later(self, tell: Callable[[], None]) -> None:
        """A session got fewer slots than it needs: call `tell` once when a slot is free."""
        self._turned_away[tell] = None

    def forget(self, tell: Callable[[], None]) -> None:
        self._turned_away.pop(tell, None)

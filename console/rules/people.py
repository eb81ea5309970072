"""Names and colours of people: always gives some name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.text import is_visible

COLOURS = 8  # classes c0 to c7 of the style sheet
NUMBER_SERVER = "s.whatsapp.net"


def colour(address: str) -> int:
    """A colour class that is the same everywhere for one person."""
    return zlib.crc32(address.encode("utf-8", "replace")) % COLOURS


def number_of(address: str) -> str | None:
    """`+491511234567` for a phone number's address; None for others."""
    user, _, server = address.partition("@")
    return f"+{user}" if server == NUMBER_SERVER and user.isdigit() else None


@dataclass
class Names:
    """Names by address, learned from the page's rows."""

    by_address: dict[str, str] = field(default_factory=dict)
    alternatives: dict[str, str] = field(default_factory=dict)

    def learn(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Learn from `sender`, `sender_alt` and `push_name` of rows, newest last."""
        for row in rows:
            sender, other, name = row.get("sender"), row.get("sender_alt"), row.get("push_name")
            if sender and other:
                self.alternatives[sender] = other
                self.alternatives[other] = sender
            for address in (sender, other):
                if address and name and is_visible(str(name)):
                    self.by_address[address] = str(name)

    def missing(self, addresses: Iterable[str | None]) -> set[str]:
        return {address for address in addresses if address and address not in self.by_address}

    def of(self, address: str | None) -> str:
        """The person's name, else number, else the end of the address."""
        if not address:
            return "?"
        if name := self.by_address.get(address):
            return name
        if number := number_of(address) or number_of(self.alternatives.get(address, "")):
            return number
        return f"~{address.partition('@')[0][-4:]}"

    def mentioned(self, digits: str) -> str | None:
        """The name for `@digits` in a text, by LID or number."""
        for server in ("lid", NUMBER_SERVER):
            if (address := f"{digits}@{server}") in self.by_address:
                return self.by_address[address]
        return None

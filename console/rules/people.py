"""How a person is called and coloured: always a name, whatever is known."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

COLOURS = 8  # classes c0 to c7 of the style sheet
NUMBER_SERVER = "s.whatsapp.net"


def colour(address: str) -> int:
    """The same for one person everywhere."""
    return zlib.crc32(address.encode("utf-8", "replace")) % COLOURS


def number_of(address: str) -> str | None:
    """`+491511234567` of an address that is a phone number's."""
    user, _, server = address.partition("@")
    return f"+{user}" if server == NUMBER_SERVER and user.isdigit() else None


@dataclass
class Names:
    """Names by address, as far as the page's rows tell; grows as rows are added."""

    by_address: dict[str, str] = field(default_factory=dict)
    alternatives: dict[str, str] = field(default_factory=dict)

    def learn(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """From `sender`, `sender_alt` and `push_name`, newest last."""
        for row in rows:
            sender, other, name = row.get("sender"), row.get("sender_alt"), row.get("push_name")
            if sender and other:
                self.alternatives[sender] = other
                self.alternatives[other] = sender
            for address in (sender, other):
                if address and name:
                    self.by_address[address] = str(name)

    def missing(self, addresses: Iterable[str | None]) -> set[str]:
        return {address for address in addresses if address and address not in self.by_address}

    def of(self, address: str | None) -> str:
        """A name, else a number, else the end of the address."""
        if not address:
            return "?"
        if name := self.by_address.get(address):
            return name
        if number := number_of(address) or number_of(self.alternatives.get(address, "")):
            return number
        return f"~{address.partition('@')[0][-4:]}"

    def mentioned(self, digits: str) -> str | None:
        """The name behind `@digits` in a text, by LID or by number."""
        for server in ("lid", NUMBER_SERVER):
            if (address := f"{digits}@{server}") in self.by_address:
                return self.by_address[address]
        return None

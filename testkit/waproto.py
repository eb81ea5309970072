"""WAProto's own descriptor, as Baileys ships it: messages, their fields, enums. Parsed from the .proto text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PROTO = Path(__file__).parents[1] / "node_modules" / "baileys" / "WAProto" / "WAProto.proto"

_TOKENS = re.compile(
    r"(?P<open>(?P<what>message|enum|oneof)\s+(?P<name>\w+)\s*\{)"
    r"|(?P<close>\})"
    r"|(?:(?P<label>optional|repeated|required)\s+)?(?P<type>map<[^>]*>|[\w.]+)\s+(?P<field>\w+)\s*=\s*\d+\s*(?:\[[^\]]*\])?;"
    r"|(?P<value>\w+)\s*=\s*(?P<number>-?\d+)\s*(?:\[[^\]]*\])?;"
)


@dataclass(frozen=True)
class Field:
    name: str
    type: str
    repeated: bool


@dataclass
class Message:
    """A message type; names are full, like `Message.ImageMessage`."""

    name: str
    fields: dict[str, Field] = field(default_factory=dict)


@dataclass
class Descriptor:
    messages: dict[str, Message] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)

    def resolve(self, type_: str, scope: str) -> str | None:
        """The full name of a type named inside `scope`, or None for a scalar."""
        while True:
            full = f"{scope}.{type_}" if scope else type_
            if full in self.messages or full in self.enums:
                return full
            if not scope:
                return None
            scope = scope.rpartition(".")[0]


@cache
def descriptor() -> Descriptor:
    found = Descriptor()
    stack: list[tuple[str, str]] = []  # (what, full name of the surrounding message or enum)
    for token in _TOKENS.finditer(PROTO.read_text()):
        scope = stack[-1][1] if stack else ""
        if token["open"]:
            name = scope if token["what"] == "oneof" else f"{scope}.{token['name']}".lstrip(".")
            stack.append((token["what"], name))
            if token["what"] == "message":
                found.messages[name] = Message(name)
            elif token["what"] == "enum":
                found.enums[name] = {}
        elif token["close"]:
            stack.pop()
        elif token["field"]:
            found.messages[scope].fields[token["field"]] = Field(
                token["field"], token["type"], token["label"] == "repeated"
            )
        else:
            found.enums[scope][token["value"]] = int(token["number"])
    return found

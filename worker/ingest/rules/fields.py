"""Reads typed values from untrusted protobuf JSON. Drops values of a wrong type or out of range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from worker.ingest.rules.live import iso

Facts = dict[str, Any]
Reader = Callable[[object], Any]

MAX_ENTRIES = 256  # cards, options, lines, buttons, rows: WhatsApp sends 100 cards and 12 options at most
MAX_CHARS = 4096  # of one string
LAST_SECOND = 4_102_444_800  # the year 2100


# Readers for values


def as_text(value: object) -> str | None:
    return value[:MAX_CHARS] if isinstance(value, str) and value else None


def as_number(value: object) -> float | int | None:
    """A protobuf JSON number: 64-bit ones are strings (docs/whatsapp.md, "Shapes")."""
    if isinstance(value, str) and len(value) <= 20 and value.removeprefix("-").isdigit() and value.isascii():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if abs(value) < 2**53 else None


def as_flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def as_thousandth(value: object) -> float | None:
    number = as_number(value)
    return None if number is None else number / 1000


def as_time(value: object) -> str | None:
    """Seconds since 1970; some clients write milliseconds."""
    number = as_number(value)
    if number is not None and number > LAST_SECOND:
        number /= 1000
    return iso(number) if number is not None and 0 < number < LAST_SECOND else None


def within(most: float) -> Reader:
    def read(value: object) -> float | None:
        number = as_number(value)
        return float(number) if number is not None and abs(number) <= most else None

    return read


def as_enum(value: object) -> str | None:
    return value.lower()[:64] if isinstance(value, str) and value.isidentifier() else None


# Paths to values


def at(value: object, path: str) -> object:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def take(body: object, **wanted: tuple[str, Reader]) -> Facts:
    """The facts that are present. `wanted`: name = (path, reader)."""
    read = {name: reader(at(body, path)) for name, (path, reader) in wanted.items()}
    return {name: value for name, value in read.items() if value is not None}


def each(body: object, path: str, **wanted: tuple[str, Reader]) -> list[Facts]:
    return [facts for item in items(body, path) if (facts := take(item, **wanted))]


def items(body: object, path: str) -> list[Any]:
    value = at(body, path)
    return value[:MAX_ENTRIES] if isinstance(value, list) else []


def some(name: str, values: list[Any]) -> Facts:
    return {name: values} if values else {}

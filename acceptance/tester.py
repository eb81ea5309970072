"""The person who holds the phone, as an interface: gets instructions, answers questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal, Protocol

TaskName = Literal[
    "text", "text_photo", "photo", "forward", "large", "unmonitored", "backlog", "live", "status", "hold", "after"
]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A group of the account."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to do on the phone. `say` tells it to a person; the other fields are the same, for a program."""

    name: TaskName
    say: str
    group: Place  # monitored
    other: Place  # not monitored
    words: tuple[str, ...]  # texts to write, exactly
    limit_mb: int
    seconds: float
    count: int = 0  # of messages to send


class Choice(Enum):
    REPEAT = auto()
    SKIP = auto()
    DONE = auto()  # of what nobody else can see


class Tester(Protocol):
    """A person at a terminal, or a script."""

    async def scan(self, qr: str) -> None:
        """Show this code to be scanned. Called again for each new one until the account is linked."""

    async def choose_group(self, question: str, groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One of these rows of `groups`."""

    async def perform(self, task: Task) -> Choice | None:
        """Do it, or have it done. None: it is done, go on looking. Cancelled as soon as the outcome is known."""

    async def number(self, question: str) -> str | None:
        """A phone number in digits, with its country code; None if it is not to be done."""

    async def type_code(self, code: str) -> None:
        """Show this code, to be typed on the phone. Called again for each new one until the account is linked."""

    async def agrees(self, question: str) -> bool:
        """Yes or no; no if nobody answers."""

"""Current and former members of a group, for pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from console.context import PageContext
from console.database import Row
from console.rules.people import Names, number_of


@dataclass(frozen=True, kw_only=True)
class Member:
    address: str
    name: str
    number: str | None  # if the name is not the number already
    role: str
    joined_at: str | None
    left_at: str | None


@dataclass(frozen=True, kw_only=True)
class People:
    """Some members of a group, and the counts of current and former ones. `as_of`: last update; None: never."""

    present: int
    left: int
    as_of: datetime | None
    members: Sequence[Member]


async def members_of(context: PageContext, group: int, limit: int, offset: int = 0) -> People:
    found = await context.database.ask(lambda store: store.console.members(context.session, group, limit, offset))
    members = [_member(row) for row in found.members]
    return People(present=found.present, left=found.left, as_of=found.as_of, members=members)


def _member(row: Row) -> Member:
    address, number = row["member"], row["number"]
    names = Names()
    names.learn([{"sender": address, "sender_alt": number, "push_name": row["push_name"]}])
    name, shown = names.of(address), number_of(number or address)
    times = {"joined_at": row["joined_at"], "left_at": row["left_at"]}
    return Member(address=address, name=name, number=None if shown == name else shown, role=row["role"], **times)

"""What coverage claims, against what was sent: while the run goes on, and at its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
from postgrest.exceptions import APIError

from testkit.database import Database, parse_time
from testkit.waiting import TookTooLong, until
from tests.chaos.ledger import Entry, Identity, Ledger

Row = dict[str, Any]

LOOK_SECONDS = 2.0
LOOK_SECONDS_SABOTAGED = 0.2  # a worker that was killed is back after a second or two
MARKED_SECONDS = 30.0
PAGE = 1000
DROPPED = ("too_old", "waited_too_long")
ONE_BY_ONE = {"refused": "refused", "waiting": "refused", "undecryptable": "stubs", "lost": "stubs"}


class Witness:
    """Reads the high-water mark, then the messages: what was sent before the mark and is not there is `broken`."""

    def __init__(self, database: Database, ledger: Ledger, every_seconds: float = LOOK_SECONDS) -> None:
        self._database = database
        self._ledger = ledger
        self._every_seconds = every_seconds
        self._seen = 0  # entries of the ledger that were found
        self.looks = 0
        self.broken: list[str] = []

    async def run(self) -> None:
        while True:
            await anyio.sleep(self._every_seconds)
            try:
                await self._look()
            except (httpx.HTTPError, APIError, OSError):  # it is being killed: look later
                continue

    async def marked(self, seconds: float) -> None:
        """Wait for the first mark."""
        await self._database.until("a high-water mark", self._mark, seconds=seconds)

    async def _mark(self) -> float | None:
        row = await self._database.session_row()
        told = row["complete_to"] if row else None
        return parse_time(told).timestamp() if told else None

    async def _look(self) -> None:
        mark = await self._mark()
        if mark is None:
            return
        fresh = self._ledger.entries[self._seen :]
        # An old one is on its way long after the time that it tells.
        count = next((n for n, entry in enumerate(fresh) if max(entry.sent[1], entry.written) > mark), len(fresh))
        due = [entry for entry in fresh[:count] if entry.monitored]
        if due:
            there = await self._stored_since(min(entry.sent[0] for entry in due) - 2)
            self.broken += [
                f"{entry.id} of {entry.person} ({entry.kind}) was sent {mark - entry.sent[1]:.1f} s before the mark, "
                "and is neither stored nor in a gap"
                for entry in due
                if identity_of(entry) not in there and not await self._in_a_gap(entry)
            ]
        self._seen += count
        self.looks += bool(due)

    async def _stored_since(self, seconds: float) -> set[Identity]:
        found: set[Identity] = set()
        since, after = datetime.fromtimestamp(seconds, UTC).isoformat(), 0
        while True:
            query = self._database.client.table("messages").select("id,chat_id,sender,wa_msg_id").gte("ts", since)
            page: Any = (await query.gt("id", after).order("id").limit(PAGE).execute()).data
            found |= {self._ledger.identity(row["chat_id"], row["sender"], row["wa_msg_id"]) for row in page}
            if len(page) < PAGE:
                return found
            after = page[-1]["id"]

    async def _in_a_gap(self, entry: Entry) -> bool:
        return entry.chat is not None and lies_in(entry, (await read(self._database, entry.chat))["gaps"])


async def read(database: Database, chat: str) -> Row:
    """The coverage of one group, with all of its gaps."""
    args = {"p_session": database.session, "p_group": chat, "p_limit": 1_000_000}
    answer: Any = (await database.client.rpc("coverage", args).execute()).data
    return dict(answer)


async def read_settled(database: Database, chats: Sequence[str]) -> dict[str, Row]:
    """The coverage of the groups, once none has an open gap; as it is, if that takes too long."""

    async def probe() -> bool:
        answers = [await read(database, chat) for chat in chats]
        return all(gap["to"] is not None for answer in answers for gap in answer["gaps"])

    with suppress(TookTooLong):
        await until("the mark to pass over what had waited", probe, seconds=MARKED_SECONDS)
    return {chat: await read(database, chat) for chat in chats}


def lies_in(entry: Entry, gaps: Sequence[Row]) -> bool:
    """Whether one of the gaps has the times at which this was sent."""
    first, last = math.floor(entry.sent[0]), entry.sent[1]
    return any(
        (gap["from"] is None or parse_time(gap["from"]).timestamp() <= last)
        and (gap["to"] is None or parse_time(gap["to"]).timestamp() >= first)
        for gap in gaps
    )


def identity_of(entry: Entry) -> Identity:
    return entry.chat or "", entry.person, entry.id


def violations(
    coverage: Mapping[str, Row],
    expected: Mapping[Identity, Entry],
    readable: set[Identity],
    others: Mapping[str, Counter[str]],
) -> Iterator[str]:
    """What was sent and cannot be read lies in a gap; each gap holds what it says; there is no other.

    `readable`: identities of stored messages with their content. `others`: chat → what is stored as `refused` and as
    `stubs`, counted.
    """
    missing = [entry for identity, entry in expected.items() if identity not in readable]
    for entry in missing:
        if entry.chat is not None and not lies_in(entry, coverage[entry.chat]["gaps"]):
            yield f"{entry.id} of {entry.person} ({entry.kind}) is not stored, and lies in no gap of its group"
    for chat, answer in coverage.items():
        yield from _needless(chat, answer["gaps"], [entry for entry in missing if entry.chat == chat], others[chat])


def _needless(chat: str, gaps: Sequence[Row], missing: Sequence[Entry], others: Counter[str]) -> Iterator[str]:
    """Gaps that nothing accounts for."""
    reasons = Counter(gap["reason"] for gap in gaps)
    if reasons["not_monitored"] != 1 or any(gap["reason"] == "not_monitored" and gap["from"] for gap in gaps):
        yield f"{chat} was switched on once, and has {reasons['not_monitored']} gaps because it was not"
    for gap in gaps:
        if gap["to"] is None:
            yield f"{chat} has a gap that goes on, though all is settled: {gap}"
        if gap["reason"] in DROPPED and not any(lies_in(entry, [gap]) for entry in missing):
            yield f"{chat} has a gap in which nothing is missing: {gap}"
        if gap["reason"] not in (*DROPPED, *ONE_BY_ONE, "not_monitored"):
            yield f"{chat} has a gap that nothing in this run accounts for: {gap}"
    dropped = sum(gap["count"] for gap in gaps if gap["reason"] in DROPPED)
    old = sum(entry.old for entry in missing)
    if dropped < old:
        yield f"{chat}: {old} messages were dropped, its gaps count {dropped}"
    for kind in ("refused", "stubs"):
        told = sum(reasons[reason] for reason, of in ONE_BY_ONE.items() if of == kind)
        if told != others[kind]:
            yield f"{chat}: {others[kind]} {kind} in the table, {told} gaps because of them"

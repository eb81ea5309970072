"""One account of a fleet: its phone, its session's row, what was sent to its group, and the promise for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from testkit.database import Database
from testkit.phone import Group, Media, PhoneError, Sent, VirtualPhone
from tests.chaos import checks
from tests.chaos.checks import Evidence, Violation
from tests.chaos.ledger import Entry, Ledger

WRITERS = ("Ana", "Ben")
LINKED_SECONDS = 240.0
SETTLED_SECONDS = 120.0


@dataclass(kw_only=True)
class Account:
    phone: VirtualPhone
    database: Database
    group: Group
    ledger: Ledger

    @property
    def session(self) -> str:
        return self.database.session

    async def link(self) -> None:
        await self.phone.scan(await self.database.wait_qr(seconds=LINKED_SECONDS))
        await self.database.wait_status("connected", seconds=LINKED_SECONDS)
        await self.database.wait_groups([self.group.id], seconds=LINKED_SECONDS)
        await self.database.monitor([self.group.id])
        await self.database.fetch_groups(seconds=LINKED_SECONDS)

    async def say(self, writer: str, text: str, media: Media | None = None) -> Sent:
        begun = time.time()
        sent = await self.phone.send(writer, self.group.id, None if media else text, media=media)
        self._note(sent.id, writer, None if media else text, begun)
        return sent

    async def burst(self, count: int, text: str) -> list[str]:
        """So many messages at once; their ids."""
        begun = time.time()
        answer = await self.phone.burst(WRITERS, [self.group.id], count, text_prefix=text)
        for item in answer["items"]:
            self._note(item["id"], self.ledger.name(item["participant"]), item["text"], begun)
        return [item["id"] for item in answer["items"]]

    def _note(self, id_: str, person: str, text: str | None, begun: float) -> None:
        entry = Entry(
            id=id_, person=person, chat=self.group.id, text=text, monitored=True, kind="text", phase="wide",
            sent=(begun, time.time()),
        )  # fmt: skip
        self.ledger.add(entry)

    async def check(self, seconds: float = SETTLED_SECONDS) -> list[Violation]:
        """The promise, for this account. `seconds`: for what is still on its way."""
        unsettled = []
        ids = [entry.id for entry in self.ledger.entries]
        try:
            await self.phone.wait_receipts(ids, seconds=seconds)
        except PhoneError as late:
            unsettled.append(str(late))
        evidence = Evidence(
            ledger=self.ledger,
            receipts=await self.phone.receipts(),
            messages=await self.database.messages(),
            others={"wa_refused_stanzas": await self.database.rows("wa_refused_stanzas", session_id=self.session)},
            unsettled=unsettled,
            media=[], objects={}, discards={}, commits=[], known=[], leases=[], leaks=[], leaked_files=[],
            peak_bytes={}, coverage={}, unmarked=[],
        )  # fmt: skip
        found = [
            (check.__name__, f"{self.session}: {text}")
            for check in (checks.settled, checks.stored, checks.once, checks.intact, checks.readable)
            for text in check(evidence)
        ]
        missing = len(set(evidence.ledger.stored(["wide"])) - set(evidence.rows()))
        return found + ([("stored", f"{self.session}: {missing} messages are missing")] if missing else [])

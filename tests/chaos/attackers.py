"""Strangers, and a member, with modified clients: beside the other faults, and once against the clock.

What they send is in no promise, what members send meanwhile is. Repeatable from the seed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random
from typing import Any

from testkit.phone import Group, VirtualPhone
from tests.chaos.ledger import FORBIDDEN, Entry, Ledger
from tests.chaos.traffic import WRITERS, Traffic

Json = dict[str, Any]

MALLORY = "Mallory"
SESSIONS = 41  # libsignal keeps so many of one device
FORGED = 20
FAR = {"counter": 1999, "previous_counter": 1999}  # keys that are derived before the MAC can be checked
GARBAGE = 30
STRANGERS = 50
FLOOD = 300
REVOKES = 30
RECENT = 500
CROWD = 500


class Attackers:
    """Each method is one attack and returns the ids of what was sent."""

    def __init__(self, phone: VirtualPhone, ledger: Ledger, traffic: Traffic, seed: object) -> None:
        self._phone = phone
        self._ledger = ledger
        self._traffic = traffic
        self._random = Random(f"{seed}:attackers")  # noqa: S311 - repeatable on purpose
        self._fair: Group | None = None
        self._crowds = 0
        self.sent: set[str] = set()

    async def found(self) -> None:
        """Their group, in which members write as well, before anything is said."""
        self._ledger.know(await self._phone.person(MALLORY))
        self._ledger.attackers.add(MALLORY)
        self._fair = await self._phone.group("Fair", [*WRITERS, MALLORY], "lid")
        self._ledger.groups[self._fair.id] = self._fair
        self._ledger.monitored.add(self._fair.id)

    async def answered(self, ids: Sequence[str]) -> bool:
        """Whether the server has an answer to any of these."""
        return any(item["id"] in ids for item in await self._phone.receipts())

    async def unanswered(self) -> set[str]:
        return self.sent - {item["id"] for item in await self._phone.receipts()}

    async def forge(self) -> Sequence[str]:
        """Many sessions of one device, then messages that each of them would have to be tried for."""
        direct = {"from": MALLORY, "to": "direct"}
        sessions = [direct | {"text": f"{FORBIDDEN} {n}", "fault": {"new_session": True}} for n in range(SESSIONS)]
        forged = [direct | {"text": FORBIDDEN, "fault": {"forged": FAR, "never": True}} for _ in range(FORGED)]
        return await self._send([*sessions, *forged])

    async def garbage(self) -> Sequence[str]:
        """Random bytes in a monitored group: each is a stub, and is asked for."""
        assert self._fair is not None
        fault = {"fault": {"garbage": self._random.randint(1, 200), "never": True}}
        begun = time.time()
        ids = await self._send([{"from": MALLORY, "to": self._fair.id, "text": ""} | fault for _ in range(GARBAGE)])
        for id_ in ids:
            self._ledger.add(
                Entry(
                    id=id_,
                    person=MALLORY,
                    chat=self._fair.id,
                    text=None,
                    monitored=True,
                    good=False,
                    kind="garbage",
                    phase=self._ledger.phase,
                    sent=(begun, time.time()),
                )
            )
        return ids

    async def flood(self) -> Sequence[str]:
        """Direct messages of many strangers that no key opens."""
        fault = {"to": "direct", "text": FORBIDDEN, "fault": {"garbage": 80, "never": True}}
        return await self._send([fault | {"from": f"Stranger {n % STRANGERS}"} for n in range(FLOOD)])

    async def revoke(self) -> Sequence[str]:
        """What members wrote is taken back by somebody who may not, as a sender and as an admin would."""
        theirs = [
            entry for entry in self._ledger.entries[-RECENT:] if entry.monitored and entry.kind in ("text", "burst")
        ]
        ids: list[str] = []
        for entry in self._random.sample(theirs, min(REVOKES, len(theirs))):
            body = {"from": MALLORY, "to": entry.chat, "id": entry.id, "edit": self._random.choice("78")}
            ids.append((await self._phone.post("/revoke", body))["id"])
        self.sent.update(ids)
        return ids

    async def crowd(self) -> Sequence[str]:
        """Five hundred people join, and their first messages arrive together. They are in the promise."""
        assert self._fair is not None
        self._crowds += 1
        names = [f"Visitor {self._crowds}.{n}" for n in range(CROWD)]
        await self._phone.post("/groups/add", {"id": self._fair.id, "participants": names})
        for name in names:
            self._ledger.know(await self._phone.person(name))
        return await self._traffic.all_at_once(names, self._fair)

    async def _send(self, items: Sequence[Json]) -> list[str]:
        ids = [answer["id"] for answer in (await self._phone.post("/send_many", {"items": list(items)}))["items"]]
        self.sent.update(ids)
        return ids

"""The scenario of seeds/: reads it, sets it up on the virtual phone, and sends it message by message.

Knows nothing of the worker or the database; the expected result is in `check.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from testkit.phone import Group, Media, Person, Sent, VirtualPhone
from worker.installation import DATA

SEEDS = DATA / "seeds"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One message to send. `to` is a group's key or `owner`; `sender` a person's key or `owner`."""

    id: str
    sender: str
    to: str
    text: str | None
    media: str | None
    caption: str | None

    @property
    def content(self) -> str:
        """The message as a person would see it, in one line."""
        words = self.text or self.caption
        shown = " ".join(words.split()) if words else ""
        return f"[{self.media}] {shown}".rstrip() if self.media else shown


@dataclass(frozen=True, kw_only=True)
class ExpectedMessage:
    id: str
    group: str
    sender: str
    kind: str
    text: str | None
    media: str | None
    parent: str | None


@dataclass(frozen=True, kw_only=True)
class ExpectedFile:
    file: str
    sha256: str
    bytes: int
    mime: str
    extension: str
    width: int | None
    height: int | None
    seconds: int | None

    @property
    def path(self) -> str:
        """The path of the object in the bucket (docs/contract.md §7)."""
        return f"{self.sha256}/original.{self.extension}"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    people: dict[str, str]
    groups: dict[str, dict[str, Any]]
    steps: list[Step]
    files: dict[str, dict[str, Any]]
    messages: list[ExpectedMessage]
    media: list[ExpectedFile]
    rows_per_group: dict[str, int]
    nowhere: list[str]
    folder: Path = field(default=SEEDS)

    @cached_property
    def step(self) -> dict[str, Step]:
        return {step.id: step for step in self.steps}

    @property
    def monitored(self) -> list[str]:
        """Keys of the groups that are switched on."""
        return [key for key, group in self.groups.items() if group["monitored"]]

    def data(self, file: str) -> bytes:
        return (self.folder / "media" / file).read_bytes()

    def nowhere_bytes(self) -> dict[str, bytes]:
        """What must not be on any disk: the texts and files of unmonitored chats."""
        found = {}
        for step in (self.step[id] for id in self.nowhere):
            found[step.id] = self.data(step.media) if step.media else (step.text or "").encode()
        return found


def load(folder: Path = SEEDS) -> Scenario:
    """Read `scenario.json` of this folder."""
    given = json.loads((folder / "scenario.json").read_text())
    expected = given["expected"]
    return Scenario(
        people=given["people"],
        groups=given["groups"],
        steps=[
            Step(
                id=each["id"],
                sender=each["from"],
                to=each["to"],
                text=each.get("text"),
                media=each.get("media"),
                caption=each.get("caption"),
            )
            for each in given["messages"]
        ],
        files=given["files"],
        messages=[ExpectedMessage(**each) for each in expected["messages"]],
        media=[ExpectedFile(**each) for each in expected["media"]],
        rows_per_group=expected["rows_per_group"],
        nowhere=expected["nowhere"],
        folder=folder,
    )


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The scenario's people and groups as the virtual phone knows them, by the scenario's keys."""

    scenario: Scenario
    phone: VirtualPhone
    people: dict[str, Person]
    groups: dict[str, Group]

    async def send(self, step: Step) -> Sent:
        """Send one message of the scenario."""
        owner_writes = step.sender == "owner"
        sender = "me" if owner_writes else self.people[step.sender].name
        to = "direct" if step.to == "owner" else self.groups[step.to].id
        media = self._media(step) if step.media else None
        return await self.phone.send(sender, to, step.text, media=media)

    def _media(self, step: Step) -> Media:
        assert step.media is not None
        described = self.scenario.files[step.media]
        return Media(data=self.scenario.data(step.media), caption=step.caption, **described)


async def introduce(phone: VirtualPhone, scenario: Scenario) -> Cast:
    """Create the scenario's people and groups on the virtual phone, before or after pairing."""
    people = {key: await phone.person(name) for key, name in scenario.people.items()}
    groups = {}
    for key, group in scenario.groups.items():
        members = [people[member].name for member in group["participants"]]
        groups[key] = await phone.group(group["subject"], members, group["addressing_mode"])
    people["owner"] = await phone.owner()
    return Cast(scenario=scenario, phone=phone, people=people, groups=groups)

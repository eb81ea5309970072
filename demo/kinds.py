"""Sends one message of every kind (seeds/kinds.json) with the virtual phone, and compares the resulting rows.

Knows the phone and the tables; shares no code with the worker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from demo.scenario import SEEDS
from testkit.phone import Group, Person, Sent, VirtualPhone

Row = dict[str, Any]

MAX_SHOWN = 60  # characters of a value in a difference


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Columns of one row. `file`: of seeds/media, None: `media_id` is null. `content` None: not compared."""

    kind: str
    text: str | None = None
    file: str | None = None
    file_name: str | None = None
    media_status: str | None = None
    content: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """One message: the body of the virtual phone's /send, with placeholders, and the row that it must become."""

    id: str
    sender: str
    send: Mapping[str, Any]
    expect: Expected


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file's row in `media`."""

    sha256: str
    bytes: int
    mime: str
    extension: str

    @property
    def path(self) -> str:
        return f"{self.sha256}/original.{self.extension}"


@dataclass(frozen=True, kw_only=True)
class Kinds:
    people: Mapping[str, str]
    group: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    stored: Mapping[str, Stored]
    examples: Sequence[Example]
    folder: Path


def load_kinds(folder: Path = SEEDS) -> Kinds:
    """Read `kinds.json` of this folder."""
    given = json.loads((folder / "kinds.json").read_text())
    return Kinds(
        people=given["people"],
        group=given["group"],
        files=given["files"],
        stored={name: Stored(**file) for name, file in given["stored"].items()},
        examples=[
            Example(id=each["id"], sender=each["from"], send=each["send"], expect=Expected(**each["expect"]))
            for each in given["messages"]
        ],
        folder=folder,
    )


@dataclass(kw_only=True)
class Players:
    """The people and the group of `Kinds` as the virtual phone knows them, and what was sent so far."""

    kinds: Kinds
    phone: VirtualPhone
    people: Mapping[str, Person]
    group: Group
    sent: dict[str, Sent]

    async def send(self, example: Example) -> Sent:
        """Send one message."""
        body: Any = self._filled(dict(example.send))
        if "media" in body:
            body["media"] = self._file(body["media"])
        sender = self.people[example.sender].name
        self.sent[example.id] = await self.phone.send_raw({"from": sender, "to": self.group.id, **body})
        return self.sent[example.id]

    def _filled(self, value: Any) -> Any:
        """A copy with every placeholder replaced: `$file`, `$key`, `$id`, `$lid`."""
        match value:
            case {"$file": name, **beside}:
                return {"$media": self._file(name), **self._filled(beside)}
            case {"$key": example}:
                author = self._author(example)
                return {"remoteJid": self.group.id, "fromMe": False, "id": self.sent[example].id, "participant": author}
            case {"$id": example}:
                return self.sent[example].id
            case {"$lid": person}:
                return self.people[person].lid
            case dict():
                return {name: self._filled(item) for name, item in value.items()}
            case list():
                return [self._filled(item) for item in value]
            case _:
                return value

    def _author(self, example: str) -> str:
        sender = next(each.sender for each in self.kinds.examples if each.id == example)
        return self.people[sender].lid

    def _file(self, name: str) -> dict[str, Any]:
        return {**self.kinds.files[name], "data_path": str((self.kinds.folder / "media" / name).resolve())}


async def introduce_kinds(phone: VirtualPhone, kinds: Kinds) -> Players:
    """Create the people and the group on the virtual phone."""
    people = {key: await phone.person(name) for key, name in kinds.people.items()}
    members = [people[member].name for member in kinds.group["participants"]]
    mode = cast(Literal["lid", "pn"], kinds.group["addressing_mode"])
    group = await phone.group(kinds.group["subject"], members, mode)
    return Players(kinds=kinds, phone=phone, people=people, group=group, sent={})


def settled(players: Players, messages: Sequence[Row]) -> bool:
    """Whether every message of the group is there and none still waits for its file."""
    mine = [row for row in messages if row["chat_id"] == players.group.id]
    return len(mine) >= len(players.sent) and not any(row["media_status"] == "pending" for row in mine)


def kind_differences(players: Players, messages: Sequence[Row], media: Sequence[Row]) -> list[str]:
    """One line for each row or column that differs from the file; empty if none does."""
    rows: dict[str, list[Row]] = {}
    for row in messages:
        if row["chat_id"] == players.group.id:
            rows.setdefault(row["wa_msg_id"], []).append(row)
    files = {row["id"]: row for row in media}
    wrong = []
    for example in players.kinds.examples:
        mine = rows.pop(players.sent[example.id].id, [])
        if len(mine) != 1:
            wrong.append(f"{example.id}: {len(mine)} rows instead of 1")
            continue
        wrong += _columns(players, example, mine[0], files.get(mine[0]["media_id"]))
    return [*wrong, *(f"{extra}: nobody sent it" for extra in rows)]


def _columns(players: Players, example: Example, row: Row, media: Row | None) -> list[str]:
    expect, sender = example.expect, players.people[example.sender]
    stored = players.kinds.stored[expect.file] if expect.file else None
    promised = {
        "kind": expect.kind,
        "text": expect.text,
        "file_name": expect.file_name,
        "media_status": expect.media_status,
        "sender": sender.lid,
        "sender_alt": sender.pn,
        "push_name": sender.name,
        "from_me": False,
        "parent_id": None,
        "pending": expect.kind == "undecryptable",
        "sha256": stored and stored.sha256,
        "bytes": stored and stored.bytes,
        "mime": stored and stored.mime,
        "storage_path": stored and stored.path,
        **({} if expect.content is None else {"content": expect.content}),
    }
    found = {**{name: (media or {}).get(name) for name in ("sha256", "bytes", "mime", "storage_path")}, **row}
    wrong = [
        f"{example.id}: {name} is {str(found[name])[:MAX_SHOWN]!r} instead of {str(value)[:MAX_SHOWN]!r}"
        for name, value in promised.items()
        if found[name] != value
    ]
    payload = row["raw"].get("message") or {}
    for field in example.send.get("message", {}):
        withheld = expect.kind == "view_once"
        if (field in payload) == withheld:
            wrong.append(f"{example.id}: raw {'keeps' if withheld else 'lacks'} {field}")
    return wrong

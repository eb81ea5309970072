"""Compares the database and the bucket with what the scenario promises. No I/O; shares no code with the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demo.scenario import Cast, ExpectedFile, ExpectedMessage

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything that was read back after the scenario."""

    groups: Sequence[Row]
    messages: Sequence[Row]
    media: Sequence[Row]
    objects: Mapping[str, int]  # path → bytes
    sha256: Mapping[str, str] = field(default_factory=dict)  # path → hash of the downloaded object


def differences(cast: Cast, sent: Mapping[str, str], found: Found) -> list[str]:
    """One line for each difference from the scenario; empty if there is none.

    `sent` maps the scenario's message ids to WhatsApp's.
    """
    return [
        *_groups(cast, found.groups),
        *_messages(cast, sent, found),
        *_media(cast.scenario.media, found.media),
        *_objects(cast.scenario.media, found),
    ]


def _groups(cast: Cast, rows: Sequence[Row]) -> list[str]:
    known = {row["wa_group_id"]: row for row in rows}
    wrong = []
    for key, group in cast.groups.items():
        row = known.pop(group.id, None)
        if row is None:
            wrong.append(f"group {key}: no row")
            continue
        promised = {"name": group.subject, "monitor": cast.scenario.groups[key]["monitored"]}
        wrong += _fields(f"group {key}", promised, row)
    return [*wrong, *(f"group {unknown}: nobody made it" for unknown in known)]


def _messages(cast: Cast, sent: Mapping[str, str], found: Found) -> list[str]:
    rows: dict[str, list[Row]] = {}
    for row in found.messages:
        rows.setdefault(row["wa_msg_id"], []).append(row)
    by_id = {row["id"]: row for row in found.messages}
    files = {row["id"]: row["sha256"] for row in found.media}
    group_ids = {row["wa_group_id"]: row["id"] for row in found.groups}
    sha256 = {file.file: file.sha256 for file in cast.scenario.media}
    wrong = []
    for expected in cast.scenario.messages:
        mine = rows.pop(sent[expected.id], [])
        if len(mine) != 1:
            wrong.append(f"message {expected.id}: {len(mine)} rows instead of 1")
            continue
        row, group = mine[0], cast.groups[expected.group]
        parent = by_id.get(row["parent_id"])
        seen = {
            **row,
            "file": files.get(row["media_id"]),
            "parent": parent and parent["wa_msg_id"],
        }
        promised = {
            "chat_id": group.id,
            "group_id": group_ids.get(group.id),
            "sender": cast.people[expected.sender].lid,
            "kind": expected.kind,
            "text": expected.text,
            "file": sha256.get(expected.media or ""),
            "parent": sent[expected.parent] if expected.parent else None,
        }
        wrong += _fields(f"message {expected.id}", promised, seen)
    names = {wa_id: name for name, wa_id in sent.items()}
    return [*wrong, *(f"message {names.get(extra, extra)}: must not be stored" for extra in rows)]


def _media(expected: Sequence[ExpectedFile], found: Sequence[Row]) -> list[str]:
    rows = {row["sha256"]: row for row in found}
    wrong = [] if len(rows) == len(found) else ["media: one sha256 has several rows"]
    for file in expected:
        row = rows.pop(file.sha256, None)
        if row is None:
            wrong.append(f"media {file.file}: no row")
            continue
        promised = {
            "mime": file.mime,
            "bytes": file.bytes,
            "width": file.width,
            "height": file.height,
            "duration_s": file.seconds,
            "storage_path": file.path,
        }
        wrong += _fields(f"media {file.file}", promised, row)
    return [*wrong, *(f"media {extra}: must not be stored" for extra in rows)]


def _objects(expected: Sequence[ExpectedFile], found: Found) -> list[str]:
    promised = {file.path: file for file in expected}
    wrong = [
        f"object {file.file}: is not in the bucket" for path, file in promised.items() if path not in found.objects
    ]
    for path, size in found.objects.items():
        file = promised.get(path)
        if file is None:
            wrong.append(f"object {path}: must not be in the bucket")
        elif (size, found.sha256.get(path)) != (file.bytes, file.sha256):
            wrong.append(f"object {file.file}: its content is not what was sent")
    return wrong


def _fields(what: str, promised: Mapping[str, object], row: Row) -> list[str]:
    return [
        f"{what}: {name} is {row.get(name)!r} instead of {value!r}"
        for name, value in promised.items()
        if row.get(name) != value
    ]


def kinds(messages: Sequence[ExpectedMessage], group: str) -> str:
    """`image 2, text 3`: the kinds that a group should have."""
    return counted([message.kind for message in messages if message.group == group])


def counted(words: Sequence[str]) -> str:
    """How often each word occurs, in alphabetical order."""
    return ", ".join(f"{word} {list(words).count(word)}" for word in sorted(set(words)))

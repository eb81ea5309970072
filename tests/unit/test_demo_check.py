"""The demo's verdict: every way in which the database can differ from the scenario is one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demo.check import Found, differences
from demo.entry import run, show
from demo.run import Demo
from demo.scenario import Cast, load
from demo.screen import Screen
from testkit.phone import Group, Person

SCENARIO = load()
SENT = {step.id: f"WA-{step.id}" for step in SCENARIO.steps}


class Nobody:
    """Stands where the virtual phone is; the check never asks it anything."""


CAST = Cast(
    scenario=SCENARIO,
    phone=Nobody(),  # type: ignore[arg-type]
    people={key: Person(name=key, lid=f"{key}@lid", pn=f"{key}@s.whatsapp.net") for key in (*SCENARIO.people, "owner")},
    groups={
        key: Group(id=f"{key}@g.us", subject=group["subject"], addressing_mode=group["addressing_mode"])
        for key, group in SCENARIO.groups.items()
    },
)


def perfect() -> Found:
    """What a faultless worker leaves."""
    groups = [
        {"id": number, "wa_group_id": group.id, "name": group.subject, "monitor": SCENARIO.groups[key]["monitored"]}
        for number, (key, group) in enumerate(CAST.groups.items())
    ]
    media = [
        {
            "id": number,
            "sha256": file.sha256,
            "mime": file.mime,
            "bytes": file.bytes,
            "width": file.width,
            "height": file.height,
            "duration_s": file.seconds,
            "storage_path": file.path,
        }
        for number, file in enumerate(SCENARIO.media)
    ]
    numbers = {message.id: number for number, message in enumerate(SCENARIO.messages)}
    files = [file.file for file in SCENARIO.media]
    messages = [
        {
            "id": numbers[message.id],
            "wa_msg_id": SENT[message.id],
            "chat_id": CAST.groups[message.group].id,
            "group_id": list(CAST.groups).index(message.group),
            "sender": CAST.people[message.sender].lid,
            "kind": message.kind,
            "text": message.text,
            "media_id": files.index(message.media) if message.media else None,
            "parent_id": numbers[message.parent] if message.parent else None,
        }
        for message in SCENARIO.messages
    ]
    objects = {file.path: file.bytes for file in SCENARIO.media}
    sha256 = {file.path: file.sha256 for file in SCENARIO.media}
    return Found(groups=groups, messages=messages, media=media, objects=objects, sha256=sha256)


def test_a_faultless_worker_differs_in_nothing() -> None:
    assert differences(CAST, SENT, perfect()) == []


def _private(found: Any) -> None:
    found.messages.append({**found.messages[0], "id": 99, "wa_msg_id": SENT["direct"]})


def _other_content(found: Any) -> None:
    found.sha256[SCENARIO.media[0].path] = "0" * 64


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        pytest.param(lambda f: f.messages.pop(0), "message greeting: 0 rows", id="a lost message"),
        pytest.param(lambda f: f.messages.append(f.messages[0]), "message greeting: 2 rows", id="stored twice"),
        pytest.param(_private, "message direct: must not be stored", id="a direct message"),
        pytest.param(lambda f: f.messages[0].update(text="?"), "message greeting: text is", id="another text"),
        pytest.param(
            lambda f: f.messages[0].update(sender="x@lid"), "message greeting: sender is", id="another sender"
        ),
        pytest.param(lambda f: f.messages[1].update(kind="text"), "message road: kind is", id="another kind"),
        pytest.param(lambda f: f.messages[1].update(media_id=None), "message road: file is", id="a file not linked"),
        pytest.param(lambda f: f.messages[5].update(parent_id=None), "message oranges: parent is", id="no parent link"),
        pytest.param(lambda f: f.messages[0].update(parent_id=1), "message greeting: parent is", id="a false link"),
        pytest.param(lambda f: f.groups.pop(), "group family: no row", id="a group that was not found"),
        pytest.param(lambda f: f.groups[2].update(monitor=True), "group family: monitor is", id="a flipped switch"),
        pytest.param(lambda f: f.media.append(f.media[0]), "media: one sha256 has several", id="one content, two rows"),
        pytest.param(lambda f: f.media[0].update(mime="x/y"), "media clip.mp4: mime is", id="another type"),
        pytest.param(lambda f: f.objects.pop(SCENARIO.media[0].path), "object clip.mp4: is not", id="no object"),
        pytest.param(lambda f: f.objects.update({"x/y": 1}), "object x/y: must not be", id="an object too many"),
        pytest.param(_other_content, "object clip.mp4: its content", id="an object of other bytes"),
    ],
)
def test_each_difference_is_one_line_that_names_it(spoil: Callable[[Found], object], line: str) -> None:
    found = deepcopy(perfect())
    spoil(found)

    lines = differences(CAST, SENT, found)

    assert len(lines) == 1
    assert lines[0].startswith(line)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [pytest.param([], 0, id="all as promised"), pytest.param(["message greeting: 0 rows"], 1, id="a difference")],
)
def test_a_difference_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: list[str], code: int
) -> None:
    class Played(Demo):
        async def run(self) -> list[str]:
            return wrong

    monkeypatch.setattr("demo.entry.Demo", Played)
    screen = Screen(Console(file=StringIO()))
    assert run(screen, tmp_path, show) == code

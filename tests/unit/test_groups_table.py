"""`groups list` and `status` at the widths of real terminals, and in a pipe: a group's name is never cut."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from worker.commands.groups_table import GroupsTable
from worker.commands.show import out
from worker.store.console import ListedGroup

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LONG = "Neighbours of the Old Harbour and the Fish Market, Saturdays"
PREVIEW = "Ana: the oranges are in, come before noon if you want some"


def group(id_: int, name: str, **more: Any) -> ListedGroup:
    values = {"monitor": True, "left_at": None, "today": 48, "last": None, **more}
    return ListedGroup(id=id_, wa_group_id=f"{id_}@g.us", name=name, **values)


def last(text: str) -> dict[str, Any]:
    at = (NOW - timedelta(minutes=13)).isoformat()
    return {"ts": at, "push_name": "Ana", "sender": "1@lid", "kind": "text", "text": text}


SHORT_NAMES = [
    group(1, "Harbour market", last=last(PREVIEW.removeprefix("Ana: "))),
    group(12, "家族", monitor=False, today=0),
]
LONG_NAME = [group(1, LONG, last=last(PREVIEW.removeprefix("Ana: "))), *SHORT_NAMES[1:]]


def printed(groups: list[ListedGroup], width: int) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None, _environ={"TERM": "xterm"})
    console.print(GroupsTable(groups, NOW))
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (60, [
            "id  group           stored  24 h  last message",
            "1   Harbour market  yes       48  13 min ago    Ana: the or…",
            "12  家族            no",
        ]),
        (80, [
            "id  group           stored  24 h  last message",
            "1   Harbour market  yes       48  13 min ago    Ana: the oranges are in, come b…",
            "12  家族            no",
        ]),
        (120, [
            "id  group           stored  24 h  last message",
            f"1   Harbour market  yes       48  13 min ago    {PREVIEW}",
            "12  家族            no",
        ]),
    ],
)  # fmt: skip
def test_a_short_name_leaves_room_for_the_preview(width: int, lines: list[str]) -> None:
    assert printed(SHORT_NAMES, width) == lines


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (60, [
            "id  group                         stored  24 h  last message",
            "1   Neighbours of the Old         yes       48  13 min ago",
            "    Harbour and the Fish Market,",
            "    Saturdays",
            "12  家族                          no",
        ]),
        (80, [
            "id  group                                             stored  24 h  last message",
            "1   Neighbours of the Old Harbour and the Fish        yes       48  13 min ago",
            "    Market, Saturdays",
            "12  家族                                              no",
        ]),
        (120, [
            "id  group                                                         stored  24 h  last message",
            f"1   {LONG}  yes       48  13 min ago    Ana: the oranges are in, …",
            f"12  家族{' ' * 56}  no",
        ]),
        (200, [
            "id  group                                                         stored  24 h  last message",
            f"1   {LONG}  yes       48  13 min ago    {PREVIEW}",
            f"12  家族{' ' * 56}  no",
        ]),
    ],
)  # fmt: skip
def test_before_a_name_is_wrapped_the_preview_goes(width: int, lines: list[str]) -> None:
    shown = printed(LONG_NAME, width)
    assert shown == lines
    assert max(map(len, shown)) <= width


def test_a_very_narrow_window_keeps_the_names() -> None:
    assert printed(LONG_NAME, 30) == [
        "id  group               stored",
        "1   Neighbours of the   yes",
        "    Old Harbour and",
        "    the Fish Market,",
        "    Saturdays",
        "12  家族                no",
    ]


def test_a_pipe_gets_everything_on_a_line_each_and_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x" * 200
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stdout", pipe)
    monkeypatch.setenv("COLUMNS", "20")
    out().print(GroupsTable([group(1, LONG * 4, last=last(text)), *SHORT_NAMES[1:]], NOW))
    assert pipe.getvalue() == (
        f"id  group{' ' * (len(LONG * 4) - 5)}  stored  24 h  last message\n"
        f"1   {LONG * 4}  yes       48  13 min ago    Ana: {text}\n"
        f"12  家族{' ' * (len(LONG * 4) - 4)}  no\n"
    )

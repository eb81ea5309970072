"""`status` at the widths of real terminals and in a pipe, beside the pictures kept in `status_widths/`.

`python -m tests.unit.test_status_widths` draws them anew; look at the difference before you commit it.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from worker.commands.show import PIPE_WIDTH
from worker.commands.status import SessionOverview, render
from worker.store.console import Figures, ListedGroup

PICTURES = Path(__file__).parent / "status_widths"
WIDTHS = (60, 80, 120, 200, None)  # None: a pipe
NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
NAME = "Neighbours of the Old Harbour and the Fish Market, Saturdays"


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).isoformat()


def group(id_: int, name: str, **more: Any) -> ListedGroup:
    values = {"monitor": True, "left_at": None, "today": 0, "last": None, **more}
    return ListedGroup(id=id_, wa_group_id=f"{id_}@g.us", name=name, **values)


LAST = {
    "ts": ago(seconds=40), "push_name": "Ana", "sender": "1@lid", "kind": "text",
    "text": "The oranges are in, come before noon if you want some",
}  # fmt: skip
TROUBLED = SessionOverview(
    session="default",
    row={
        "session": {
            "status": "connected", "wa_name": "Ana's phone", "wa_number": "491511234567", "lease_held": True,
            "lease_owner": "worker-1:7:1a2b3c4d", "lease_expires_at": ago(seconds=-24), "has_qr": False,
            "detail": {"say": "Connected. Messages of the groups that are switched on are being stored."},
        },
        "messages": 18_204, "last_message_at": ago(seconds=39), "media": 5_112,
        "discards": {"unmonitored": "90211", "waited_too_long": "3", "not_a_group": "12"},
        "last_error": {"at": ago(hours=3), "payload": {"code": "MEDIA_TOO_LARGE", "msg": "31 MB, 25 are allowed"}},
    },
    figures=Figures(
        now=NOW, epoch=7, seq=9001, running=1, due=0, waiting=2, oldest_seconds=310, abandoned={"expired": 3},
        pending_stubs=1, refused=2, held_changes=0,
    ),
    groups=[
        group(1, NAME, today=48, last=LAST),
        group(12, "家族", monitor=False),
        group(13, "Flat share", monitor=False, left_at=NOW),
    ],
)  # fmt: skip


def drawn(width: int | None) -> str:
    file = io.StringIO()
    if width is None:
        console = Console(file=file, width=PIPE_WIDTH, soft_wrap=True, highlight=False)
    else:
        console = Console(file=file, width=width, force_terminal=True, color_system=None, _environ={"TERM": "xterm"})
    console.print(render(TROUBLED))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def picture(width: int | None) -> Path:
    return PICTURES / f"{width or 'pipe'}.txt"


@pytest.mark.parametrize("width", WIDTHS)
def test_status_looks_as_it_did(width: int | None) -> None:
    assert drawn(width) == picture(width).read_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_window_and_no_word_of_a_name_is_missing(width: int | None) -> None:
    text = drawn(width)
    assert max(map(len, text.splitlines())) <= (width or PIPE_WIDTH)
    assert [word for word in NAME.split() if word not in text] == []


def test_a_pipe_has_a_line_for_each_fact_and_group() -> None:
    text = drawn(None)
    assert NAME in text
    assert LAST["text"] in text
    assert "\x1b" not in text


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for each in WIDTHS:
        picture(each).write_text(drawn(each))

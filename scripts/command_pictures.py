"""Draws `wa-worker status` and `wa-worker groups list` for docs/commands.md, with made-up figures.

    python scripts/command_pictures.py        writes docs/status.svg and docs/groups-list.svg

Uses the commands' own drawing code; the values below replace the database.
"""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from worker.commands.groups_table import GroupsTable
from worker.commands.status import SessionOverview, render
from worker.store.console import Figures, ListedGroup

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
WIDTH = 104
FROM_ELSEWHERE = re.compile(r"@font-face \{[^}]*\}\s*")  # the reader's own font; nothing is fetched


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).isoformat()


def last(seconds: float, name: str, **more: Any) -> dict[str, Any]:
    return {"ts": ago(seconds=seconds), "push_name": name, "sender": "1@lid", "kind": "text", "text": None, **more}


GROUPS = [
    ListedGroup(
        id=1, wa_group_id="1@g.us", name="Harbour market", monitor=True, left_at=None, today=48,
        last=last(40, "Ana", text="The oranges are in, come before noon"),
    ),
    ListedGroup(
        id=2, wa_group_id="2@g.us", name="Choir", monitor=True, left_at=None, today=6,
        last=last(780, "Ben", kind="voice", media_status="stored"),
    ),
    ListedGroup(id=3, wa_group_id="3@g.us", name="Family", monitor=False, left_at=None, today=0, last=None),
    ListedGroup(id=4, wa_group_id="4@g.us", name="Flat share", monitor=False, left_at=NOW, today=0, last=None),
]  # fmt: skip

STANDING = SessionOverview(
    session="default",
    row={
        "session": {
            "status": "connected", "wa_name": "Ana's phone", "wa_number": "491511234567", "lease_held": True,
            "lease_owner": "worker-1:7:1a2b3c4d", "lease_expires_at": ago(seconds=-24), "has_qr": False,
            "detail": {"say": "Connected. Messages of the groups that are switched on are being stored."},
        },
        "messages": 18_204, "last_message_at": ago(seconds=39), "media": 5_112,
        "discards": {"unmonitored": "90211", "too_old": "12"}, "last_error": None,
    },
    figures=Figures(
        now=NOW, epoch=7, seq=9001, running=1, due=0, waiting=2, oldest_seconds=310, abandoned={"expired": 3},
        pending_stubs=0, refused=0, held_changes=0,
    ),
    groups=GROUPS,
)  # fmt: skip


def draw(name: str, command: str, picture: RenderableType) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ {command}", style="bold"))
    console.print(picture)
    svg = console.export_svg(title=command, unique_id=name.partition(".")[0])
    (DOCS / name).write_text(FROM_ELSEWHERE.sub("", svg))


def main() -> None:
    draw("status.svg", "wa-worker status", render(STANDING))
    draw("groups-list.svg", "wa-worker groups list", GroupsTable(GROUPS, NOW))


if __name__ == "__main__":
    main()

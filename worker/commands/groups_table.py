"""The table of groups with their last message, for `status` and `groups list`.

On a narrow terminal the preview is dropped first, then the columns before it. Names wrap and are never cut. A pipe gets
every column in full, whatever COLUMNS says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from worker.commands.show import ago, author, content, plain
from worker.store.console import ListedGroup

HEADINGS = ("id", "group", "stored", "24 h", "last message", "")  # the rightmost is dropped first
NAME = HEADINGS.index("group")
COUNT = HEADINGS.index("24 h")
PREVIEW = len(HEADINGS) - 1
GAP = 2
NAME_MIN = 16  # longer names wrap before another column is dropped
PREVIEW_MIN = 12  # a shorter preview says nothing
STYLES = {"yes": "green", "no": "dim"}


class GroupsTable:
    """A table that rich can print."""

    def __init__(self, groups: Iterable[ListedGroup], now: datetime) -> None:
        self._rows = [_cells(group, now) for group in groups]
        self._widths = [max(map(cell_len, column)) for column in zip(HEADINGS, *self._rows, strict=True)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if console.is_terminal:
            yield self._fitted(options.max_width)
            return
        for row in (HEADINGS, *self._rows):
            yield Text("".join(map(self._padded, range(len(row)), row)).rstrip(), no_wrap=True, overflow="ignore")

    def _fitted(self, width: int) -> Table:
        shown = self._shown(width)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        for column in range(shown):
            table.add_column(
                HEADINGS[column],
                justify="right" if column == COUNT else "left",
                no_wrap=column != NAME,
                overflow="ellipsis" if column == PREVIEW else "fold",
                max_width=self._room(PREVIEW, width) if column == PREVIEW else None,
            )
        for row in self._rows:
            table.add_row(*(Text(text, style=_style(column, row)) for column, text in enumerate(row[:shown])))
        return table

    def _shown(self, width: int) -> int:
        """How many columns fit."""
        if self._widths[PREVIEW] and self._room(PREVIEW, width) >= min(PREVIEW_MIN, self._widths[PREVIEW]):
            return PREVIEW + 1
        name = min(NAME_MIN, self._widths[NAME])
        for shown in range(PREVIEW, NAME + 1, -1):
            if sum(self._widths[:shown]) - self._widths[NAME] + GAP * (shown - 1) + name <= width:
                return shown
        return NAME + 1

    def _room(self, column: int, width: int) -> int:
        """The width that the columns before this one leave."""
        return width - sum(self._widths[:column]) - GAP * column

    def _padded(self, column: int, text: str) -> str:
        space = " " * (self._widths[column] - cell_len(text))
        return (space + text if column == COUNT else text + space) + " " * GAP


def _cells(group: ListedGroup, now: datetime) -> tuple[str, ...]:
    last = group.last
    return (
        str(group.id),
        plain(group.name or group.wa_group_id),
        "left" if group.left_at else "yes" if group.monitor else "no",
        str(group.today) if group.today else "",
        ago(last["ts"], now) if last else "",
        f"{author(last)}: {content(last)}" if last else "",
    )


def _style(column: int, row: tuple[str, ...]) -> str:
    if column == NAME:
        return "" if row[NAME + 1] == "yes" else "dim"
    return STYLES.get(row[column], "") if column == NAME + 1 else ""

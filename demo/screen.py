"""The demo's output: lines, the QR, the closing table."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import segno
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from worker.errors import unwrapped

PATIENCE_SECONDS = 2.0  # after this a slow step is announced
REMINDER_SECONDS = 5.0
MARGIN = " " * 2


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the closing table: expected, found, and whether they are the same."""

    what: str
    promised: str
    found: str
    right: bool = True


class Screen:
    """A terminal, or a file."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def say(self, text: str) -> None:
        self._print(escape(text))

    def faint(self, text: str) -> None:
        self._print(f"[dim]{escape(text)}[/dim]")

    def wrong(self, text: str) -> None:
        self._print(f"[bold red]{escape(text)}[/bold red]")

    def qr(self, content: str) -> None:
        """Draw a QR code of half blocks, as `make up` does for a real phone."""
        drawn = io.StringIO()
        segno.make(content, error="l", boost_error=False).terminal(out=drawn, border=2, compact=True)
        self.console.file.write(drawn.getvalue())
        self.console.file.flush()

    def table(self, heading: str, lines: Sequence[Line]) -> None:
        table = Table(title=heading, title_justify="left", title_style="bold", expand=False)
        for column in ("", "the scenario promises", "found", ""):
            table.add_column(column, overflow="fold")
        for line in lines:
            mark = "[green]ok[/green]" if line.right else "[bold red]DIFFERS[/bold red]"
            table.add_row(escape(line.what), escape(line.promised), escape(line.found), mark if line.promised else "")
        self.console.print()
        self.console.print(table)

    @asynccontextmanager
    async def waiting(self, text: str) -> AsyncIterator[None]:
        """Wrap anything slow: prints a note after two seconds, then from time to time."""

        async def remind() -> None:
            await anyio.sleep(PATIENCE_SECONDS)
            seconds = PATIENCE_SECONDS
            while True:
                self.faint(f"… {text} ({seconds:.0f} s)")
                await anyio.sleep(REMINDER_SECONDS)
                seconds += REMINDER_SECONDS

        async with unwrap_single_error(), anyio.create_task_group() as tasks:
            tasks.start_soon(remind)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    def _print(self, markup: str) -> None:
        self.console.print(MARGIN + markup, highlight=False, soft_wrap=True)


@asynccontextmanager
async def unwrap_single_error() -> AsyncIterator[None]:
    """Raise a task group's only failure itself, instead of a group of one."""
    with unwrapped():
        yield


def shortened(text: str, width: int = 48) -> str:
    """`text` on one line, at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def sized(count: int) -> str:
    """A size in readable units."""
    return f"{count / 1_000_000:.0f} MB" if count >= 1_000_000 else f"{count / 1000:.1f} kB"

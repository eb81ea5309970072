"""What `wa-worker up` shows beside the log: the QR code, and what to do with it."""

from __future__ import annotations

import io

import segno
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from worker.session.report import View
from worker.text import clean_name

CONNECTED = """\
In another terminal:
  wa-worker groups list               shows your groups
  wa-worker groups monitor "NAME"     stores the messages of one
  wa-worker tail                      shows messages as they are stored
Ctrl-C stops the worker."""


class Terminal:
    """Draws on stdout; the log goes to stderr."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._last: tuple[str, str | None, str | None] | None = None

    def show(self, view: View) -> None:
        """Show a state, once. Names and reasons are other people's words: never markup."""
        now = (view.state, view.qr, view.pairing_code)
        if now == self._last:
            return
        self._last = now
        say = escape(view.say)
        if view.pairing_code:
            self._console.print(Panel(f"[bold]{view.pairing_code}[/bold]\n{say}", title="Pairing code"))
        elif view.qr:
            drawn = draw_qr(view.qr)
            too_small = window_too_small(drawn, self._console)
            warning = f"[bold yellow]{too_small}[/bold yellow]" if too_small else ""
            if warning:
                self._console.print(warning)
            self._console.print(drawn, highlight=False, markup=False, soft_wrap=True)
            self._console.print(f"[bold]{say}[/bold]")
            if warning:  # the first has left the window
                self._console.print(warning)
        elif view.state == "connected":
            who = escape(clean_name(view.wa_name) or view.wa_number or "this account")
            self._console.print(f"[bold green]Connected[/bold green] as {who}")
            self._console.print(CONNECTED, highlight=False, markup=False, soft_wrap=True)
        elif view.state == "idle":
            self._console.print(f"[bold yellow]{say}[/bold yellow]")
            self._console.print("`wa-worker qr --refresh` in another terminal asks for a new code.", markup=False)
        elif view.state in ("needs_you", "logged_out", "crashing", "database_away"):
            self._console.print(f"[bold yellow]{say}[/bold yellow]")


def window_too_small(drawn: str, console: Console) -> str | None:
    """What to do if a phone cannot see the whole of a code that was drawn; None for a file, which scrolls."""
    lines = drawn.splitlines()
    columns, rows = max(map(len, lines)), len(lines) + 2  # and the words below it
    if not console.is_terminal or (console.width >= columns and console.height >= rows):
        return None
    return f"This window is too small for the code: make it {columns} columns by {rows} lines; the next code fits."


def draw_qr(text: str) -> str:
    """The code in half blocks, dark on light with its quiet zone, so that phones read it on dark terminals too."""
    out = io.StringIO()
    segno.make(text, error="L").terminal(out=out, border=2, compact=True)
    return out.getvalue()

"""What `wa-worker up` shows beside the log: the QR code, and what to do with it."""

from __future__ import annotations

import io
from functools import partial
from typing import IO, Any, cast

import anyio.to_thread
import segno
from loguru import logger
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from worker.commands.tail import line
from worker.errors import StoreRefused
from worker.machine import PatientStdout
from worker.session.arrivals import Arrivals
from worker.session.report import View
from worker.store import Store
from worker.store.retry import until_answered
from worker.text import clean_name

CONNECTED = """\
In another terminal:
  wa-worker groups list               shows your groups
  wa-worker groups monitor "NAME"     stores the messages of one
  wa-worker tail                      shows messages as they are stored
Messages of the groups that you switch on are shown here as they are stored. Ctrl-C stops the worker."""
OFF = """\
A message came from a group that is not switched on; it is not stored. In another terminal:
  wa-worker groups monitor "NAME"     stores the messages of a group from then on"""
PAGE = 500


class Terminal:
    """Draws on stdout; the log goes to stderr."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=cast(IO[str], PatientStdout(_cannot_show)))
        self._console_link: str | None = None
        self._last: tuple[str, str | None, str | None] | None = None
        self._drawn = False  # a code is on the screen

    @property
    def attended(self) -> bool:
        """Whether a person is watching. In a container or a pipe, stdout is a log, which gets no message text."""
        return self._console.is_terminal

    async def follow(self, store: Store, session: str, arrivals: Arrivals) -> None:
        """Show each message as it is stored, and say once if a group that is switched off has messages."""
        cursor: int | None = None
        hinted = False
        try:
            while True:
                page = partial(store.console.tail, session, None, cursor, PAGE if cursor is not None else 1)
                found = await until_answered(page)
                hint = arrivals.unmonitored > 0 and not hinted
                hinted = hinted or hint
                new = found.messages if cursor is not None else []
                # In a thread: a stopped terminal (Ctrl-S) must not stop the worker.
                await anyio.to_thread.run_sync(self._print, new, hint, abandon_on_cancel=True)
                cursor = found.cursor
                if len(new) < PAGE:
                    await arrivals.wait()
        except StoreRefused as refused:
            logger.warning("messages are stored, but cannot be shown here (code {})", refused.code)

    def _print(self, messages: list[dict[str, Any]], hint: bool) -> None:
        if hint:
            self._console.print(OFF, highlight=False, markup=False, soft_wrap=True)
        for message in messages:
            self._console.print(line(message, with_group=True), soft_wrap=True)

    def show(self, view: View) -> None:
        """Show a state, once. Names and reasons are untrusted text: never markup."""
        now = (view.state, view.qr, view.pairing_code)
        if now == self._last:
            return
        self._last = now
        say = escape(view.say)
        if view.pairing_code:
            self._console.print(Panel(f"[bold]{view.pairing_code}[/bold]\n{say}", title="Pairing code"))
        elif view.qr:
            if self._drawn and self.attended:
                self._console.clear()  # with two codes on the screen, the phone may scan the old one
            self._drawn = True
            drawn = draw_qr(view.qr)
            too_small = window_too_small(drawn, self._console)
            warning = f"[bold yellow]{too_small}[/bold yellow]" if too_small else ""
            if warning:
                self._console.print(warning)
            self._console.print(drawn, highlight=False, markup=False, soft_wrap=True)
            self._console.print(f"[bold]{say}[/bold]")
            self._name_console()
            if warning:  # repeated, since the first one has scrolled away
                self._console.print(warning)
        elif view.state == "connected":
            self._drawn = False
            who = escape(clean_name(view.wa_name) or view.wa_number or "this account")
            self._console.print(f"[bold green]Connected[/bold green] as {who}")
            self._console.print(CONNECTED, highlight=False, markup=False, soft_wrap=True)
            self._name_console()
        elif view.state == "idle":
            self._console.print(f"[bold yellow]{say}[/bold yellow]")
            self._console.print("`wa-worker link --refresh` in another terminal asks for a new code.", markup=False)
        elif view.state in ("needs_you", "logged_out", "crashing", "database_away"):
            self._console.print(f"[bold yellow]{say}[/bold yellow]")

    def name_console(self, link: str) -> None:
        """Print the console's link now, as no code may come: WhatsApp may be out of reach, or the account linked."""
        self._console_link = link
        self._name_console()

    def _name_console(self) -> None:
        """Print the console's link with each code, since the previous one may have scrolled away."""
        if self._console_link:
            words = f"Or in a browser (this link works once): {self._console_link}"
            self._console.print(words, highlight=False, markup=False, soft_wrap=True)


def _cannot_show(why: str) -> None:
    logger.warning(
        "stdout cannot be written ({}): nothing more is shown there. The worker goes on; `wa-worker link` shows the QR "
        "code in another terminal",
        why,
    )


def window_too_small(drawn: str, console: Console) -> str | None:
    """A warning if the window cannot show the whole code; None if it can, or if the output is a file."""
    lines = drawn.splitlines()
    columns, rows = max(map(len, lines)), len(lines) + 2  # plus the text below it
    if not console.is_terminal or (console.width >= columns and console.height >= rows):
        return None
    return f"This window is too small for the code: make it {columns} columns by {rows} lines; the next code fits."


def draw_qr(text: str) -> str:
    """The QR code in half blocks, dark on light with its quiet zone, so that phones can read it on dark terminals."""
    out = io.StringIO()
    segno.make(text, error="L").terminal(out=out, border=2, compact=True)
    return out.getvalue()

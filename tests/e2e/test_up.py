"""`wa-worker up` at a terminal: a first link from the code on the screen to messages, without a warning."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.processes import PYTHON, Child, free_port
from testkit.waiting import until
from testkit.worker import environment

pytestmark = pytest.mark.anyio

LINES, COLUMNS = 60, 120
BOUND = 60.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Screen:
    """What a program has written to its terminal."""

    def __init__(self, child: Child, terminal: int) -> None:
        self.child = child
        self._written = b""
        self._terminal = terminal

    @property
    def text(self) -> str:
        """Without colours."""
        return COLOURS.sub("", self._written.decode("utf-8", "replace"))

    async def read(self) -> None:
        """Collect until the program ends."""
        while True:
            try:
                data = await anyio.to_thread.run_sync(os.read, self._terminal, 65536, abandon_on_cancel=True)
            except OSError:  # Linux's way to say that nobody has the other end any more
                return
            if not data:
                return
            self._written += data

    async def shows(self, words: str) -> None:
        async def seen() -> bool:
            return words in self.text

        await until(f"{words!r} on the screen", seen, seconds=BOUND, tell=lambda: self.text)


@asynccontextmanager
async def at_terminal(folder: Path, env: dict[str, str]) -> AsyncIterator[Screen]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    child = Child.start(
        "up", [PYTHON, "-m", "worker", "up"], log=folder / "up.log", cwd=folder, env=env, terminal=theirs
    )
    os.close(theirs)
    try:
        async with anyio.create_task_group() as task_group:
            screen = Screen(child, ours)
            task_group.start_soon(screen.read)
            yield screen
            await child.stop()
            task_group.cancel_scope.cancel()
    finally:
        child.kill()
        os.close(ours)


async def test_a_first_link_at_a_terminal_has_no_warning_and_shows_what_arrives(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    session = "at-terminal"
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        await phone.person("Ana")
        market, family = await phone.group("Market", ["Ana"], "lid"), await phone.group("Family", ["Ana"], "lid")
        settings = {
            **supabase.worker_env, **phone.worker_env, "WORKER_SESSION": session, "TERM": "xterm",
            "WORKER_HTTP_PORT": str(free_port()), "WORKER_POLL_MS": "250",
        }  # fmt: skip
        async with at_terminal(tmp_path, environment(settings)) as screen:
            await screen.shows("Scan the QR code")
            await phone.scan(await database.wait_qr(tell=lambda: screen.text))
            await screen.shows("Connected as ")
            await screen.shows('wa-worker groups monitor "NAME"')
            await database.wait_groups([market.id, family.id], tell=lambda: screen.text)
            await database.monitor([market.id])
            await database.fetch_groups(tell=lambda: screen.text)
            await phone.send("Ana", family.id, "for the family alone")
            await screen.shows("A message came from a group that is not switched on")
            await phone.send("Ana", market.id, "the oranges are in")
            await screen.shows("Ana: the oranges are in")

        assert "Market" in screen.text
        assert "for the family alone" not in screen.text
        for words in ("WARNING", "ERROR", "_requested", "monitor = true"):
            assert words not in screen.text, screen.text
        assert screen.text.count("WA_SOCKET_URL") == 1, "one line for all settings of a local server"

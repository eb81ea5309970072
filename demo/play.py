"""`wa-worker demo --play`: a virtual phone at a prompt, an ordinary worker, and the web console, until you leave.

The console keeps the embedded Supabase alive while the worker is killed, as a hosted one would.
"""

from __future__ import annotations

import os
import re
import sys
import time
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from demo.orders import HELP, Order, named, parse
from demo.scenario import introduce, load
from demo.screen import Screen, shortened
from demo.town import SETTINGS, edit_of, picture_of
from testkit.database import Database, Row
from testkit.embedded import endpoint
from testkit.phone import PhoneError, Sent, VirtualPhone
from testkit.processes import PYTHON, Child
from testkit.waiting import TookTooLong, until
from testkit.worker import Worker, environment

STORED_SECONDS = 20.0
READ_BYTES = 4096
LINK = re.compile(r"Console: (http://\S+)")


class Play:
    """One evening in one folder."""

    def __init__(self, screen: Screen, folder: Path, browser: bool) -> None:
        self.screen = screen
        self.folder = folder
        self._browser = browser
        self._scenario = load()
        self._person, self._group = "ana", "market"
        self._last: dict[str, tuple[Sent, str]] = {}  # a person's last message, and the id of its group
        self._waiting: list[Sent] = []

    async def run(self) -> None:
        """Everything, from the first process to the last typed line."""
        async with AsyncExitStack() as running:
            self._phone = await running.enter_async_context(await VirtualPhone.start(self.folder))
            self._worker = Worker.start(self.folder, phone=self._phone, settings=SETTINGS)
            running.push_async_callback(self._stop_worker)
            async with self.screen.waiting("an empty Supabase is made"):
                await self._worker.ready()
                supabase = await endpoint(self._worker.data_dir, tell=self._worker.child.tail)
            self._database = await running.enter_async_context(await Database.connect(supabase.url, supabase.key))
            self._cast = await introduce(self._phone, self._scenario)
            await self._link()
            await self._open_console(running)
            self._say_where()
            async for line in _lines(self._prompt):
                if not await self._follow(line):
                    return

    async def _stop_worker(self) -> None:
        await self._worker.child.stop()

    async def _link(self) -> None:
        tell = self._worker.child.tail
        async with self.screen.waiting("the virtual phone scans the QR code"):
            await self._phone.scan(await self._database.wait_qr(tell=tell))
            await self._database.wait_status("connected", tell=tell)
            await self._database.wait_groups((group.id for group in self._cast.groups.values()), tell=tell)
        await self._database.monitor(self._cast.groups[key].id for key in self._scenario.monitored)
        await self._database.fetch_groups(tell=tell)
        self.screen.say("The virtual phone is linked; Saturday market and Loading crew are stored, Family is not.")

    async def _open_console(self, running: AsyncExitStack) -> None:
        env = environment({"WORKER_DATA_DIR": str(self._worker.data_dir), "WORKER_CONSOLE_PORT": "0"})
        child = Child.start("console", [PYTHON, "-m", "worker", "console"], log=self.folder / "console.log", env=env)
        running.push_async_callback(child.stop)

        async def named() -> re.Match[str] | None:
            return LINK.search(child.text())

        async with self.screen.waiting("the web console"):
            link = (await until("the console's link", named, seconds=60, tell=child.tail))[1]
        self.screen.say(f"Web console (this link works once): {link}")
        if self._browser:
            webbrowser.open(link)

    def _say_where(self) -> None:
        self.screen.say("In another terminal, wa-worker status, tail, groups list and the others work with:")
        self.screen.say(f"  export WORKER_DATA_DIR={self._worker.data_dir}")
        self._help()

    def _help(self) -> None:
        names = {"people": self._scenario.people, "groups": {k: g.subject for k, g in self._cast.groups.items()}}
        for line in HELP.format(**{what: ", ".join(among.values()) for what, among in names.items()}).splitlines():
            self.screen.say(f"  {line}")

    def _prompt(self) -> None:
        if sys.stdin.isatty():
            who, where = self._scenario.people[self._person], self._cast.groups[self._group].subject
            dead = "" if self._worker.child.running else " (no worker)"
            self.screen.console.print(f"{who} in {where}{dead}> ", end="", markup=False, highlight=False)

    async def _follow(self, line: str) -> bool:
        """Do what a line says; False to leave."""
        order = parse(line)
        try:
            match order:
                case None:
                    if line.strip():
                        self.screen.say("/help shows what can be typed")
                case Order("quit"):
                    return False
                case Order("help"):
                    self._help()
                case Order("from" | "to"):
                    self._turn(order)
                case Order("kill"):
                    self._worker.child.kill()
                    self.screen.say("The worker is dead. What is sent now waits; /start starts it again.")
                case Order("start"):
                    await self._start_again()
                case _:
                    await self._send(order)
        except (PhoneError, TookTooLong) as failed:
            self.screen.wrong(str(failed).splitlines()[0])
        return True

    def _turn(self, order: Order) -> None:
        if order.verb == "from":
            self._person = named(order.words, self._scenario.people) or self._person
        else:
            self._group = named(order.words, {k: g.subject for k, g in self._cast.groups.items()}) or self._group
        self.screen.say(f"{self._scenario.people[self._person]} speaks in {self._cast.groups[self._group].subject}.")

    async def _start_again(self) -> None:
        if self._worker.child.running:
            self.screen.say("The worker runs already.")
            return
        self._worker = Worker.start(self.folder, phone=self._phone, settings=SETTINGS)
        async with self.screen.waiting("the worker"):
            await self._worker.ready()
            await self._phone.wait_for("connected", 60.0)
        for sent in self._waiting:
            await self._report(sent)
        self._waiting.clear()

    async def _send(self, order: Order) -> None:
        name, group = self._scenario.people[self._person], self._cast.groups[self._group]
        if order.verb in ("edit", "delete"):
            await self._alter(order, name)
            return
        text = order.words if order.verb == "text" else None
        media = picture_of(self._cast, order.words) if order.verb == "picture" else None
        sent = await self._phone.send(name, group.id, text, media=media)
        self._last[self._person] = (sent, group.id)
        await self._report(sent)

    async def _alter(self, order: Order, name: str) -> None:
        """Edit or revoke the person's last message."""
        if self._person not in self._last:
            self.screen.say(f"{name} has sent nothing yet.")
            return
        last, where = self._last[self._person]
        if order.verb == "edit":
            await self._report(await self._phone.send(name, where, message=edit_of(last, where, order.words)))
        else:
            await self._phone.revoke(name, where, last.id)
            self.screen.say("taken back: the row says so in messages.revoked_at")

    async def _report(self, sent: Sent) -> None:
        """Print what became of a message once it is acknowledged."""
        if not self._worker.child.running:
            self._waiting.append(sent)
            self.screen.say("no worker runs: it waits with the virtual WhatsApp")
            return
        await self._phone.wait_receipts([sent], STORED_SECONDS)
        took = time.time() * 1000 - sent.sent_at_ms
        row: Row | None = await self._database.message(sent.id)
        if row is None:
            self.screen.say("acknowledged, without a row of its own: a change, or the group is not stored")
        else:
            content = shortened(row["text"] or "")
            self.screen.say(
                f"stored as row {row['id']} after {took:.0f} ms, then acknowledged: {row['kind']} {content}"
            )


async def _lines(prompt: Callable[[], None]) -> AsyncIterator[str]:
    """Lines of stdin, as they are typed; `prompt` is called before each. No thread: a thread that reads cannot be
    stopped."""
    seen = b""
    while True:
        prompt()
        while b"\n" not in seen:
            await anyio.wait_readable(sys.stdin)
            data = os.read(sys.stdin.fileno(), READ_BYTES)
            if not data:
                return
            seen += data
        line, _, seen = seen.partition(b"\n")
        yield line.decode(errors="replace")

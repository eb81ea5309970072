"""The tester at a terminal: reads instructions, sees a countdown, answers with a key and Enter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import anyio
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from acceptance.tester import Choice, Task
from demo.screen import Screen, unwrap_single_error
from worker.commands.keyboard import Keyboard
from worker.session.flags import PHONE, international
from worker.session.requests import ENTER_THE_CODE

ANSWER_SECONDS = 300.0
TICK_SECONDS = 0.5
KEYS = {"s": Choice.SKIP, "r": Choice.REPEAT, "d": Choice.DONE}


class Human:
    """A `Tester` who reads the screen."""

    def __init__(self, screen: Screen, keyboard: Keyboard) -> None:
        self._screen = screen
        self._keyboard = keyboard

    async def scan(self, qr: str) -> None:
        self._screen.qr(qr)
        self._screen.say("On the phone: WhatsApp → Linked devices → Link a device. A code that expires is drawn anew.")

    async def choose_group(self, question: str, groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
        for number, row in enumerate(groups, start=1):
            state = "  (monitored)" if row["monitor"] else ""
            self._screen.say(f"{number:>3}  {row['name'] or row['wa_group_id']}{state}")
        while True:
            answer = await self._ask(f"{question} Its number, then Enter:")
            if answer is None:
                raise AssertionError(f"nobody answered: {question}")
            if answer.isdecimal() and 1 <= int(answer) <= len(groups):
                return groups[int(answer) - 1]
            self._screen.say(f"A number from 1 to {len(groups)}, please.")

    async def perform(self, task: Task) -> Choice | None:
        self._screen.console.print(Panel(Text(task.say), title="On the phone", expand=False))
        self._keyboard.forget()
        choice: Choice | None = None
        async with unwrap_single_error(), anyio.create_task_group() as tasks:
            tasks.start_soon(self._count_down, task.seconds)
            choice = await self._choice()
            tasks.cancel_scope.cancel()
        return choice

    async def number(self, question: str) -> str | None:
        while answer := await self._ask(question):
            phone = international(answer)
            if PHONE.fullmatch(phone):
                return phone
            self._screen.say("With the country code, like +49 151 1234567, please.")
        return None

    async def type_code(self, code: str) -> None:
        self._screen.console.print(Panel(Text(f"{code}\n{ENTER_THE_CODE}"), title="On the phone", expand=False))

    async def agrees(self, question: str) -> bool:
        answer = await self._ask(f"{question} y or n, then Enter:")
        return (answer or "").casefold().startswith("y")

    async def _ask(self, question: str) -> str | None:
        """What is typed; None if nobody does, for a long time or for ever."""
        self._keyboard.forget()
        self._screen.say(f"{question} ({ANSWER_SECONDS:.0f} s)")
        with anyio.move_on_after(ANSWER_SECONDS):
            try:
                return await self._keyboard.line()
            except anyio.EndOfStream:
                return None
        return None

    async def _choice(self) -> Choice:
        try:
            while True:
                choice = KEYS.get((await self._keyboard.line()).casefold())
                if choice:
                    return choice
        except anyio.EndOfStream:
            await anyio.sleep_forever()
            raise

    async def _count_down(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        columns = (
            TextColumn("  waiting for it"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[left]:.0f} s left   s Enter: skip   r Enter: once more   d Enter: done"),
        )
        with Progress(*columns, console=self._screen.console, auto_refresh=False, transient=True) as progress:
            bar = progress.add_task("", total=seconds, left=seconds)
            while True:
                left = max(0.0, ends - time.monotonic())
                progress.update(bar, completed=seconds - left, left=left, refresh=True)
                await anyio.sleep(TICK_SECONDS)

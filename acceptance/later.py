"""The second part, after the contract's list: a restart with a backlog, a status, an hour, and linking by a code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio

from acceptance.linking import CALL_SECONDS, LOOK_SECONDS, Linking
from acceptance.record import closes, unanswered_ends
from acceptance.running import Running
from acceptance.steps import Scene, Since, Step, look_for_hidden, saying
from acceptance.tester import Choice, Task, Tester
from acceptance.verdict import Finding, awaited, passed_if, skipped
from demo.screen import Screen
from testkit.database import parse_time

QUESTION = "Go on with the second part? A restart with messages that wait, a status, an hour, and linking by a code."
BACKLOG = 120  # WhatsApp is said to hand a backlog out in windows of about 100
HOLD_SECONDS = 3600.0  # WhatsApp ends a stream after 50 minutes in which a stanza got no answer
LIVE_SECONDS = 60.0
BACKLOG_SECONDS = 900.0  # to send so many


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much the second part asks for; small for a test."""

    backlog: int = BACKLOG
    hold_seconds: float = HOLD_SECONDS


class SecondPart:
    """`play` runs a step with the tester, `note` takes findings."""

    def __init__(
        self,
        running: Running,
        tester: Tester,
        screen: Screen,
        scale: Scale,
        play: Callable[[Step], Awaitable[None]],
        note: Callable[[Sequence[Finding]], None],
    ) -> None:
        self._running = running
        self._tester = tester
        self._screen = screen
        self._scale = scale
        self._play = play
        self._note = note

    async def run(self, scene: Scene, linking: Linking) -> None:
        if not await self._tester.agrees(QUESTION):
            self._note(skipped((12, 13, 14, 15), "skipped by the tester: the second part"))
            return
        await self._restart(scene)
        self._screen.title("A contact's status")
        await self._play(STATUS)
        await self._hold(scene)
        self._screen.title("Linking by a code")
        await linking.by_code()

    async def _restart(self, scene: Scene) -> None:
        """Line 13."""
        self._screen.title("A restart, with messages that wait")
        await self._running.stop()
        task = BACKLOG_STEP.task(scene, count=self._scale.backlog, seconds=BACKLOG_SECONDS)
        choice: Choice | None = None
        with anyio.move_on_after(task.seconds):
            choice = await self._tester.perform(task)
        scene.started, scene.waiting = datetime.now(UTC), self._scale.backlog
        await self._running.again()
        scene.database = self._running.database
        if choice is Choice.SKIP:
            self._note(skipped((13,), "skipped by the tester: messages that wait"))
        else:
            await self._play(LIVE)

    async def _hold(self, scene: Scene) -> None:
        """Line 15: nothing to do for an hour; then a text."""
        self._screen.title("An hour")
        database = self._running.database
        tell = self._running.worker.child.tail
        await database.until("connected", self._running.connected, CALL_SECONDS, tell)
        last = await database.last_event()
        task = HOLD.task(scene, seconds=self._scale.hold_seconds)
        choice = await self._idle(task)
        if choice is Choice.SKIP:
            self._note(skipped((15,), "skipped by the tester: an hour"))
            return
        await self._play(AFTER)
        ends = [row for row in await database.events("disconnect") if row["id"] > last]
        hour = f"{self._scale.hold_seconds:.0f} s"
        self._note(
            [
                passed_if(True, 15, f"ends of connections in {hour}, by code: {closes(ends)}"),
                passed_if(not unanswered_ends(ends), 15, "none of them was for a stanza without an answer"),
            ]
        )

    async def _idle(self, task: Task) -> Choice | None:
        choice: Choice | None = None
        with anyio.move_on_after(task.seconds):
            choice = await self._tester.perform(task)
            while choice is None:
                self._running.check()
                await anyio.sleep(LOOK_SECONDS)
        return choice


async def look_for_live(scene: Scene, task: Task, since: Since) -> list[Finding]:
    """The messages that waited are rows, and so is the text that was sent after the start, soon."""
    assert scene.started is not None
    rows = await scene.database.newer_messages(scene.mark, scene.group.id)
    waited = sum(parse_time(row["ts"]) < scene.started for row in rows)
    live = saying(task.words[0], rows)
    findings = [
        passed_if(True, 13, f"{waited} messages that waited are rows")
        if waited >= scene.waiting
        else awaited(13, f"{scene.waiting} messages that waited are rows ({waited} are)")
    ]
    if live is None:
        return [*findings, awaited(13, "the text that was sent after the start")]
    seen_at = scene.seen.setdefault(task.words[0], datetime.now(UTC))
    took = (seen_at - max(scene.started, parse_time(live["ts"]))).total_seconds()
    return [
        *findings,
        passed_if(took <= LIVE_SECONDS, 13, f"the text sent after the start was a row {took:.0f} s later"),
    ]


async def look_for_status(scene: Scene, task: Task, since: Since) -> list[Finding]:
    return await look_for_hidden(14, scene, task, since)


async def look_for_text_after(scene: Scene, task: Task, since: Since) -> list[Finding]:
    row = saying(task.words[0], await scene.arrived(since))
    return [awaited(15, "the text in messages")] if row is None else [passed_if(True, 15, "a text after it is a row")]


async def look_for_none(scene: Scene, task: Task, since: Since) -> list[Finding]:
    """Of a task that nobody looks at while it is done."""
    return []


BACKLOG_STEP = Step(
    name="backlog",
    title="Messages that wait",
    lines=(13,),
    say=(
        "The worker is stopped. In “{group}”, send at least {count} messages: several times thirty photos, say, or "
        "texts forwarded in a bundle.\nThen d and Enter: the worker starts, and you are asked for a text."
    ),
    look=look_for_none,
)
LIVE = Step(
    name="live",
    title="A text at once after the start",
    lines=(13,),
    say="The worker has started. At once, in “{group}”, send this text:   {word}",
    look=look_for_live,
)
STATUS = Step(
    name="status",
    title="A contact's status",
    lines=(14,),
    say=(
        "A contact (each has the other's number saved) posts a status with this text:   {word}\n"
        "When it shows on the phone: in “{group}”, send this one:   {second}"
    ),
    look=look_for_status,
    patience=2.0,
)
HOLD = Step(
    name="hold",
    title="An hour",
    lines=(15,),
    say="Nothing to do: use the phone as always. When the time is over, you are asked for one more text.",
    look=look_for_none,
)
AFTER = Step(
    name="after",
    title="A text after the hour",
    lines=(15,),
    say="In “{group}”, send this text:   {word}",
    look=look_for_text_after,
    patience=5.0,  # nobody sits there for an hour
)

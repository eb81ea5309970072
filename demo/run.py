"""The demo from the first process to the closing table, in the order in which the user sees it.

Plays three roles at once: the operator who starts the worker, the web app that switches groups on, and the person who
holds the phone. The worker is the ordinary one, started as a user starts it.
"""

from __future__ import annotations

import hashlib
import statistics
import textwrap
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio

from demo.check import Found, Row, counted, differences, kinds
from demo.kinds import introduce_kinds, kind_differences, load_kinds, settled
from demo.scenario import Cast, Scenario, Step, introduce, load
from demo.screen import Line, Screen, shortened, sized
from testkit.database import Database
from testkit.embedded import endpoint
from testkit.phone import Sent, VirtualPhone
from testkit.processes import descendants, resident_bytes
from testkit.worker import Worker

MESSAGE_SECONDS = 20.0
KINDS_SECONDS = 60.0
KINDS_WIDTH = 110
LOOK_SECONDS = 0.01  # how often to look for a row: about what one query costs


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The result of sending seeds/kinds.json."""

    wrong: list[str]
    line: Line


class Demo:
    """One run in one folder."""

    def __init__(self, screen: Screen, folder: Path, scenario: Scenario | None = None) -> None:
        self.screen = screen
        self.folder = folder
        self.scenario = scenario or load()
        self.sent: dict[str, Sent] = {}
        self.latencies_ms: list[float] = []
        self._shown: dict[int, str] = {}  # row id → what the user saw of it

    async def run(self) -> list[str]:
        """Run everything; returns the differences between what is stored and what the scenario promises."""
        began = time.monotonic()
        async with AsyncExitStack() as running:
            phone, worker, database = await self._start(running)
            cast = await introduce(phone, self.scenario)
            await self._pair(phone, worker, database)
            await self._switch_on(cast, worker, database)
            await self._play(cast, worker, database)
            found = await self._read(database, worker, cast)
            examples = await self._every_kind(phone, worker, database)
            events = counted([row["event"] for row in await database.events()])
            memory = _memory(worker)
            self.screen.faint("stopping everything")
        leaks = await anyio.to_thread.run_sync(self._leaks)
        sent = {name: sent.id for name, sent in self.sent.items()}
        wrong = [*differences(cast, sent, found), *examples.wrong, *leaks]
        lines = [*self._lines(cast, found, leaks), examples.line, *self._figures(events, memory)]
        self.screen.table("What is in Supabase now", lines)
        for line in wrong:
            self.screen.wrong(f"DIFFERS  {line}")
        if not wrong:
            self.screen.console.print()
            self.screen.say(f"All as the scenario promises, in {time.monotonic() - began:.0f} s.")
        return wrong

    # Before the first message

    async def _start(self, running: AsyncExitStack) -> tuple[VirtualPhone, Worker, Database]:
        self.screen.title("1  Start: our virtual phone, and the worker with its embedded Supabase")
        phone = await running.enter_async_context(await VirtualPhone.start(self.folder))
        self.screen.say(f"virtual phone   {phone.socket_url}")
        worker = Worker.start(self.folder, phone=phone)
        await running.enter_async_context(worker)
        async with self.screen.waiting("an empty Supabase is made: Postgres, tables, functions, bucket"):
            await worker.ready()
            supabase = await endpoint(worker.data_dir, tell=worker.child.tail)
        self.screen.say(f"worker          {worker.url('/healthz')} → {await worker.healthz()}")
        self.screen.say(f"Supabase        {supabase.url}, in {worker.data_dir}")
        return phone, worker, await running.enter_async_context(await Database.connect(supabase.url, supabase.key))

    async def _pair(self, phone: VirtualPhone, worker: Worker, database: Database) -> None:
        self.screen.title("2  Link the phone: the QR code from wa_sessions.detail, as the web app would show it")
        async with self.screen.waiting("WhatsApp's QR code"):
            qr = await database.wait_qr(tell=worker.child.tail)
        self.screen.qr(qr)
        self.screen.say(f"wa_sessions.status = {await database.status()}")
        self.screen.say("the virtual phone scans it …")
        async with self.screen.waiting("the phone and the worker exchange keys"):
            await phone.scan(qr)
            await database.wait_status("connected", tell=worker.child.tail)
        row = await database.session_row() or {}
        self.screen.say(f"wa_sessions.status = connected, as {row.get('wa_name')} ({row.get('wa_number')})")

    async def _switch_on(self, cast: Cast, worker: Worker, database: Database) -> None:
        self.screen.title("3  Groups found; two of three are switched on in groups.monitor")
        async with self.screen.waiting("the list of groups"):
            await database.wait_groups((group.id for group in cast.groups.values()), tell=worker.child.tail)
        await database.monitor(cast.groups[key].id for key in self.scenario.monitored)
        await database.fetch_groups(tell=worker.child.tail)
        for row in await database.groups():
            state = "monitored" if row["monitor"] else "not monitored"
            self.screen.say(f"{row['name']:<18} {state:<14} {row['wa_group_id']}")

    # The scenario

    async def _play(self, cast: Cast, worker: Worker, database: Database) -> None:
        self.screen.title(f"4  {len(self.scenario.steps)} messages arrive")
        stored = {message.id for message in self.scenario.messages}
        for step in self.scenario.steps:
            sent = await cast.send(step)
            self.sent[step.id] = sent
            if step.id in stored:
                await self._see_it_stored(cast, step, sent, worker, database)
            else:
                await cast.phone.wait_receipts([sent], MESSAGE_SECONDS)
                self.screen.faint(f"{self._clock(sent)}  {self._who(cast, step)}  (private: receipted, not stored)")
        for message in self.scenario.messages:
            if message.media:
                async with self.screen.waiting(f"the file {message.media}"):
                    row = await database.wait_media(self.sent[message.id].id, MESSAGE_SECONDS, worker.child.tail)
                file = (await database.rows("media", id=row["media_id"]))[0]
                self.screen.say(
                    f"{message.media:<14} {file['mime']:<16.16} {sized(file['bytes']):>8}  {file['storage_path'][:12]}…"
                )

    async def _see_it_stored(self, cast: Cast, step: Step, sent: Sent, worker: Worker, database: Database) -> None:
        async with self.screen.waiting(f"the row of {step.id}"):

            async def seen() -> Row | None:
                return await database.message(sent.id)

            row = await database.until(
                f"message {step.id} in the table", seen, MESSAGE_SECONDS, worker.child.tail, every=LOOK_SECONDS
            )
        took_ms = time.time() * 1000 - sent.sent_at_ms
        if step.media is None:
            self.latencies_ms.append(took_ms)
        content = shortened(step.content)
        self._shown[row["id"]] = shortened(step.content, 24)
        if row["parent_id"]:
            content += f"  ↳ {self._shown[row['parent_id']]}"
        self.screen.say(f"{self._clock(sent)}  {self._who(cast, step)}  {row['kind']:<9} {took_ms:4.0f} ms  {content}")

    def _who(self, cast: Cast, step: Step) -> str:
        place = cast.groups[step.to].subject if step.to in cast.groups else "direct message"
        who = self.scenario.people.get(step.sender, "the owner")
        return f"{place:<16} {who:<10}"

    @staticmethod
    def _clock(sent: Sent) -> str:
        return time.strftime("%H:%M:%S", time.gmtime(sent.sent_at_ms / 1000))

    # Afterwards

    async def _read(self, database: Database, worker: Worker, cast: Cast) -> Found:
        self.screen.title("5  Read everything back")
        async with self.screen.waiting("rows and objects"):
            objects = await database.objects()
            contents = {path: await database.download(path) for path in objects}
            return Found(
                groups=await database.groups(),
                messages=await database.messages(),
                media=await database.rows("media"),
                objects=objects,
                sha256={path: hashlib.sha256(data).hexdigest() for path, data in contents.items()},
            )

    async def _every_kind(self, phone: VirtualPhone, worker: Worker, database: Database) -> Examples:
        """Send seeds/kinds.json to a group of its own, and compare row by row."""
        kinds = load_kinds(self.scenario.folder)
        self.screen.title(f"6  {len(kinds.examples)} more, of every kind that a group can carry")
        players = await introduce_kinds(phone, kinds)
        await database.wait_groups([players.group.id], tell=worker.child.tail)
        await database.monitor([players.group.id])
        await database.fetch_groups(tell=worker.child.tail)
        async with self.screen.waiting("every row and every file"):
            for example in kinds.examples:
                await players.send(example)

            async def there() -> bool:
                return settled(players, await database.messages(chat_id=players.group.id))

            await database.until("every message and every file", there, KINDS_SECONDS, worker.child.tail)
            rows = await database.messages(chat_id=players.group.id)
            wrong = kind_differences(players, rows, await database.rows("media"))
        for line in textwrap.wrap(counted([row["kind"] for row in rows]), KINDS_WIDTH):
            self.screen.say(line)
        promised = f"{len(kinds.examples)} rows, {len({each.expect.kind for each in kinds.examples})} kinds"
        found = f"{len(rows)} rows, {len({row['kind'] for row in rows})} kinds"
        return Examples(wrong=wrong, line=_compared("one of every kind", promised, found))

    def _leaks(self) -> list[str]:
        """Private texts and files found in a file of the folder: the database's, the bucket's, a log."""
        found = []
        needles = self.scenario.nowhere_bytes()
        control = self.scenario.messages[0].text or ""
        seen = False
        for path in sorted(self.folder.rglob("*")):
            # the virtual phone wrote these messages; its files do not count
            if path.is_file() and path.name != "phone.log":
                content = path.read_bytes()
                seen = seen or control.encode() in content
                found += [
                    f"message {name}: its content is in {path}" for name, needle in needles.items() if needle in content
                ]
        return found if seen else [*found, "the search for private content finds nothing at all, not even public texts"]

    def _lines(self, cast: Cast, found: Found, leaks: list[str]) -> list[Line]:
        lines = []
        for key, group in cast.groups.items():
            there = [row["kind"] for row in found.messages if row["chat_id"] == group.id]
            rows = self.scenario.rows_per_group[key]
            promised = f"{rows} rows: {kinds(self.scenario.messages, key)}" if rows else "nothing: not monitored"
            seen = (
                f"{len(there)} rows: {counted(there)}" if there else ("nothing" if rows else "nothing: not monitored")
            )
            lines.append(_compared(f"messages, {group.subject}", promised, seen))
        linked = [row for row in found.messages if row["media_id"]]
        files = [message for message in self.scenario.messages if message.media]
        links = [message for message in self.scenario.messages if message.parent]
        expected = self.scenario.media
        lines += [
            _compared("messages with a file", str(len(files)), str(len(linked))),
            _compared("media", f"{len(expected)} contents", f"{len({row['sha256'] for row in found.media})} contents"),
            _compared(
                "bucket wa-media",
                f"{len(expected)} objects, {sized(sum(file.bytes for file in expected))}",
                f"{len(found.objects)} objects, {sized(sum(found.objects.values()))}",
            ),
            _compared("parent links", str(len(links)), str(sum(1 for row in found.messages if row["parent_id"]))),
            _compared("private content, in any file", "nowhere", "nowhere" if not leaks else f"{len(leaks)} places"),
        ]
        return lines

    def _figures(self, events: str, memory: Mapping[str, int]) -> list[Line]:
        took = self.latencies_ms
        latency = (
            f"median {statistics.median(took):.0f} ms of {len(took)}, longest {max(took):.0f} ms" if took else "none"
        )
        shown = ", ".join(f"{name} {sized(size)}" for name, size in memory.items())
        return [
            Line(what="audit_log", promised="", found=events),
            Line(what="text sent → row visible", promised="", found=latency),
            Line(what="memory in use", promised="", found=shown),
        ]


def _compared(what: str, promised: str, found: str) -> Line:
    return Line(what=what, promised=promised, found=found, right=promised == found)


def _memory(worker: Worker) -> dict[str, int]:
    """Resident bytes of the worker, its sidecar and its Supabase."""
    sizes = {"worker": resident_bytes(worker.child.pid)}
    for pid in descendants(worker.child.pid):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        name = "sidecar" if b"sidecar-baileys" in command else "Supabase"
        sizes[name] = sizes.get(name, 0) + resident_bytes(pid)
    return sizes

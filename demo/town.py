"""A town to play in: a virtual phone, an embedded Supabase and an ordinary worker, in one folder.

`python -m demo.town FOLDER SESSION` runs a town as a process. Lines on its stdin are orders, `{"id", "do", …}`; lines
on its stdout are answers, `{"id", "ok"}` or `{"id", "no"}`. At the start it prints its steps, `{"say"}`, then
`{"ready": true}`, and `{"worker"}` whenever the worker's state changes. It ends when its stdin closes. However it ends,
its processes are killed and FOLDER is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
import httpx
from postgrest import APIError

from demo.outbox import Item, Outbox, What
from demo.scenario import Cast, introduce, load
from testkit.database import Database
from testkit.phone import Media, PhoneError, Sent, VirtualPhone
from testkit.processes import NODE
from testkit.waiting import TookTooLong
from testkit.worker import Worker
from worker.commands.keyboard import Keyboard
from worker.errors import WorkerError, unwrapped
from worker.installation import Report, install_packages
from worker.store.embedded import Embedded, embedded_supabase

PICTURE = "hills.jpg"
EMOJI = "👍"
TEXT_CHARS_MAX = 4000
SENT_MAX = 1000  # bounds what one town costs
SHOWN = 12  # newest sent messages shown
CODE_SECONDS = 5.0
FIRST_CODE_SECONDS = 60.0
WATCH_SECONDS = 0.5
REMOVE_SECONDS = 10.0
LEASE_SECONDS = 10  # a killed worker's lease ends soon enough for somebody who watches
# The contract's default would drop messages that wait while the worker is dead.
SETTINGS = {"WORKER_CATCH_UP_S": "86400", "WORKER_LEASE_S": str(LEASE_SECONDS)}

Json = dict[str, Any]
WorkerState = Literal["running", "starting", "dead"]  # starting: it does not serve the session yet
Refusal = Literal[
    "full", "unknown", "empty", "long", "no_message", "not_text", "deleted", "unlinked", "linked", "no_code", "code",
    "dead", "running",
]  # fmt: skip


class NotPossible(Exception):
    """An order that is not possible now; the text is a `Refusal`."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(why)


class Town:
    """One town. Made by `found`."""

    def __init__(self, folder: Path, supabase: Mapping[str, str], cast: Cast, database: Database) -> None:
        self._folder = folder
        self._supabase = supabase
        self._cast = cast
        self._database = database
        self._outbox = Outbox(cast.phone, database)
        self._former: str | None = None  # who held the lease when the worker started
        self._serving = self._dead = False
        self.worker = self._start()

    async def send(self, who: str, group: str, text: str, *, picture: bool = False) -> int:
        """Send a message; returns its number.

        Raises:
            NotPossible: no such person or group, nothing to say, no linked device, or the limit is reached.
            PhoneError: the virtual phone refused.
        """
        people, groups = self._cast.scenario.people, self._cast.scenario.groups
        if group not in groups or who not in groups[group]["participants"]:
            raise NotPossible("unknown")
        if not (text or picture):
            raise NotPossible("empty")
        await self._may_send(text)
        media = picture_of(self._cast, text) if picture else None
        to = self._cast.groups[group].id
        sent = await self._cast.phone.send(people[who], to, None if picture else text, media=media)
        return self._outbox.add("picture" if picture else "text", who, group, text, sent)

    async def change(self, of: int, what: What, text: str) -> int:
        """Edit or revoke a message as its author, or react to it as somebody else in the group.

        Raises:
            NotPossible: no such message, it is deleted, or it cannot be changed in this way.
            PhoneError: the virtual phone refused.
        """
        items = self._outbox.items
        if not 0 <= of < len(items) or not items[of].is_message:
            raise NotPossible("no_message")
        if self._outbox.is_deleted(items[of]):
            raise NotPossible("deleted")
        await self._may_send(text)
        item, scenario = items[of], self._cast.scenario
        phone, to, who = self._cast.phone, self._cast.groups[item.group].id, item.who
        match what:
            case "edit":
                if item.what != "text":
                    raise NotPossible("not_text")
                if not text:
                    raise NotPossible("empty")
                sent = await phone.send(scenario.people[who], to, message=edit_of(item.sent, to, text))
            case "delete":
                text = ""
                sent = await phone.revoke(scenario.people[who], to, item.sent.id)
            case _:
                text, who = EMOJI, next(each for each in scenario.groups[item.group]["participants"] if each != who)
                sent = await phone.send(scenario.people[who], to, message=reaction_to(item.sent, to, text))
        return self._outbox.add(what, who, item.group, text, sent, of)

    async def link(self) -> None:
        """Do the owner's part on the phone: scan the code that the worker shows, or type it in.

        Raises:
            NotPossible: no code is shown, or it has just expired.
        """
        if await self._is_linked():
            raise NotPossible("linked")
        try:
            if typed := (await self._database.detail()).get("pairing_code"):
                await self._cast.phone.pair_code(str(typed))
                return
            await self._cast.phone.scan(await self._database.wait_qr(CODE_SECONDS))
        except TookTooLong:
            raise NotPossible("no_code") from None
        except PhoneError:
            raise NotPossible("code") from None

    async def kill(self) -> None:
        """kill -9.

        Raises:
            NotPossible: it is dead already.
        """
        if not self.worker.child.running:
            raise NotPossible("dead")
        self.worker.child.kill()
        await self.worker_state()

    async def start(self) -> None:
        """Start the worker again.

        Raises:
            NotPossible: it runs already.
        """
        former = (await self._database.session_row() or {}).get("lease_owner")
        if self.worker.child.running:
            raise NotPossible("running")
        self._former, self._serving, self._dead = former, False, False
        self.worker = self._start()

    async def worker_state(self) -> WorkerState:
        """What the worker does. It serves the session once it has taken the lease over from its predecessor."""
        if not self.worker.child.running:
            if not self._dead:
                self._dead = True
                await self._outbox.begin_absence()
            return "dead"
        if not self._serving:
            owner = (await self._database.session_row() or {}).get("lease_owner")
            self._serving = owner not in (None, self._former)
        return "running" if self._serving else "starting"

    async def look(self) -> Json:
        """The current state: people, groups and worker, and what was sent, acknowledged and stored."""
        worker = await self.worker_state()
        await self._outbox.update()
        scenario, items = self._cast.scenario, self._outbox.items
        monitored = {row["wa_group_id"] for row in await self._database.groups() if row["monitor"]}
        return {
            "worker": worker,
            "linked": await self._is_linked(),
            "owner": self._cast.people["owner"].pn.partition("@")[0],
            "people": [
                {"who": who, "group": key, "name": scenario.people[who], "in": self._cast.groups[key].subject}
                for key, group in scenario.groups.items()
                for who in group["participants"]
            ],
            "groups": [self._count(key) | {"on": self._cast.groups[key].id in monitored} for key in scenario.groups],
            "items": [self._shown(item) for item in reversed(items[-SHOWN:])],
            "absence": self._outbox.absence(),
        }

    async def _may_send(self, text: str) -> None:
        if len(self._outbox.items) >= SENT_MAX:
            raise NotPossible("full")
        if len(text) > TEXT_CHARS_MAX:
            raise NotPossible("long")
        if not await self._is_linked():
            raise NotPossible("unlinked")

    async def _is_linked(self) -> bool:
        return bool((await self._cast.phone.state())["paired"])

    def _count(self, group: str) -> Json:
        mine = [item for item in self._outbox.items if item.is_message and item.group == group]
        return {
            "key": group,
            "name": self._cast.groups[group].subject,
            "sent": len(mine),
            "receipted": sum(item.receipted for item in mine),
            "stored": sum(item.row is not None for item in mine),
        }

    def _shown(self, item: Item) -> Json:
        names = {"who": self._cast.scenario.people[item.who], "group": self._cast.groups[item.group].subject}
        known = {"number": item.number, "what": item.what, "of": item.of, "words": item.words, "row": item.row}
        state = {"receipted": item.receipted, "settled": item.settled, "deleted": self._outbox.is_deleted(item)}
        return {**names, **known, **state}

    def _start(self) -> Worker:
        settings = {**self._supabase, **SETTINGS, "WORKER_SESSION": self._database.session}
        return Worker.start(self._folder / "worker", phone=self._cast.phone, settings=settings, tied=True)


@asynccontextmanager
async def found(folder: Path, session: str, say: Report) -> AsyncIterator[Town]:
    """A town in `folder`, whose worker shows a code. All its processes are killed at the end."""
    async with AsyncExitStack() as running:
        say("phone")
        phone = await running.enter_async_context(await VirtualPhone.start(folder))
        say("database")
        place = Embedded(data_dir=folder / "data", node=NODE)
        endpoint = await running.enter_async_context(embedded_supabase(place))
        database = await running.enter_async_context(await Database.connect(endpoint.url, endpoint.key, session))
        cast = await introduce(phone, load())
        say("worker")
        town = Town(folder, {"SUPABASE_URL": endpoint.url, "SUPABASE_SERVICE_KEY": endpoint.key}, cast, database)
        running.callback(lambda: town.worker.child.kill())
        await town.worker.ready()
        await database.wait_qr(FIRST_CODE_SECONDS, town.worker.child.tail)
        yield town


def picture_of(cast: Cast, caption: str) -> Media:
    """The picture that this town sends."""
    return Media(data=cast.scenario.data(PICTURE), caption=caption or None, **cast.scenario.files[PICTURE])


def edit_of(sent: Sent, group: str, text: str) -> Json:
    """The content of an edit of an earlier message to `text`."""
    key = {"remoteJid": group, "fromMe": True, "id": sent.id}
    changed = {"type": 14, "key": key, "editedMessage": {"conversation": text}, "timestampMs": int(time.time() * 1000)}
    return {"protocolMessage": changed}


def reaction_to(sent: Sent, group: str, emoji: str) -> Json:
    """The content of a reaction to an earlier message."""
    key = {"remoteJid": group, "fromMe": False, "id": sent.id, "participant": sent.participant}
    return {"reactionMessage": {"key": key, "text": emoji, "senderTimestampMs": int(time.time() * 1000)}}


# The town as a process


async def serve(folder: Path, session: str) -> None:
    """Start a town and follow orders until stdin closes or a signal comes."""
    async with anyio.create_task_group() as tasks:
        orders, lines = anyio.create_memory_object_stream[Json](0)
        tasks.start_soon(_until_signalled, tasks.cancel_scope)
        tasks.start_soon(_read, orders, tasks.cancel_scope)
        async with found(folder, session, lambda step: _write({"say": step})) as town:
            watch = _Watch(town)
            await watch.look()
            _write({"ready": True})
            async with anyio.create_task_group() as work:
                work.start_soon(watch.run)
                async for order in lines:
                    work.start_soon(_follow, town, order, watch)


class _Watch:
    """Says each state of the worker: after an order that changes it, and if it ends by itself."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._said: WorkerState | None = None

    async def run(self) -> None:
        while True:
            await anyio.sleep(WATCH_SECONDS)
            await self.look()

    async def look(self) -> None:
        try:
            state = await self._town.worker_state()
        except (PhoneError, httpx.HTTPError, APIError):
            return  # the phone or the database is busy or ending: next time
        if state != self._said:
            self._said = state
            _write({"worker": state})


async def _until_signalled(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def _read(orders: anyio.abc.ObjectSendStream[Json], scope: anyio.CancelScope) -> None:
    keyboard = Keyboard()
    try:
        while True:
            await orders.send(json.loads(await keyboard.line()))
    except anyio.EndOfStream:
        scope.cancel()


async def _follow(town: Town, order: Json, watch: _Watch) -> None:
    """Carry out one order and answer it. What only a log needs to know goes to stderr, the town's log."""
    try:
        answer = await _done(town, order)
        await watch.look()
    except NotPossible as no:
        _write({"id": order["id"], "no": str(no)})
    except (PhoneError, TookTooLong, httpx.HTTPError, APIError) as failed:
        print(f"{order['do']}: {type(failed).__name__}: {failed}", file=sys.stderr, flush=True)
        _write({"id": order["id"], "no": "failed"})
    else:
        _write({"id": order["id"], "ok": answer})


async def _done(town: Town, order: Json) -> object:
    match order:
        case {"do": "look"}:
            return await town.look()
        case {"do": "send", "who": str(who), "group": str(group), "text": str(text), "picture": bool(picture)}:
            return await town.send(who, group, text, picture=picture)
        case {"do": "change", "of": int(of), "what": "edit" | "reaction" | "delete" as what, "text": str(text)}:
            return await town.change(of, what, text)
        case {"do": "link"}:
            await town.link()
        case {"do": "kill"}:
            await town.kill()
        case {"do": "start"}:
            await town.start()
        case _:
            raise NotPossible("unknown")
    return None


def _write(line: Json) -> None:
    with contextlib.suppress(BrokenPipeError):  # the reader is gone; so is stdin
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _remove(folder: Path) -> None:
    """A dying process of the town may still write files after the first removal, so remove again."""
    until = time.monotonic() + REMOVE_SECONDS
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("session")
    args = parser.parse_args()
    try:
        with unwrapped():
            install_packages(NODE, lambda _line: _write({"say": "packages"}))
            anyio.run(serve, args.folder, args.session)
    except (WorkerError, AssertionError) as failed:  # a wait timed out, or the virtual phone did not start
        _write({"failed": str(failed).splitlines()[0]})
        sys.exit(1)
    except Exception as failed:
        _write({"failed": f"{type(failed).__name__}: {failed}".splitlines()[0]})
        raise
    finally:
        _remove(args.folder)


if __name__ == "__main__":
    main()

"""A town to play in: a virtual phone, an embedded Supabase and an ordinary worker, in one folder.

`python -m demo.town FOLDER SESSION` runs a town as a process. Lines on its stdin are orders, `{"id", "do", …}`; lines
on its stdout are answers, `{"id", "ok"}` or `{"id", "no"}`. At the start it prints its steps, `{"say"}`, then
`{"ready": true}`. It ends when its stdin closes. However it ends, its processes are killed and FOLDER is removed.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
import httpx
from postgrest import APIError

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
LOOKED_FOR = 200  # rows in one query
CODE_SECONDS = 5.0
REMOVE_SECONDS = 10.0
# The contract's default would drop messages that wait while the worker is dead.
SETTINGS = {"WORKER_CATCH_UP_S": "86400"}

What = Literal["text", "picture", "edit", "reaction", "delete"]
Json = dict[str, Any]


class NotPossible(Exception):
    """An order that is not possible now; the text says why."""


@dataclass(kw_only=True)
class Item:
    """A message sent from the virtual phone, or a change of one (`of` is its number)."""

    number: int
    what: What
    who: str
    group: str
    words: str
    sent: Sent
    of: int | None = None
    receipted: bool = False
    row: int | None = None
    settled: bool = False  # its row is known, if it was to have one

    @property
    def is_message(self) -> bool:
        return self.of is None


class Town:
    """One town. Made by `found`."""

    def __init__(self, folder: Path, supabase: Mapping[str, str], cast: Cast, database: Database) -> None:
        self._folder = folder
        self._supabase = supabase
        self._cast = cast
        self._database = database
        self._items: list[Item] = []
        self._receipts = 0
        self.worker = self._start()

    async def send(self, who: str, group: str, text: str, *, picture: bool = False) -> int:
        """Send a message; returns its number.

        Raises:
            NotPossible: no such person or group, nothing to say, or the limit is reached.
            PhoneError: the virtual phone refused.
        """
        if len(self._items) >= SENT_MAX:
            raise NotPossible("this town has heard enough: stop it, and start another")
        people, groups = self._cast.scenario.people, self._cast.scenario.groups
        if group not in groups or who not in groups[group]["participants"]:
            raise NotPossible("there is no such group, or this person is not in it")
        if len(text) > TEXT_CHARS_MAX or not (text or picture):
            raise NotPossible(f"a text has 1 to {TEXT_CHARS_MAX} characters")
        media = picture_of(self._cast, text) if picture else None
        to = self._cast.groups[group].id
        sent = await self._cast.phone.send(people[who], to, None if picture else text, media=media)
        return self._note("picture" if picture else "text", who, group, text, sent)

    async def change(self, of: int, what: What, text: str) -> int:
        """Edit or revoke a message as its author, or react to it as somebody else in the group."""
        if len(self._items) >= SENT_MAX or not 0 <= of < len(self._items) or not self._items[of].is_message:
            raise NotPossible("there is no such message to change")
        item, scenario = self._items[of], self._cast.scenario
        phone, to, who = self._cast.phone, self._cast.groups[item.group].id, item.who
        match what:
            case "edit":
                if item.what != "text" or not 0 < len(text) <= TEXT_CHARS_MAX:
                    raise NotPossible("only a text can be edited, into another text")
                sent = await phone.send(scenario.people[who], to, message=edit_of(item.sent, to, text))
            case "delete":
                sent = await phone.revoke(scenario.people[who], to, item.sent.id)
            case "reaction":
                text, who = EMOJI, next(each for each in scenario.groups[item.group]["participants"] if each != who)
                sent = await phone.send(scenario.people[who], to, message=reaction_to(item.sent, to, text))
            case _:
                raise NotPossible(f"{what} changes nothing")
        return self._note(what, who, item.group, text, sent, of)

    async def link(self) -> None:
        """Do the owner's part on the phone: scan the code that the worker shows, or type it in."""
        if typed := (await self._database.detail()).get("pairing_code"):
            await self._cast.phone.pair_code(str(typed))
            return
        await self._cast.phone.scan(await self._database.wait_qr(CODE_SECONDS))

    def kill(self) -> None:
        """kill -9."""
        self.worker.child.kill()

    def start(self) -> None:
        """Start the worker again if it is not running."""
        if not self.worker.child.running:
            self.worker = self._start()

    async def look(self) -> Json:
        """The current state: people, groups and worker, and what was sent, acknowledged and stored."""
        await self._take_receipts()
        await self._find_rows()
        scenario = self._cast.scenario
        return {
            "worker": self.worker.child.running,
            "owner": self._cast.people["owner"].pn.partition("@")[0],
            "people": [
                {"who": who, "group": key, "name": scenario.people[who], "in": self._cast.groups[key].subject}
                for key, group in scenario.groups.items()
                for who in group["participants"]
            ],
            "groups": [self._count(key) for key in scenario.groups],
            "items": [self._shown(item) for item in reversed(self._items[-SHOWN:])],
        }

    async def _take_receipts(self) -> None:
        answer = await self._cast.phone.get("/receipts", since=self._receipts)
        self._receipts = int(answer["next"])
        there = {each["id"] for each in answer["items"] if each["kind"] == "receipt"}
        for item in self._items:
            item.receipted = item.receipted or item.sent.id in there

    async def _find_rows(self) -> None:
        """Queried after the receipts: what is acknowledged already has its row, or never gets one."""
        wanted = {item.sent.id: item for item in self._items if item.is_message and not item.settled}
        asked = list(wanted)[:LOOKED_FOR]
        if not asked:
            return
        query = self._database.client.table("messages").select("id,wa_msg_id").eq("session_id", self._database.session)
        found: Any = (await query.in_("wa_msg_id", asked).execute()).data
        for row in found:
            wanted[row["wa_msg_id"]].row = row["id"]
        for item in (wanted[each] for each in asked):
            item.settled = item.row is not None or item.receipted

    def _count(self, group: str) -> Json:
        mine = [item for item in self._items if item.is_message and item.group == group]
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
        return {**names, **known, "receipted": item.receipted, "settled": item.settled}

    def _note(self, what: What, who: str, group: str, words: str, sent: Sent, of: int | None = None) -> int:
        number = len(self._items)
        self._items.append(Item(number=number, what=what, who=who, group=group, words=words, sent=sent, of=of))
        return number

    def _start(self) -> Worker:
        settings = {**self._supabase, **SETTINGS, "WORKER_SESSION": self._database.session}
        return Worker.start(self._folder / "worker", phone=self._cast.phone, settings=settings, tied=True)


@asynccontextmanager
async def found(folder: Path, session: str, say: Report) -> AsyncIterator[Town]:
    """A town in `folder`, whose worker waits for a phone. All its processes are killed at the end."""
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
        running.callback(town.kill)
        await town.worker.ready()
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
            _write({"ready": True})
            async with anyio.create_task_group() as work:
                async for order in lines:
                    work.start_soon(_follow, town, order)


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


async def _follow(town: Town, order: Json) -> None:
    """Carry out one order and answer it."""
    try:
        answer = await _done(town, order)
    except (NotPossible, PhoneError, TookTooLong, httpx.HTTPError, APIError) as no:
        _write({"id": order["id"], "no": (str(no) or type(no).__name__).splitlines()[0]})
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
            town.kill()
        case {"do": "start"}:
            town.start()
        case _:
            raise NotPossible("there is no such order")
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
    finally:
        _remove(args.folder)


if __name__ == "__main__":
    main()

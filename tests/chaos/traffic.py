"""Several people in several groups, talking at random: the traffic of a chaos run, repeatable from its seed.

Sends and keeps the ledger; knows nothing of faults. Every kind of traffic comes once before any comes twice.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import anyio

from testkit.phone import Group, VirtualPhone
from testkit.processes import ROOT
from testkit.waiting import until
from tests.chaos.ledger import FORBIDDEN, Entry, Ledger

Json = dict[str, Any]

SEEDS = ROOT / "seeds" / "media"
FILES: dict[str, Json] = {
    "hills.jpg": {"kind": "image", "mime": "image/jpeg", "width": 960, "height": 640},
    "oranges.jpg": {"kind": "image", "mime": "image/jpeg", "width": 900, "height": 675},
    "voice.ogg": {"kind": "voice", "mime": "audio/ogg; codecs=opus", "seconds": 3},
    "clip.mp4": {"kind": "video", "mime": "video/mp4", "width": 320, "height": 240, "seconds": 2},
    "sticker.webp": {"kind": "sticker", "mime": "image/webp", "width": 512, "height": 512},
    "list.pdf": {"kind": "document", "mime": "application/pdf", "file_name": "list.pdf"},
}
WRITERS = ("Ana", "Ben", "Chika", "Dana", "Emeka", "Farid")
NEWCOMERS = 60  # members who have never written: each first message opens a Signal session
AT_ONCE = 25
HUGE_CHARS = 5_000_000
HUGE_MAX = 2  # in one run; each is a row of 5 MB, and another 5 MB in `raw`
PAUSE_SECONDS = (0.05, 0.4)
UNREAD_SECONDS = 600.0  # longer than any fault; that the backlog ends is what settling looks at
UNREAD_MAX = 400  # more than this without a receipt: the machine cannot keep up, and a backlog tests nothing new
WORDS = (
    "oranges",
    "straße",
    "🍊🍋",
    "naïve",
    "да",
    "こんにちは",
    "مرحبا",
    "x̱",
    "line\nbreak",
    '"quoted\\"',
    "\u2066rtl\u2069",
)

WEIGHTS = {
    "text": 40,
    "burst": 5,
    "file": 10,
    "same_file": 4,
    "forward": 3,
    "own": 6,
    "unmonitored": 6,
    "unmonitored_file": 1,
    "direct": 4,
    "own_direct": 2,
    "shared_id": 4,
    "out_of_order": 4,
    "duplicate": 4,
    "nul": 2,
    "newcomer": 4,
    "retried": 2,
    "huge": 1,
}


class Traffic:
    """Sends until it is cancelled; `stop` lets the present message finish."""

    def __init__(self, phone: VirtualPhone, ledger: Ledger, seed: object, bursts: int = 120) -> None:
        self.ledger = ledger
        self._phone = phone
        self._random = Random(f"{seed}:traffic")  # noqa: S311 - repeatable on purpose
        self._bursts = bursts
        self._number = 0
        self._deck: list[str] = []
        self._newcomers: list[tuple[str, Group]] = []
        self._files: list[Json] = []  # sent before
        self._forwardable: list[str] = []  # ids of messages with a file
        self._huge = 0
        self._idle = anyio.Lock()
        self._stopped = False

    async def found(self) -> None:
        """People and groups, before anything is said."""
        ledger, phone = self.ledger, self._phone
        newcomers = [f"Guest {number}" for number in range(NEWCOMERS)]
        for name in (*WRITERS, *newcomers):
            ledger.know(await phone.person(name))
        ledger.know(await phone.owner())
        for subject, mode, monitored in (
            ("Market", "lid", True),
            ("Crew", "pn", True),
            ("Choir", "lid", True),
            ("Family", "lid", False),
            ("Old friends", "pn", False),
        ):
            members = [*WRITERS, *newcomers]
            group = await phone.group(subject, members, mode)  # type: ignore[arg-type]
            ledger.groups[group.id] = group
            if monitored:
                ledger.monitored.add(group.id)
        listening = [ledger.groups[chat] for chat in sorted(ledger.monitored)]
        self._newcomers = [(name, listening[n % len(listening)]) for n, name in enumerate(newcomers)]

    async def warm_up(self) -> None:
        """Everybody writes once everywhere: afterwards a message out of order still finds its sender's key."""
        for group in self.ledger.groups.values():
            await self._send_all([self._text(writer, group) for writer in WRITERS], "text")
            await self._send_all([self._text("me", group)], "own")

    async def run(self) -> None:
        while not self._stopped:
            await self._until_read()
            async with self._idle:
                await self.say(self._draw())
            await anyio.sleep(self._random.uniform(*PAUSE_SECONDS))

    async def _until_read(self) -> None:
        async def probe() -> bool:
            return self._stopped or int((await self._phone.state())["offline_queue"]) <= UNREAD_MAX

        await until("the backlog to shrink", probe, seconds=UNREAD_SECONDS, every=PAUSE_SECONDS[1])

    async def stop(self) -> None:
        """Returns when nothing is being sent any more."""
        self._stopped = True
        async with self._idle:
            pass

    def _draw(self) -> str:
        if not self._deck:
            first = sorted(WEIGHTS)
            self._random.shuffle(first)
            more = self._random.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=5000)
            self._deck = [*reversed(more), *reversed(first)]
        return self._deck.pop()

    async def say(self, kind: str) -> None:
        """One occurrence of this kind of traffic."""
        await getattr(self, f"_say_{kind}")(kind)

    # Kinds

    async def _say_text(self, kind: str) -> None:
        group = self._group()
        await self._send_all([self._text(self._writer(), group) for _ in range(self._random.randint(1, 8))], kind)

    async def _say_burst(self, kind: str) -> None:
        await self.burst(self._random.randint(self._bursts // 3, self._bursts))

    async def _say_file(self, kind: str) -> None:
        await self.fresh_file()

    async def _say_same_file(self, kind: str) -> None:
        if not self._files:
            await self.fresh_file()
        media = self._random.choice(self._files)
        await self._send_all([self._file(self._writer(), self._group(), media)], kind)

    async def _say_forward(self, kind: str) -> None:
        if not self._forwardable:
            await self.fresh_file()
        source = self._random.choice(self._forwardable)
        await self._send_all([self._base(self._writer(), self._group()) | {"forward_of": source}], kind)

    async def _say_own(self, kind: str) -> None:
        await self._send_all([self._text("me", self._group())], kind)

    async def _say_unmonitored(self, kind: str) -> None:
        items = [self._text(self._writer(), self._group(False)) for _ in range(self._random.randint(1, 4))]
        await self._send_all(items, kind)

    async def _say_unmonitored_file(self, kind: str) -> None:
        await self._send_all([self._file(self._writer(), self._group(False), self._content())], kind)

    async def _say_direct(self, kind: str) -> None:
        text = f"{FORBIDDEN} {self._words()}"
        await self._send_all([{"from": self._writer(), "to": "direct", "text": text}], kind)

    async def _say_own_direct(self, kind: str) -> None:
        await self._send_all([{"from": "me", "to": self._writer(), "text": f"{FORBIDDEN} {self._words()}"}], kind)

    async def _say_shared_id(self, kind: str) -> None:
        """Ids are chosen by senders: two choose the same one, in the same group, and one of them in another as well."""
        here, there = self._random.sample([self.ledger.groups[chat] for chat in sorted(self.ledger.monitored)], 2)
        one, two = self._random.sample(WRITERS, 2)
        shared = {"id": f"SAME{self._random.randbytes(8).hex().upper()}"}
        items = [self._text(one, here), self._text(two, here), self._text(one, there)]
        await self._send_all([item | shared for item in items], kind)

    async def _say_out_of_order(self, kind: str) -> None:
        writer, group = self._writer(), self._group()
        late = [
            self._text(writer, group) | {"fault": {"out_of_order": True}} for _ in range(self._random.randint(1, 3))
        ]
        await self._send_all([*late, self._text(writer, group)], kind)

    async def _say_duplicate(self, kind: str) -> None:
        items = [self._text(self._writer(), self._group()) | {"fault": {"duplicate": True}}]
        await self._send_all(items, kind)

    async def _say_nul(self, kind: str) -> None:
        item = self._text(self._writer(), self._group())
        item["text"] = f"before\0after {item['text']}"
        await self._send_all([item], kind)

    async def _say_newcomer(self, kind: str) -> None:
        if not self._newcomers:
            return await self._say_text("text")
        name, group = self._newcomers.pop()
        await self._send_all([self._text(name, group)], kind)
        return None

    async def _say_retried(self, kind: str) -> None:
        """Spoiled on its way: the client must ask again, and the good copy must get in."""
        await self._send_all([self._text(self._writer(), self._group()) | {"fault": {"corrupt": True}}], kind)

    async def _say_huge(self, kind: str) -> None:
        if self._huge >= HUGE_MAX:
            return await self._say_text("text")
        self._huge += 1
        item = self._text(self._writer(), self._group())
        item["text"] = (item["text"] + " 🍊").ljust(HUGE_CHARS, "o")
        await self._send_all([item], kind)
        return None

    # What faults ask for

    async def burst(self, count: int) -> None:
        """Many at once, from several people into several groups."""
        groups = [self.ledger.groups[chat] for chat in sorted(self.ledger.monitored)]
        prefix = f"{self.ledger.phase}-burst-{self._next()}"
        begun = time.time()
        answer = await self._phone.burst(WRITERS, [group.id for group in groups], count, text_prefix=prefix)
        for item in answer["items"]:
            person = self.ledger.name(item["participant"])
            self._enter(item["id"], person, item["to"], item["text"], None, "burst", (begun, time.time()))

    async def fresh_file(self, size: int = 0) -> None:
        """A file that nobody has sent before."""
        media = self._content(size)
        self._files.append(media)
        await self._send_all([self._file(self._writer(), self._group(), media)], "file")

    async def one(self) -> Entry:
        """A single text in a monitored group, to wait for."""
        await self._send_all([self._text(self._writer(), self._group())], "text")
        return self.ledger.entries[-1]

    async def named(self, id_: str, kind: str) -> Entry:
        """A single text in a monitored group, with this id."""
        await self._send_all([self._text(self._writer(), self._group()) | {"id": id_}], kind)
        return self.ledger.entries[-1]

    async def long(self, chars: int) -> Entry:
        """A single text of this length in a monitored group."""
        item = self._text(self._writer(), self._group())
        await self._send_all([item | {"text": item["text"].ljust(chars, "o")}], "long")
        return self.ledger.entries[-1]

    async def all_at_once(self, names: Sequence[str], group: Group) -> list[str]:
        """A text of each of these people, written to the wire together."""
        made: list[str] = []
        for first in range(0, len(names), AT_ONCE):  # the phone makes a session for each, and must answer meanwhile
            items = [self._text(name, group) | {"fault": {"hold": True}} for name in names[first : first + AT_ONCE]]
            made += await self._send_all(items, "crowd", written=math.inf)
        await self._phone.post("/release", {"ids": made})
        self.ledger.mark_written(made, time.time())
        return made

    async def old_news(self, count: int, age_seconds: int, now: int) -> None:
        """Texts with a time beyond the live window."""
        items = [self._text(self._writer(), self._group()) | {"t": now - age_seconds} for _ in range(count)]
        await self._send_all(items, "old")

    # Making and sending

    async def _send_all(self, items: Sequence[Json], kind: str, written: float | None = None) -> list[str]:
        """Their ids. `written`: by when they are on the wire; by default now."""
        begun = time.time()
        answers = (await self._phone.post("/send_many", {"items": list(items)}))["items"]
        sent = begun, time.time()
        for item, answer in zip(items, answers, strict=True):
            sha256 = (answer.get("media") or {}).get("sha256")
            text = item.get("text") or item.get("caption") or (item.get("media") or {}).get("caption")
            chat = item["to"] if item["to"] in self.ledger.groups else None
            person = self.ledger.name(answer["sender"])
            at = float(item["t"]) if "t" in item else None
            self._enter(answer["id"], person, chat, text, sha256, kind, (at, at) if at is not None else sent, written)
            if sha256 and chat in self.ledger.monitored:
                self._forwardable.append(answer["id"])
        return [answer["id"] for answer in answers]

    def _enter(
        self,
        id_: str,
        person: str,
        chat: str | None,
        text: str | None,
        sha256: str | None,
        kind: str,
        sent: tuple[float, float],
        written: float | None = None,
    ) -> None:
        expected = text.replace("\0", "\ufffd") if text else text
        entry = Entry(
            id=id_,
            person=person,
            chat=chat,
            text=expected,
            sha256=sha256,
            monitored=chat in self.ledger.monitored,
            good=kind not in ("retried", "killer"),
            old=kind == "old",
            kind=kind,
            phase=self.ledger.phase,
            sent=sent,
            written=time.time() if written is None else written,
        )
        self.ledger.add(entry)

    def _base(self, writer: str, group: Group) -> Json:
        return {"from": writer, "to": group.id}

    def _text(self, writer: str, group: Group) -> Json:
        mark = "" if group.id in self.ledger.monitored else f"{FORBIDDEN} "
        text = f"{mark}{self.ledger.phase}-{self._next()} {self._words()}"
        return self._base(writer, group) | {"text": text}

    def _file(self, writer: str, group: Group, media: Json) -> Json:
        mark = "" if group.id in self.ledger.monitored else FORBIDDEN
        caption = (
            {"caption": f"{mark}{self.ledger.phase}-{self._next()}"} if media["kind"] in ("image", "video") else {}
        )
        return self._base(writer, group) | {"media": {**media, **caption}}

    def _content(self, size: int = 0) -> Json:
        """One of the seeds' files with something at its end that makes it a new content of the same type."""
        name = self._random.choice(sorted(FILES))
        data = (SEEDS / name).read_bytes() + b"\n% " + self._random.randbytes(16).hex().encode()
        data += self._random.randbytes(max(0, size - len(data)))
        return {**FILES[name], "data": base64.b64encode(data).decode()}

    def _words(self) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(1, 12)))

    def _writer(self) -> str:
        return self._random.choice(WRITERS)

    def _group(self, monitored: bool = True) -> Group:
        chats = self.ledger.monitored if monitored else self.ledger.groups.keys() - self.ledger.monitored
        return self.ledger.groups[self._random.choice(sorted(chats))]

    def _next(self) -> int:
        self._number += 1
        return self._number

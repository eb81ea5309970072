"""The steps that need a phone: what to ask for, and what must then be in the database and the bucket.

A step's `look` is called again and again until its findings are settled. It reads what the web app reads, never
the worker's insides.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import anyio.to_thread

from acceptance.tester import Place, Task, TaskName
from acceptance.verdict import Finding, awaited, passed_if
from testkit.database import Database, Row, parse_time

PARENT_SECONDS = 90.0  # docs/contract.md §7
LARGE_FACTOR = 2.0  # a file over the limit takes a phone longer to send
# Easy to type; with a number behind it, no file holds such a text by chance.
WORDS = ("amber", "cedar", "comet", "coral", "heron", "maple", "otter", "pepper", "tulip", "walnut")


@dataclass(frozen=True, kw_only=True)
class Since:
    """The state when the tester was asked."""

    message: int
    event: int
    discarded: int


@dataclass(kw_only=True)
class Scene:
    """What the steps look at, and what one step leaves for the next."""

    database: Database
    group: Place
    other: Place
    limit_mb: int
    seconds: float
    places: Sequence[Path] = ()  # where nothing of the other group may be: the embedded Supabase's folder, the log
    photo: Row | None = None
    mark: int = 0  # the newest message before the worker was stopped
    started: datetime | None = None  # again
    waiting: int = 0  # messages that were to be sent meanwhile
    seen: dict[str, datetime] = field(default_factory=dict)  # when a text sent after that was first seen in a row

    async def now(self) -> Since:
        return Since(
            message=await self.database.last_message(),
            event=await self.database.last_event(),
            discarded=await self.discarded(),
        )

    async def discarded(self) -> int:
        """How many messages of groups that are not monitored were discarded."""
        rows = await self.database.rows("wa_discards", session_id=self.database.session, reason="unmonitored")
        return sum(int(row["count"]) for row in rows)

    async def arrived(self, since: Since) -> list[Row]:
        """Rows of the monitored group that are newer, oldest first."""
        return await self.database.newer_messages(since.message, self.group.id)

    async def objects(self, sha256: str) -> list[str]:
        return [path for path in await self.database.objects() if path.startswith(sha256)]


Look = Callable[[Scene, Task, Since], Awaitable[list[Finding]]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One task and what must come of it, for these lines of the acceptance list."""

    name: TaskName
    title: str
    lines: tuple[int, ...]
    say: str  # with {group}, {other}, {word}, {second} and {limit}
    look: Look
    patience: float = 1.0
    needs_photo: bool = False

    def task(self, scene: Scene, count: int = 0, seconds: float | None = None) -> Task:
        """The task, with fresh words, so that an earlier attempt cannot be taken for this one."""
        words = (_word(), _word())
        return Task(
            name=self.name,
            say=self.say.format(
                group=scene.group.name,
                other=scene.other.name,
                word=words[0],
                second=words[1],
                limit=scene.limit_mb,
                count=count,
            ),
            group=scene.group,
            other=scene.other,
            words=words,
            limit_mb=scene.limit_mb,
            seconds=scene.seconds * self.patience if seconds is None else seconds,
            count=count,
        )


async def look_for_text(scene: Scene, task: Task, since: Since) -> list[Finding]:
    row = saying(task.words[0], await scene.arrived(since))
    if row is None:
        return [awaited(4, "the text in messages")]
    return [
        passed_if(row["kind"] == "text", 4, "the text is a row of kind text"),
        passed_if(row["group_id"] and row["sender"], 4, "the row names its group and its sender"),
    ]


async def look_for_text_and_photo(scene: Scene, task: Task, since: Since) -> list[Finding]:
    rows = await scene.arrived(since)
    text = saying(task.words[0], rows)
    if text is None:
        return [awaited(7, "the text in messages")]
    if text["parent_id"]:
        return [passed_if(False, 7, "the text went to a file sent just before it; wait 90 s, then repeat this step")]
    image = next((row for row in _images(rows) if row["sender"] == text["sender"] and row["id"] > text["id"]), None)
    if image is None:
        return [awaited(7, "an image of the same sender after the text")]
    apart = (parse_time(image["ts"]) - parse_time(text["ts"])).total_seconds()
    return [
        passed_if(apart <= PARENT_SECONDS, 7, f"the image was sent {apart:.0f} s after the text"),
        passed_if(image["parent_id"] == text["id"], 7, "the image's parent_id is the text's id"),
    ]


async def look_for_photo(scene: Scene, task: Task, since: Since) -> list[Finding]:
    row = next(_images(await scene.arrived(since)), None)
    if row is None:
        return [awaited(5, "an image in messages")]
    if row["media_id"] is None:
        return [_fate(row, 5, "the image's media_id")]
    scene.photo = row
    media = (await scene.database.rows("media", id=row["media_id"]))[0]
    path = str(media["storage_path"])
    content = await scene.database.download(path)
    sha256 = hashlib.sha256(content).hexdigest()
    return [
        passed_if(path.startswith(f"{sha256}/original."), 5, "the object lies at {sha256 of its content}/original.ext"),
        passed_if(media["sha256"] == sha256, 5, "media.sha256 is that of the object's content"),
        passed_if(media["bytes"] == len(content), 5, "media.bytes is the object's size"),
        passed_if(str(media["mime"]).startswith("image/"), 5, "media.mime is an image's"),
        passed_if(media["width"] and media["height"], 5, "media has width and height"),
        passed_if(await scene.database.bucket_is_private(), 5, "the bucket is private"),
    ]


async def look_for_forward(scene: Scene, task: Task, since: Since) -> list[Finding]:
    assert scene.photo is not None
    row = next(_images(await scene.arrived(since)), None)
    if row is None:
        return [awaited(6, "a second image in messages")]
    if row["media_id"] is None:
        return [_fate(row, 6, "the second image's media_id")]
    media = (await scene.database.rows("media", id=scene.photo["media_id"]))[0]
    same = await scene.database.rows("media", sha256=media["sha256"])
    return [
        passed_if(row["media_id"] == scene.photo["media_id"], 6, "both messages have the same media_id"),
        passed_if(len(same) == 1, 6, "there is one media row with this sha256"),
        passed_if(len(await scene.objects(media["sha256"])) == 1, 6, "there is one object with this sha256"),
    ]


async def look_for_refusal(scene: Scene, task: Task, since: Since) -> list[Finding]:
    payloads = [row["payload"] for row in await scene.database.events("error") if row["id"] > since.event]
    error = next((payload for payload in payloads if payload["code"] == "MEDIA_TOO_LARGE"), None)
    if error is None:
        return [awaited(8, "an error MEDIA_TOO_LARGE in audit_log")]
    ids = {row["wa_msg_id"]: row for row in await scene.arrived(since)}
    row = ids.get(error["ctx"]["wa_msg_id"])
    return [
        passed_if(row is not None, 8, "the error names the message, and the message is kept"),
        passed_if(row is not None and row["media_id"] is None, 8, "the file is not"),
    ]


async def look_for_nothing(scene: Scene, task: Task, since: Since) -> list[Finding]:
    """The second text, in the monitored group, proves that the first one must have been delivered as well."""
    findings = await look_for_hidden(4, scene, task, since)
    newer = await scene.database.newer_messages(since.message)
    return [
        *findings,
        passed_if(True, 4, "a message was dropped because its group is not monitored")
        if await scene.discarded() > since.discarded
        else awaited(4, "a message that is dropped because its group is not monitored"),
        passed_if(not [row for row in newer if row["chat_id"] == scene.other.id], 4, "no row is of the other group"),
    ]


async def look_for_hidden(line: int, scene: Scene, task: Task, since: Since) -> list[Finding]:
    """The second text is a row; the first is in none, and in no file if the files are ours."""
    hidden, shown = task.words
    if not saying(shown, await scene.arrived(since)):
        return [awaited(line, "the text in the monitored group")]
    newer = await scene.database.newer_messages(since.message)
    findings = [
        passed_if(True, line, "the text in the monitored group arrived"),
        passed_if(saying(hidden, newer) is None, line, "no row has the other text"),
    ]
    if scene.places:
        there = await anyio.to_thread.run_sync(_written, scene.places, (hidden, shown))
        findings += [
            passed_if(there[shown], line, "the stored text is found by a search of Supabase's files and the log"),
            passed_if(not there[hidden], line, "the other text is in none of them"),
        ]
    return findings


# A text goes first, and the photo alone comes after the pair: a photo that stands alone would take the pair's text for
# its own (parent rule, docs/schema.md).
STEPS: Sequence[Step] = (
    Step(
        name="text",
        title="A text in the monitored group",
        lines=(4,),
        say="In “{group}”, send this text:   {word}",
        look=look_for_text,
    ),
    Step(
        name="text_photo",
        title="A text, then a photo, within 90 seconds",
        lines=(7,),
        say="In “{group}”, send this text:   {word}\nThen at once a photo without a caption, from the same phone.",
        look=look_for_text_and_photo,
    ),
    Step(
        name="photo",
        title="A photo",
        lines=(5,),
        say="In “{group}”, send another photo (as a photo, not as a document).",
        look=look_for_photo,
    ),
    Step(
        name="forward",
        title="The same photo, forwarded",
        lines=(6,),
        say="Forward that last photo to “{group}” once more (press on it, then the arrow).",
        look=look_for_forward,
        needs_photo=True,
    ),
    Step(
        name="large",
        title="A file over the limit",
        lines=(8,),
        say="In “{group}”, send any file of more than {limit} MB, as a document.",
        look=look_for_refusal,
        patience=LARGE_FACTOR,
    ),
    Step(
        name="unmonitored",
        title="A message in a group that is not monitored",
        lines=(4,),
        say="In “{other}”, which is not monitored, send this text:   {word}\nThen, in “{group}”, this one:   {second}",
        look=look_for_nothing,
    ),
)


def _word() -> str:
    return f"{secrets.choice(WORDS)} {secrets.randbelow(9000) + 1000}"


def saying(word: str, rows: Sequence[Row]) -> Row | None:
    """The row with this text; keyboards capitalise, and add blanks."""
    return next((row for row in rows if " ".join((row["text"] or "").casefold().split()) == word), None)


def _images(rows: Sequence[Row]) -> Iterator[Row]:
    return (row for row in rows if row["kind"] == "image")


def _fate(row: Row, line: int, what: str) -> Finding:
    """A file that is not linked: it may still come, or the row says why it does not."""
    if row["media_status"] in (None, "pending"):
        return awaited(line, what)
    return passed_if(False, line, f"{what} (media_status: {row['media_status']})")


def _written(places: Sequence[Path], words: Sequence[str]) -> dict[str, bool]:
    """Which of these words are in some file at or below these places, however they are capitalised."""
    found = dict.fromkeys(words, False)
    for path in (inner for place in places for inner in (place, *place.rglob("*"))):
        if path.is_file():
            content = path.read_bytes().lower()
            found = {word: there or word.encode() in content for word, there in found.items()}
    return found

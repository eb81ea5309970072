"""`wa-worker export`: one group as JSON lines, with its files, into a folder.

    FOLDER/messages.jsonl       one message per line, by id; `media.file` is a path below FOLDER
    FOLDER/media/<sha256>.<ext> each file once, with its hash verified
    FOLDER/members.jsonl        current and former members, if WORKER_GROUP_MEMBERS keeps them; rewritten each time
    FOLDER/export.json          the group, its coverage and the progress: read to resume and to add what is new

Files are written before the lines that name them. Lines go into `messages.jsonl.part`, which is renamed when complete,
so a file with its final name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
import typer

from worker.commands.groups import label, resolve
from worker.commands.prune import bar
from worker.commands.runtime import WrongArgument, perform
from worker.commands.show import err, number_of, out, plain, print_json
from worker.errors import ExitCode, StoreRefused
from worker.settings import Settings
from worker.store import Store
from worker.store.exports import (
    FORMAT,
    LINES_FILE,
    MANIFEST_FILE,
    MEMBERS_FILE,
    Manifest,
    all_members,
    message_pages,
    to_lines,
)

DOWNLOADS_AT_ONCE = 4


@dataclass
class Counts:
    messages: int = 0
    members: int = 0
    files: int = 0
    missing: int = 0


def export(
    group: Annotated[str, typer.Argument(help="The group: id, …@g.us, or its name.")],
    folder: Annotated[Path, typer.Argument(help="Target folder; created if it is missing.", file_okay=False)],
    json_: Annotated[bool, typer.Option("--json", help="One JSON document at the end.")] = False,
) -> None:
    """Write a group's messages, files and members into FOLDER; run it again to resume or to add what is new.

    Does not update what is already in FOLDER: later edits need a new folder. Exit codes: 0 complete · 1 some files are
    not in the bucket (it lists them) · 2 an argument is wrong · 4 Supabase does not answer (run it again) ·
    130 interrupted (the same).
    """

    async def work(settings: Settings, store: Store) -> int:
        session = settings.worker_session
        chosen = resolve(group, await store.console.groups(session))
        state = open_folder(folder, Manifest(session=session, wa_group_id=chosen.wa_group_id))
        counts = await _copy(store, chosen.id, folder, state)
        if json_:
            print_json({"group": chosen.wa_group_id, "folder": str(folder), **asdict(counts)})
        else:
            new = f"{number_of(counts.messages, 'message')} and {number_of(counts.files, 'file')}"
            out().print(f"{label(chosen)}: {new} new, in {folder}", markup=False)
        return ExitCode.FAULT if counts.missing else 0

    perform(work)


def open_folder(folder: Path, fresh: Manifest) -> Manifest:
    """Prepare `folder` to start or resume. Returns its state.

    Raises:
        WrongArgument: it contains something else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "media").mkdir(exist_ok=True)
        state = _read_state(folder)
        if state is None and (folder / LINES_FILE).exists():
            raise WrongArgument(f"{folder} holds a {LINES_FILE} that is not ours; give another folder")
        if state and (state.session, state.wa_group_id) != (fresh.session, fresh.wa_group_id):
            raise WrongArgument(f"{folder} holds the export of another group; give another folder")
        part = folder / f"{LINES_FILE}.part"
        if state and state.complete:
            shutil.copyfile(folder / LINES_FILE, part)  # the old file stays whole until the new one is
        with part.open("ab") as lines:
            if lines.tell() < (state.bytes if state else 0):
                raise WrongArgument(f"{part} is shorter than {MANIFEST_FILE} says; give another folder")
            lines.truncate(state.bytes if state else 0)
    except OSError as error:
        raise WrongArgument(f"{folder} cannot be used: {error.strerror}") from None
    return state or fresh


async def _copy(store: Store, group: int, folder: Path, state: Manifest) -> Counts:
    counts = Counts()
    coverage = await store.console.coverage(state.session, state.wa_group_id)  # first, so that it never claims too much
    everything, left = await store.console.export_size(state.session, group, state.cursor)
    with bar("messages", everything) as progress, (folder / f"{LINES_FILE}.part").open("ab") as lines:
        state = replace(state, complete=False)
        progress.update(progress.task_ids[0], completed=everything - left)
        async for page in message_pages(store.console, state.session, group, state.cursor):
            await _fetch_files(store, folder, page, counts)
            lines.write(to_lines(page))
            lines.flush()
            os.fsync(lines.fileno())
            counts.messages += len(page)
            cursor, total = int(page[-1]["id"]), state.messages + len(page)
            state = replace(state, cursor=cursor, bytes=lines.tell(), messages=total)
            _write_state(folder, state)
            progress.update(progress.task_ids[0], advance=len(page))
    (folder / f"{LINES_FILE}.part").replace(folder / LINES_FILE)
    counts.members = await _write_members(store, group, folder, state)
    _write_state(folder, replace(state, complete=True, coverage=coverage, members=counts.members))
    return counts


async def _write_members(store: Store, group: int, folder: Path, state: Manifest) -> int:
    """Write the members. Returns how many. Removes the file if members are no longer kept."""
    members = await all_members(store.console, state.session, group)
    if members:
        await anyio.to_thread.run_sync(write_whole, folder / MEMBERS_FILE, to_lines(members))
    else:
        (folder / MEMBERS_FILE).unlink(missing_ok=True)
    return len(members)


async def _fetch_files(store: Store, folder: Path, page: list[dict[str, Any]], counts: Counts) -> None:
    """Fetch the files of a page, each once. Sets `media.file` to the path, or null if the bucket lacks it."""
    wanted = {message["media"]["sha256"]: message["media"] for message in page if message.get("media")}
    limiter = anyio.CapacityLimiter(DOWNLOADS_AT_ONCE)

    async def fetch(media: dict[str, Any]) -> None:
        async with limiter:
            path = folder / "media" / f"{media['sha256']}{_extension(media['storage_path'])}"
            media["file"] = str(path.relative_to(folder))
            if path.exists() and path.stat().st_size == int(media["bytes"]):
                return
            try:
                content = await store.bucket.download(media["storage_path"])
            except StoreRefused:
                content = b""
            if hashlib.sha256(content).hexdigest() != media["sha256"]:
                media["file"] = None
                counts.missing += 1
                err().print(f"not in the bucket, or not whole: {plain(media['storage_path'])}", markup=False)
                return
            await anyio.to_thread.run_sync(write_whole, path, content)
            counts.files += 1

    async with anyio.create_task_group() as downloads:
        for media in wanted.values():
            downloads.start_soon(fetch, media)
    for message in page:
        if message.get("media"):
            message["media"]["file"] = wanted[message["media"]["sha256"]]["file"]


def _extension(storage_path: str) -> str:
    """`.jpg` of `…/original.jpg`; empty if it is not plain."""
    suffix = Path(storage_path).suffix
    return suffix if suffix[1:].isalnum() and len(suffix) <= 10 else ""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _read_state(folder: Path) -> Manifest | None:
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        state = Manifest(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        raise WrongArgument(f"{path} is not ours; give another folder") from None
    if state.format != FORMAT:
        raise WrongArgument(f"{path} is of another version of wa-worker; give another folder")
    return state


def _write_state(folder: Path, state: Manifest) -> None:
    write_whole(folder / MANIFEST_FILE, json.dumps(asdict(state)).encode())

"""`wa-worker refused`: what could not be stored. Lists it, tries it again, writes it into a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.runtime import WrongArgument, perform
from worker.commands.show import out, plain, print_json
from worker.errors import ExitCode
from worker.settings import Settings
from worker.store import Store
from worker.store.console import RefusedItem
from worker.store.listed import every_item, exported_page

REASONS = {
    "gone": "no longer listed",
    "empty": "its bytes are not kept",
    "unmonitored": "its group is not monitored",
    "undecrypted": "it was not decrypted; only another copy from its sender helps",
}

app = typer.Typer(
    help="List, retry or export messages and changes that could not be stored.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


@app.callback()
def refused() -> None:
    """List, retry or export messages and changes that could not be stored."""


@app.command("list")
def list_(json_: Json = False) -> None:
    """List what could not be stored, oldest first, without its text.

    `refused`: Postgres would refuse it again. `waiting`: the worker retries it by itself. `undecrypted`: it ended the
    sidecar, and its sender was asked for another copy. Exit codes: 0 done · 2 a setting is wrong · 4 Supabase does not
    answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        items = await every_item(store, settings.worker_session)
        if json_:
            print_json([asdict(item) | {"id": str(item.id)} for item in items])
            return
        for item in items:
            out().print(_line(item), markup=False, soft_wrap=True)
        out().print(f"{len(items)} listed." if items else "Nothing is listed.")

    perform(work)


@app.command()
def retry(
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Only these; default: all.")] = None,
    json_: Json = False,
) -> None:
    """Retry storing listed messages and changes.

    A message gets its own time and arrival, its links, and the edits and revokes that came meanwhile. Exit codes:
    0 all were stored · 1 some were not, and the line says why · 2 a setting is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> int:
        session = settings.worker_session
        chosen = ids or [item.id for item in await every_item(store, session) if item.has_body]
        codes = {id_: await store.retry_refused(session, id_) for id_ in chosen}
        taken = sum(code is None for code in codes.values())
        if json_:
            print_json({"taken": taken, "left": {str(id_): code for id_, code in codes.items() if code}})
        else:
            out().print(f"{taken} taken back.")
            for code, count in Counter(code for code in codes.values() if code).items():
                out().print(f"{count} not: {REASONS.get(code, f'Postgres says {code}')}", markup=False)
        return 0 if taken == len(codes) else ExitCode.FAULT

    perform(work)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Target file; must not exist.", dir_okay=False)],
    json_: Json = False,
) -> None:
    """Write the listed items, with their content, into FILE as JSON lines.

    Exit codes: 0 done · 2 an argument is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = settings.worker_session
        try:
            with file.open("x", encoding="utf-8") as lines:
                file.chmod(0o600)
                count = after = 0
                while page := await exported_page(store, session, after):
                    lines.writelines(json.dumps(document, default=str) + "\n" for document in page)
                    count, after = count + len(page), int(page[-1]["id"])
        except OSError as error:
            raise WrongArgument(f"{file} cannot be written: {error.strerror}") from None
        if json_:
            print_json({"file": str(file), "items": count})
        else:
            out().print(f"{count} written to {file}", markup=False)

    perform(work)


def _line(item: RefusedItem) -> str:
    what = f"{item.id}  {item.at:%Y-%m-%d %H:%M}  {item.state} {item.item} {plain(item.wa_msg_id or '?')}"
    where = f"in {plain(item.chat_id or '?')} of {plain(item.sender or '?')}"
    kept = "" if item.has_body else "; its bytes are not kept"
    return f"{what} {where}: {plain(item.code)} {plain(item.reason, 120)}{kept}"

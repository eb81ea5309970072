"""`wa-worker prune`: deletes messages older than some days, and files that no message refers to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from worker.commands.runtime import perform
from worker.commands.show import err, number_of, out, print_json, size
from worker.settings import Settings
from worker.store import Store
from worker.store.console import Retention
from worker.store.retention import delete_unused_objects

MESSAGES_AT_ONCE = 1000


def prune(
    older_than: Annotated[
        int, typer.Option("--older-than", min=1, max=36_500, metavar="DAYS", help="Messages sent more days ago.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete; without this, only count.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Delete messages and refused stanzas older than DAYS, and files that no message refers to.

    Without --yes nothing is changed. Can be interrupted and run again, and can run beside a worker. Audit log and
    counts stay. Exit codes: 0 done · 2 a setting or argument is wrong · 4 Supabase does not answer · 130 interrupted.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = settings.worker_session
        before = (await store.console.whoami()).now - timedelta(days=older_than)
        found = await store.console.retention(session, before)
        if not yes:
            _report(found, before, json_)
            return
        messages, refused = await delete_messages(session, store, before, found)
        objects = await delete_objects(store, found.media + found.objects)
        if json_:
            print_json({"dry_run": False, "messages": messages, "refused": refused, "objects": objects})
        else:
            out().print(f"Deleted {_words(messages, refused, objects)}.")

    perform(work)


async def delete_messages(session: str, store: Store, before: datetime, found: Retention) -> tuple[int, int]:
    """Delete old messages. Returns the counts of deleted messages and refused stanzas."""
    messages = refused = 0
    with bar("messages", found.messages + found.refused) as advance:
        more = True
        while more:
            deleted = await store.console.delete_messages(session, before, MESSAGES_AT_ONCE)
            messages, refused, more = messages + deleted.messages, refused + deleted.refused, deleted.more
            advance.update(advance.task_ids[0], completed=messages + refused)
    return messages, refused


async def delete_objects(store: Store, expected: int) -> int:
    """Delete unused objects. Returns how many. Their rows were deleted first, in the step that listed them."""
    with bar("files", expected) as advance:
        return await delete_unused_objects(store, lambda count: advance.update(advance.task_ids[0], completed=count))


def bar(what: str, total: int) -> Progress:
    """A progress bar on stderr with one task; invisible if stderr is not a terminal."""
    console = err()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    progress.add_task(what, total=total or None)
    return progress


def _report(found: Retention, before: datetime, json_: bool) -> None:
    if json_:
        print_json(
            {
                "dry_run": True,
                "before": before.isoformat(),
                "messages": found.messages,
                "refused": found.refused,
                "objects": found.media + found.objects,
                "bytes": found.bytes,
            }
        )
        return
    words = _words(found.messages, found.refused, found.media + found.objects)
    out().print(
        f"Before {before:%Y-%m-%d %H:%M} UTC: {words} ({size(found.bytes)}). Nothing was changed; --yes deletes."
    )


def _words(messages: int, refused: int, objects: int) -> str:
    parts = [number_of(messages, "message"), number_of(objects, "file")]
    if refused:
        parts.insert(1, number_of(refused, "refused stanza"))
    return ", ".join(parts)

"""`wa-worker tail`: messages as they reach the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import anyio
import typer
from rich.text import Text

from worker.commands.groups import resolve
from worker.commands.runtime import perform
from worker.commands.show import author, content, err, local_time, out, plain, print_json
from worker.errors import StoreUnavailable
from worker.settings import Settings
from worker.store import Store
from worker.store.console import Tail

PAGE = 500


def tail(
    group: Annotated[str | None, typer.Argument(help="Only this group: id, …@g.us, or its name.")] = None,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, max=500, help="Show this many older messages first.")
    ] = 10,
    follow: Annotated[bool, typer.Option(help="Continue until Ctrl-C, or exit after the older messages.")] = True,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks for new messages.")] = 1.0,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """Show messages live, from the database; Ctrl-C ends it.

    Reports an outage of the database once, and waits. Exit codes: 0 ended by Ctrl-C · 2 a setting is wrong or no
    such group · 4 Supabase does not answer at the start.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = settings.worker_session
        chosen = resolve(group, await store.console.groups(session)).id if group else None
        newest = await store.console.tail(session, chosen, None, max(last, 1))
        show(newest.messages[-last:] if last else [], json_=json_, with_group=chosen is None)
        if not newest.messages:
            err().print("No messages yet; new ones appear here. Ctrl-C ends this." if follow else "No messages yet.")
        cursor = newest.cursor
        while follow:
            await anyio.sleep(poll)
            more = await _patiently(session, store, chosen, cursor, poll)
            show(more.messages, json_=json_, with_group=chosen is None)
            cursor = more.cursor

    perform(work, interrupted=0)


async def _patiently(session: str, store: Store, group: int | None, cursor: int, poll: float) -> Tail:
    """The next messages. Waits while the database is away."""
    said = False
    while True:
        try:
            return await store.console.tail(session, group, cursor, PAGE)
        except StoreUnavailable:
            if not said:
                err().print("The database does not answer; waiting for it.")
            said = True
            await anyio.sleep(max(poll, 1.0))


def show(messages: list[dict[str, Any]], *, json_: bool, with_group: bool) -> None:
    """Print one line per message."""
    for message in messages:
        if json_:
            print_json(message)
        else:
            out().print(line(message, with_group=with_group), soft_wrap=True)


def line(message: Mapping[str, Any], *, with_group: bool) -> Text:
    """`2026-11-22 12:00:03  Family  Ana: hello`."""
    text = Text(f"{local_time(message['ts'])}  ", style="dim")
    if with_group:
        text.append(f"{plain(message.get('group_name') or '?', 24)}  ", style="cyan not dim")
    text.append(f"{author(message)}: ", style="bold not dim")
    name = f" ({plain(message['file_name'], 60)})" if message.get("file_name") else ""
    text.append(content(message) + name, style="not dim")
    return text

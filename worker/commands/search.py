"""`wa-worker search`: finds messages with `search_messages`."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.commands.groups import label, resolve
from worker.commands.runtime import perform
from worker.commands.show import err, out, plain, print_json
from worker.settings import Settings
from worker.store import Store


def search(
    words: Annotated[str, typer.Argument(help='What to look for: words, "a phrase", -without, one or other.')],
    group: Annotated[str | None, typer.Option("--group", help="Only this group: id, …@g.us, or its name.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="At most this many.")] = 20,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Find messages by words, names and numbers; the newest first.

    Exit codes: 0 done, also if nothing was found · 2 an argument is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> int:
        session = settings.worker_session
        groups = await store.console.groups(session)
        narrow = {} if group is None else {"groups": [resolve(group, groups).id]}
        found = await store.console.search(session, words, narrow, sort="newest", cursor=None, limit=limit)
        if json_:
            as_text = [
                {**row, "message_id": str(row["message_id"]), "group_id": str(row["group_id"])} for row in found.results
            ]
            print_json({"results": as_text, "next": found.next})
        else:
            names = {each.id: label(each) for each in groups}
            if not found.results:
                err().print("Nothing found.")
            for row in found.results:
                excerpt = "".join(part["text"] for part in row["excerpt"])
                where, who = names.get(row["group_id"], ""), row["name"] or row["sender"]
                out().print(plain(f"{row['at'][:16]} {where} · {who}: {excerpt}"), markup=False, highlight=False)
        return 0

    perform(work)

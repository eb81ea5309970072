"""`wa-worker coverage`: since when each group's archive is complete, and what is missing and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from worker.commands.groups import label, resolve
from worker.commands.runtime import perform
from worker.commands.show import local_time, number_of, out, plain, print_json, safe
from worker.settings import Settings
from worker.store import Store
from worker.store.console import holes, open_gap

Json = Mapping[str, Any]

# docs/coverage.md explains them in full.
REASONS = {
    "not_monitored": "not switched on",
    "away": "no worker ran",
    "not_connected": "not connected to WhatsApp",
    "backlog": "what waited with WhatsApp is still coming",
    "unlinked": "no phone was linked",
    "waited_too_long": "dropped: waited longer than WORKER_CATCH_UP_S",
    "too_old": "dropped: came too late",
    "refused": "the database refused it",
    "waiting": "not stored yet; tried again",
    "undecryptable": "not readable yet; asked for again",
    "lost": "never became readable",
    "deleted": "deleted by retention",
    "left": "the account not in the group",
    "not_recorded": "from before coverage was recorded",
}


def coverage(
    group: Annotated[str | None, typer.Argument(help="A group: id, …@g.us, or its name. Without it: all.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show since when each group's archive is complete; with GROUP also each gap and its reason.

    What "complete" claims: docs/coverage.md. Exit codes: 0 shown · 2 an argument is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = settings.worker_session
        if group is None:
            await _show_all(session, store, json_)
            return
        chosen = resolve(group, await store.console.groups(session))
        found = await store.console.coverage(session, chosen.wa_group_id)
        if json_:
            print_json({"wa_group_id": chosen.wa_group_id, **found})
            return
        out().print(safe(f"{label(chosen)}: {sentence(found)}"))
        for gap in found["gaps"]:
            out().print(safe(f"  {line(gap)}"))

    perform(work)


async def _show_all(session: str, store: Store, json_: bool) -> None:
    found = await store.console.all_coverage(session)
    if json_:
        print_json({"groups": found})
    elif not found:
        out().print("No group was ever switched on: `wa-worker groups monitor GROUP`.")
    for row in () if json_ else found:
        out().print(safe(f"{name_of(row)}: {sentence(row)}"))


def name_of(row: Json) -> str:
    """A group's name, or its id."""
    return plain(row["name"] or row["wa_group_id"], 60)


def sentence(found: Json) -> str:
    """Since when the archive is complete, or why it is not, and how many gaps come before that."""
    gaps = found["gaps"]
    present = open_gap(gaps, datetime.now(UTC))
    if present is not None:
        since = f" since {local_time(present['from'])}" if present["from"] else ""
        return f"not complete: {REASONS.get(present['reason'], plain(present['reason']))}{since}"
    if not gaps:
        return "complete"
    earlier = holes(found)
    before = f"; before that {number_of(earlier, 'gap')}" if earlier else ""
    return f"complete since {local_time(found['since'])}{before}"


def line(gap: Json) -> str:
    """A line for one gap: when, why, how much."""
    start, end = (gap[name] and local_time(gap[name]) for name in ("from", "to"))
    why = REASONS.get(gap["reason"], plain(gap["reason"]))
    if start is None:
        when = f"until {end}" if end else "always"
    elif end is None:
        when = f"since {start}"
    else:
        when = start if start == end else f"{start} to {end if start[:10] != end[:10] else end[11:]}"
    count = f" ({number_of(int(gap['count']), 'message')})" if gap["count"] else ""
    return f"{when}  {why}{count}"

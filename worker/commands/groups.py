"""`wa-worker groups`: lists the groups, and chooses which are stored.

The choice is the user's: with the console, this is the only code that writes `groups.monitor`, on a person's command.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from worker.commands.groups_table import GroupsTable
from worker.commands.runtime import WrongArgument, perform
from worker.commands.show import number_of, out, plain, print_json, safe, utc_now
from worker.settings import Settings
from worker.store import Store
from worker.store.console import ListedGroup

app = typer.Typer(
    help="List the groups, and choose which are stored.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Names = Annotated[
    list[str], typer.Argument(help="Groups by id, by WhatsApp's id (…@g.us), or by name if it is unique.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


@app.command("list")
def list_(json_: Json = False) -> None:
    """Show all groups of the account with their last message."""

    async def work(settings: Settings, store: Store) -> None:
        found = await store.console.groups(settings.worker_session)
        if json_:
            print_json(as_json(found))
        elif found:
            out().print(GroupsTable(found, utc_now()))
        else:
            out().print("No groups yet: they appear when a phone is linked (`wa-worker status` says how far it is).")

    perform(work)


@app.command()
def monitor(groups: Names, json_: Json = False) -> None:
    """Store the messages of these groups from now on."""
    switch(groups, True, json_)


@app.command()
def unmonitor(groups: Names, json_: Json = False) -> None:
    """Stop storing messages of these groups; what is stored stays."""
    switch(groups, False, json_)


def switch(names: Sequence[str], on: bool, json_: bool) -> None:
    """Switch groups on or off. Resolves all names first, so that an unknown one changes nothing."""

    async def work(settings: Settings, store: Store) -> None:
        known = await store.console.groups(settings.worker_session)
        chosen = [resolve(name, known) for name in names]
        changed = await store.console.set_monitor(settings.worker_session, [group.id for group in chosen], on)
        if json_:
            print_json({"changed": changed, "groups": [str(group.id) for group in chosen], "monitor": on})
            return
        for group in chosen:
            already = "already " if group.monitor is on else ""
            out().print(safe(f"{label(group)}: {already}{'stored' if on else 'not stored'}"))
        if changed:
            poll = number_of(round(settings.worker_poll_ms / 1000) or 1, "second")
            out().print(f"A running worker takes this over within {poll}.")

    perform(work)


def resolve(name: str, known: Iterable[ListedGroup]) -> ListedGroup:
    """The group that a name refers to.

    Raises:
        WrongArgument: no group matches, or several do; the text lists them.
    """
    groups = list(known)
    for exact in (
        [group for group in groups if name in (str(group.id), group.wa_group_id)],
        [group for group in groups if group.name == name],
        [group for group in groups if (group.name or "").casefold() == name.casefold()],
        [group for group in groups if name.casefold() in (group.name or "").casefold()],
    ):
        if len(exact) == 1:
            return exact[0]
        if exact:
            which = ", ".join(f"{group.id} ({label(group)})" for group in exact[:8])
            raise WrongArgument(f"{plain(name)!r} could be several groups; give the id: {which}")
    raise WrongArgument(f"no group is called {plain(name)!r}; `wa-worker groups list` shows all")


def label(group: ListedGroup) -> str:
    """The group's name, or its id."""
    return plain(group.name or group.wa_group_id, 60)


def as_json(groups: Iterable[ListedGroup]) -> list[dict[str, Any]]:
    """The output of `--json`, with ids as strings."""
    return [
        {
            "id": str(group.id),
            "wa_group_id": group.wa_group_id,
            "name": group.name,
            "monitor": group.monitor,
            "left_at": group.left_at and group.left_at.isoformat(),
            "today": group.today,
            "last": group.last,
        }
        for group in groups
    ]

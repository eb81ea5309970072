"""The commands for people, one module per noun. They read and signal only through Supabase.

They hold no lease, need no running worker on this machine, and use the worker's settings. A command's module is
imported when the command runs: help and completion need only its name and first line, which are listed here.
Exit codes: 0 done; 1 failed (the text says why); 2 a setting or an argument is wrong; 4 Supabase did not answer or
refused; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group


@dataclass(frozen=True)
class Entry:
    """A command before it is loaded: its help panel and line, and the location of its function or `Typer`.

    `inner`: for a `Typer`, its commands' names and first lines, for completion.
    """

    panel: str
    line: str
    module: str
    attribute: str
    inner: Mapping[str, str] = field(default_factory=dict)


# Listed in the order in which a newcomer needs them.
COMMANDS = {
    "demo": Entry(
        "Try", "Show the main job against a virtual phone: from a scanned QR code to rows and files.", "demo", "demo"
    ),
    "status": Entry(
        "Look", "Show the session, its worker, groups with their last message, and files that wait.", "status", "status"
    ),
    "link": Entry(
        "Look",
        "Link a phone: draw the QR code to scan, and each new one, until the account is connected.",
        "link",
        "link",
    ),
    "console": Entry(
        "Look",
        "Serve the web console: link, groups, messages, health. Ctrl-C ends it.",
        "console",
        "console",
    ),
    "coverage": Entry(
        "Look",
        "Show since when each group's archive is complete; with GROUP also each gap and its reason.",
        "coverage",
        "coverage",
    ),
    "search": Entry("Look", "Find messages by words, names and numbers; the newest first.", "search", "search"),
    "tail": Entry("Look", "Show messages live, from the database; Ctrl-C ends it.", "tail", "tail"),
    "doctor": Entry(
        "Look",
        "Check settings, Python, Node, Supabase, key, schema, bucket, clock and the way to WhatsApp.",
        "doctor",
        "doctor",
    ),
    "schema": Entry(
        "Change", "Print the SQL that makes the tables, for the SQL editor of a Supabase project.", "schema", "schema"
    ),
    "groups": Entry(
        "Change",
        "List the groups, and choose which are stored.",
        "groups",
        "app",
        {
            "list": "Show all groups of the account with their last message.",
            "monitor": "Store the messages of these groups from now on.",
            "unmonitor": "Stop storing messages of these groups; what is stored stays.",
        },
    ),
    "media": Entry(
        "Change",
        "Retry failed downloads, or run more downloaders.",
        "media",
        "app",
        {
            "work": "Fetch media files until stopped; run as many of these as you like, on any machine.",
            "retry": "Retry downloads that failed; the worker starts on them within seconds.",
        },
    ),
    "refused": Entry(
        "Change",
        "List, retry or export messages and changes that could not be stored.",
        "refused",
        "app",
        {
            "list": "List what could not be stored, oldest first, without its text.",
            "retry": "Retry storing listed messages and changes.",
            "export": "Write the listed items, with their content, into FILE as JSON lines.",
        },
    ),
    "sessions": Entry(
        "Change",
        "Manage the accounts that hosts serve: add, list, show, start, stop, set, remove, ask.",
        "sessions",
        "app",
        {
            "add": "Add a session and have a host serve it; its QR code appears in its row.",
            "list": "Show all sessions with their state and host, and the hosts.",
            "show": "Show one session: its state, its host, and its own settings without passwords.",
            "start": "Have a host serve the session.",
            "stop": "Stop serving the session; the account stays linked.",
            "set": "Change a session's own settings; its host restarts it with them.",
            "remove": "Forget a session's account and, with --with-data, everything it stored.",
            "ask": "Send a request to a session's host, and wait for the answer.",
        },
    ),
    "logout": Entry(
        "Change", "Log the account out and forget its credentials; stored messages stay.", "logout", "logout"
    ),
    "prune": Entry(
        "Change",
        "Delete messages and refused stanzas older than DAYS, and files that no message refers to.",
        "prune",
        "prune",
    ),
    "export": Entry(
        "Change",
        "Write a group's messages, files and members into FOLDER; run it again to resume or to add what is new.",
        "export",
        "export",
    ),
}


class LightGroup(TyperGroup):
    """A group whose help and completion avoid importing pydantic and rich, the slowest imports."""

    def get_params(self, ctx: Any) -> Any:
        """All options, including typer's. Skips typer's conversion, which loads pydantic, for missing values and for
        completion."""
        options = super().get_params(ctx)
        for option in options:
            if "process_value" not in vars(option):
                setattr(option, "process_value", partial(convert_given, option.process_value))  # noqa: B010
        return options

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        spare_rich()
        return super().shell_complete(ctx, incomplete)


class LazyCommands(LightGroup):
    """A group that lists `COMMANDS` without importing them, and loads only the one that is called."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for name, entry in COMMANDS.items():
            self.add_command(unloaded(name, entry), name)
        unwrap(self)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section per panel. Avoids rich, whose import takes twice as long as everything else."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            panels.setdefault(getattr(command, "rich_help_panel", None) or "Work", []).append((name, command.help))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name, line.partition("\n\n")[0]) for name, line in rows])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name not in COMMANDS or (ctx.resilient_parsing and not rest and COMMANDS[name].inner):
            return name, command, rest  # known without loading it
        return name, load(name), rest


def convert_given(convert: Any, ctx: Any, value: Any) -> Any:
    """The value of an option, converted by typer's `convert` where needed."""
    return value if value is None or ctx.resilient_parsing else convert(ctx, value)


def unloaded(name: str, entry: Entry) -> Any:
    """What stands for a command until it is called."""
    if not entry.inner:
        return TyperCommand(name, help=entry.line, rich_help_panel=entry.panel)
    commands: Any = {inner: TyperCommand(inner, help=line) for inner, line in entry.inner.items()}
    return LightGroup(name=name, help=entry.line, rich_help_panel=entry.panel, commands=commands)


def spare_rich() -> None:
    """For the rest of a completion, let rich count as not installed. Typer imports it to take marks out of the lines
    that zsh and fish show beside each name; ours have none."""
    if "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # the import system's own mark for "not to be found"


def load(name: str) -> Any:
    """Import a command of `COMMANDS`: the object that its name on the command line runs."""
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(f"{__name__}.{entry.module}"), entry.attribute)
    if isinstance(found, typer.Typer):
        command: Any = get_group(found)
    else:
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(name)(found)
        command = get_command(alone)
    command.name = name
    unwrap(command)
    return command


def unwrap(command: Any) -> None:
    """Make each paragraph of the help one line, here and in subcommands: the terminal breaks lines, the source's
    breaks must not show. And print it without rich."""
    command.rich_markup_mode = None
    if command.help:
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in command.help.split("\n\n"))
    for inner in getattr(command, "commands", {}).values():
        unwrap(inner)

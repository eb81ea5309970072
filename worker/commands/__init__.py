"""The commands for people, a module for each noun; all of them read or signal through Supabase alone.

They hold no lease, need no running worker on this machine, and use the worker's own settings. `add_commands` registers
them. Exit codes: 0 done; 1 it failed (the text says why); 2 a setting or an argument is wrong;
4 Supabase did not answer or refused; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import typer

from worker.commands import doctor, export, groups, logout, media, media_worker, prune, qr, status, tail


def add_commands(app: typer.Typer) -> None:
    """Put all of them on the command line, in the order in which a newcomer needs them."""
    app.command("status", rich_help_panel="Look")(status.status)
    app.command("qr", rich_help_panel="Look")(qr.qr)
    app.command("tail", rich_help_panel="Look")(tail.tail)
    app.command("doctor", rich_help_panel="Look")(doctor.doctor)
    app.add_typer(groups.app, name="groups", rich_help_panel="Change")
    media.app.command("work")(media_worker.work)
    app.add_typer(media.app, name="media", rich_help_panel="Change")
    app.command("logout", rich_help_panel="Change")(logout.logout)
    app.command("prune", rich_help_panel="Change")(prune.prune)
    app.command("export", rich_help_panel="Change")(export.export)

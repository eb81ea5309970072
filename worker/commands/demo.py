"""`wa-worker demo`: runs the main job against our virtual phone, without account, phone or configuration."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from worker.commands.runtime import end, exit_code, explain
from worker.errors import ExitCode, WorkerError

WIDTH_OF_A_FILE = 120  # columns when the output is not a terminal
KEPT = Path("wa-demo")


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help=f"Leave data and logs in ./{KEPT}, and say what to do next.")
    ] = False,
    play: Annotated[
        bool, typer.Option("--play", help="Write the messages yourself, at a prompt; the web console stands beside it.")
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="With --play: open the console in this machine's browser.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Like --keep, in this folder instead.", metavar="FOLDER")
    ] = None,
) -> None:
    """Show the main job against a virtual phone: from a scanned QR code to rows and files.

    Needs no account, no phone and no settings, and reads none. Exit codes: 0 all as the scenario promises · 1 something
    differs · 130 ended by Ctrl-C.
    """
    from demo import entry
    from demo.screen import Screen
    from worker.installation import install_packages
    from worker.settings import default_node

    screen = Screen(Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_FILE))
    try:
        install_packages(default_node(), screen.say)
        work = partial(entry.play, open_) if play else entry.show
        code = entry.run(screen, folder or (KEPT if keep else None), work)
    except WorkerError as wrong:
        end(explain(wrong), exit_code(wrong))
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    raise typer.Exit(code)

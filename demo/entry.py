"""The demo as a command, with its exit code: 0 if all is as the scenario promises, 1 if not, 130 after Ctrl-C."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio

from demo.interrupt import run_until_interrupted
from demo.play import Play
from demo.run import Demo
from demo.screen import Screen
from worker.errors import SettingsError


def run(screen: Screen, kept: Path | None, work: Callable[[Screen, Path], Awaitable[int]]) -> int:
    """Do `work` in `kept`, or in a temporary folder that is removed unless something went wrong.

    Raises:
        SettingsError: `kept` is not empty.
    """
    if kept is not None and kept.exists() and any(kept.iterdir()):
        raise SettingsError(f"{kept} holds something already: remove it, or name another folder with --folder")
    folder = (kept or Path(tempfile.mkdtemp(prefix="wa-demo-"))).resolve()
    code = 1
    try:
        code = anyio.run(run_until_interrupted, screen, partial(work, screen, folder))
    except AssertionError as missed:  # a wait timed out, or the virtual phone reported a fault
        screen.wrong(str(missed))
    finally:
        if kept is None and code != 1:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            screen.faint(f"logs and data are kept in {folder}")
    if kept is not None and code == 0:
        screen.say("Look at them in the web console; Ctrl-C ends it:")
        screen.say(f"  WORKER_DATA_DIR={folder / 'data'} wa-worker console --open")
    return code


async def show(screen: Screen, folder: Path) -> int:
    """The demo from its first line to its table."""
    return 1 if await Demo(screen, folder).run() else 0


async def play(browser: bool, screen: Screen, folder: Path) -> int:
    """The demo's town at a prompt, until the user leaves."""
    await Play(screen, folder, browser).run()
    return 0

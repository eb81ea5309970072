"""The demo from its folder to its exit code: 0 if all is as the scenario promises, 1 if not, 130 after Ctrl-C."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import anyio

from demo.interrupt import run_until_interrupted
from demo.run import Demo
from demo.screen import Screen
from worker.errors import SettingsError


def run(screen: Screen, kept: Path | None) -> int:
    """Play the demo in `kept`, or in a temporary folder that is removed unless something went wrong.

    Raises:
        SettingsError: `kept` holds something already.
    """
    if kept is not None and kept.exists() and any(kept.iterdir()):
        raise SettingsError(f"{kept} holds something already: remove it, or name another folder with --folder")
    folder = (kept or Path(tempfile.mkdtemp(prefix="wa-demo-"))).resolve()
    code = 1
    try:
        code = anyio.run(_play, Demo(screen, folder))
    except AssertionError as missed:  # a wait ran out, or the virtual phone reported a fault
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


async def _play(demo: Demo) -> int:
    async def work() -> int:
        return 1 if await demo.run() else 0

    return await run_until_interrupted(demo.screen, work)

"""`python -m demo`: exit code 0 if everything is as the scenario promises, 1 if not, 130 after Ctrl-C."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import anyio
from rich.console import Console

from demo.interrupt import run_until_interrupted
from demo.run import Demo
from demo.scenario import SEEDS, load
from demo.screen import Screen
from worker.stdio import force_utf8

WIDTH_OF_A_FILE = 120  # columns when the output is not a terminal


def main() -> int:
    """Run the demo in a temporary folder, which is removed if all went well."""
    options = _options()
    force_utf8()
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_FILE)
    screen = Screen(console)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="wa-demo-")).resolve()
    code = 1
    try:
        code = anyio.run(_run, Demo(screen, folder, load(Path(options.seeds))))
    except AssertionError as missed:  # a wait ran out, or the virtual phone reported a fault
        screen.wrong(str(missed))
    finally:
        if options.folder is None and code != 1:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            screen.faint(f"logs and data are kept in {folder}")
    return code


async def _run(demo: Demo) -> int:
    async def work() -> int:
        return 1 if await demo.run() else 0

    return await run_until_interrupted(demo.screen, work)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description="The main job on our own virtual phone.")
    parser.add_argument("--folder", help="where data and logs go and stay (default: a temporary folder)")
    parser.add_argument("--seeds", default=str(SEEDS), help="a folder with scenario.json and media/")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

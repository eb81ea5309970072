"""`python -m acceptance`, which is `make e2e PHONE=real`: the acceptance list with the person at this terminal.

Exit codes: 0 every line passed, or was not met; 1 one failed, 3 one was skipped, 2 a wrong option or no terminal, 130
Ctrl-C.
Settings come from the environment and .env, as the worker's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import anyio
from dotenv import dotenv_values  # pydantic-settings reads .env with it, too
from rich.console import Console

from acceptance.human import Human
from acceptance.later import BACKLOG, HOLD_SECONDS, Scale
from acceptance.program import STEP_SECONDS, AcceptanceRun
from demo.interrupt import run_until_interrupted
from demo.screen import Screen
from worker.commands.keyboard import Keyboard
from worker.settings import Settings

NO_TERMINAL = 2
# Decided by the run: where it asks /healthz, and a folder and a session apart from those of a worker in earnest.
OURS = {"WORKER_HTTP_HOST", "WORKER_HTTP_PORT", "WORKER_DATA_DIR", "WORKER_SESSION"}


def main() -> int:
    """Run it with the person at this terminal."""
    options = _options()
    if not sys.stdin.isatty():
        print("python -m acceptance: needs a terminal, and somebody with a phone at it", file=sys.stderr)
        return NO_TERMINAL
    screen = Screen(Console())
    folder = Path(options.folder).resolve()
    scale = Scale(backlog=options.backlog, hold_seconds=options.hold_seconds)
    run = AcceptanceRun(screen, folder, Human(screen, Keyboard()), settings(), options.seconds, scale)
    return anyio.run(run_until_interrupted, screen, run.run)


def settings() -> dict[str, str]:
    """The worker's settings as they are set here."""
    given = {**dotenv_values(".env"), **os.environ}
    names = {name.upper() for name in Settings.model_fields} - OURS
    return {name: value for name in sorted(names) if (value := given.get(name))}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m acceptance", description="The acceptance list with a test phone.")
    parser.add_argument(
        "--folder", default="data/acceptance", help="data, log and reports; kept, so that a second run needs no QR"
    )
    parser.add_argument("--seconds", type=float, default=STEP_SECONDS, help="patience with a step (default: 180)")
    parser.add_argument(
        "--hold-seconds", type=float, default=HOLD_SECONDS, help="the second part's long wait (default: 3600)"
    )
    parser.add_argument(
        "--backlog", type=int, default=BACKLOG, help="messages that wait while the worker is stopped (default: 120)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

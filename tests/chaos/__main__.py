"""`python -m tests.chaos --minutes 3 --seed 1`: kill everything at random and look for a lost message.

Exit codes: 0 everything held; 1 something did not (the checks are named); 2 wrong arguments; 130 interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import anyio
from rich.console import Console

from tests.chaos.report import show
from tests.chaos.run import Options, chaos
from tests.chaos.sabotage import SABOTAGES
from worker.errors import ExitCode

SHORT_SECONDS = 0.0  # one round of the deck


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="how long there are faults (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed deals the same faults and traffic")
    parser.add_argument("--short", action="store_true", help="one round of all kinds of faults, for CI")
    parser.add_argument("--sabotage", choices=sorted(SABOTAGES), default="", help="break one thing; a check must fail")
    parser.add_argument("--all-faults", action="store_true", help="with --sabotage: all faults, to see what it costs")
    parser.add_argument("--keep", action="store_true", help="keep the logs and the database; says where")
    arguments = parser.parse_args()
    options = Options(
        seconds=SHORT_SECONDS if arguments.short else arguments.minutes * 60,
        seed=arguments.seed,
        sabotage=arguments.sabotage,
        all_faults=arguments.all_faults,
    )
    console = Console(width=120 if not sys.stdout.isatty() else None)
    folder = Path(tempfile.mkdtemp(prefix="wa-chaos-"))
    keep = arguments.keep
    try:
        result = anyio.run(chaos, options, folder, lambda line: console.print(line, markup=False, highlight=False))
        show(result, console)
        keep = keep or bool(result.violations)
        return 1 if result.violations else 0
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been ended")
        return ExitCode.INTERRUPTED
    finally:
        if keep:
            console.print(f"logs and database: {folder}", markup=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

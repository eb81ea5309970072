"""`python -m tests.fleet --accounts 12 --seed 1`: hosts that share accounts, killed, paused, added, drained.

Exit codes: 0 everything held; 1 something did not (the lines say what); 2 wrong arguments; 130 interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import anyio

from tests.fleet.run import ACCOUNTS_MAX, Options, fleet
from worker.errors import ExitCode


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__.splitlines()[0])
    parser.add_argument("--accounts", type=int, default=12, choices=range(2, ACCOUNTS_MAX + 1), metavar="N")
    parser.add_argument("--seed", type=int, default=1, help="the same seed picks the same hosts and traffic")
    parser.add_argument("--rate", type=float, default=4.0, help="messages a second over all accounts (default: 4)")
    parser.add_argument("--keep", action="store_true", help="keep the logs and the database; says where")
    arguments = parser.parse_args()
    options = Options(accounts=arguments.accounts, seed=arguments.seed, rate=arguments.rate)
    folder = Path(tempfile.mkdtemp(prefix="wa-fleet-"))
    keep = arguments.keep
    try:
        violations = anyio.run(fleet, options, folder, say)
        for check, text in violations:
            say(f"VIOLATION {check}: {text}")
        say("everything held" if not violations else f"{len(violations)} violations")
        keep = keep or bool(violations)
        return 1 if violations else 0
    except KeyboardInterrupt:
        say("interrupted; everything that was started has been ended")
        return ExitCode.INTERRUPTED
    except BaseException:
        keep = True
        raise
    finally:
        if keep:
            say(f"logs and database: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

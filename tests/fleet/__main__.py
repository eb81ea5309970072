"""`python -m tests.fleet --accounts 12 --seed 1`: hosts that share accounts, killed, paused, added, drained.

Exit codes: 0 everything held (with --sabotage: the check noticed, and no other); 1 something did not (the lines say
what); 2 wrong arguments; 130 interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import anyio

from tests.fleet import steps
from tests.fleet.run import ACCOUNTS_MAX, Options, fleet
from tests.fleet.sabotage import SABOTAGES, Sabotage
from worker.errors import ExitCode


def say(line: str) -> None:
    print(line, flush=True)


def noticed(sabotage: Sabotage, failed: set[str]) -> bool:
    """Whether the check failed that must, and no other but those that may."""
    others = failed - {sabotage.check, *sabotage.also}
    say(f"broken: {sabotage.broken}. `{sabotage.check}` {'noticed' if sabotage.check in failed else 'did not notice'}")
    if others:
        say(f"other checks failed: {', '.join(sorted(others))}")
    return sabotage.check in failed and not others


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__.splitlines()[0])
    parser.add_argument("--accounts", type=int, default=12, choices=range(2, ACCOUNTS_MAX + 1), metavar="N")
    parser.add_argument("--hosts", type=int, default=3, choices=range(1, 10), metavar="N")
    parser.add_argument("--seed", type=int, default=1, help="the same seed picks the same hosts and traffic")
    parser.add_argument("--rate", type=float, default=4.0, help="messages a second over all accounts (default: 4)")
    parser.add_argument(
        "--steps", nargs="*", choices=steps.ALL, help="what happens (default: all; with --sabotage: what shows it)"
    )
    parser.add_argument("--sabotage", choices=sorted(SABOTAGES), default="", help="break one thing; a check must fail")
    parser.add_argument("--keep", action="store_true", help="keep the logs and the database; says where")
    arguments = parser.parse_args()
    chosen = arguments.steps
    if chosen is None and arguments.sabotage:
        chosen = SABOTAGES[arguments.sabotage].steps
    options = Options(
        accounts=arguments.accounts,
        hosts=arguments.hosts,
        seed=arguments.seed,
        rate=arguments.rate,
        steps=steps.ALL if chosen is None else tuple(chosen),
        sabotage=arguments.sabotage,
    )
    folder = Path(tempfile.mkdtemp(prefix="wa-fleet-"))
    keep = arguments.keep
    try:
        violations = anyio.run(fleet, options, folder, say)
        for check, text in violations:
            say(f"VIOLATION {check}: {text}")
        good = not violations
        if arguments.sabotage:
            good = noticed(SABOTAGES[arguments.sabotage], {check for check, _ in violations})
        else:
            say("everything held" if good else f"{len(violations)} violations")
        keep = keep or not good
        return 0 if good else 1
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

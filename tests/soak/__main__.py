"""`python -m tests.soak --minutes 15`: closes of every kind, again and again; flat memory, no leak, no loss.

Exit codes: 0 everything held; 1 something did not (it is said what); 130 interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import anyio
from rich import box
from rich.console import Console
from rich.table import Table

from tests.soak.run import MB, PERIOD_SECONDS, Soak, soak
from worker.errors import ExitCode

MEMORY = {
    "memory of the worker, MB": "worker_bytes",
    "memory of the sidecar, MB": "sidecar_bytes",
    "heap of the sidecar, MB": "sidecar_heap",
}
COUNTS = {
    "descriptors of the worker": "worker_descriptors",
    "descriptors of the sidecar": "sidecar_descriptors",
    "tasks of the worker": "tasks",
    "threads of the worker": "threads",
}
QUARTERS = range(1, 5)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1, help="the order of the closes")
    parser.add_argument("--keep", action="store_true", help="keep logs and database; says where")
    arguments = parser.parse_args()
    console = Console(width=120 if not sys.stdout.isatty() else None)
    folder = Path(tempfile.mkdtemp(prefix="wa-soak-"))
    keep = True
    try:
        result = anyio.run(soak, arguments.minutes * 60, arguments.seed, folder, console.print)
        show(result, console)
        keep = arguments.keep or bool(result.violations)
        return 1 if result.violations else 0
    except KeyboardInterrupt:
        keep = arguments.keep
        console.print("interrupted; everything that was started has been ended")
        return ExitCode.INTERRUPTED
    finally:
        if keep:
            console.print(f"logs and database: {folder}", markup=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def show(result: Soak, console: Console) -> None:
    table = Table("at rest between two closes", *(f"quarter {n}" for n in QUARTERS), box=box.SIMPLE)
    for label, name in MEMORY.items():
        spans = [result.span(name, number) for number in QUARTERS]
        table.add_row(f"{label} (lowest-highest)", *(f"{low / MB:.0f}-{high / MB:.0f}" for low, high in spans))
    for label, name in COUNTS.items():
        table.add_row(f"{label} (median)", *(f"{result.middle(name, number):.0f}" for number in QUARTERS))
    console.print(table)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(result.closes.items()))
    console.print(f"{sum(result.closes.values())} closes in {result.seconds:.0f} s: {kinds}", markup=False)
    console.print(
        f"{result.periods} periods of {PERIOD_SECONDS:.0f} s for 50 minutes, on connections that nobody ended"
    )
    console.print(f"{len(result.sent)} messages, each in the table exactly once" if not result.violations else "")
    for violation in result.violations:
        console.print(f"FAILED: {violation}", markup=False)
    console.print("PASSED" if not result.violations else "FAILED")


if __name__ == "__main__":
    sys.exit(main())

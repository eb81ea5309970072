"""Measures the CPU time of `wa-worker --help`, `--version` and completion, in multiples of `python -c pass` (minimum of
several runs). Run `python scripts/startup.py`; the goal is 8."""

import os
import resource
import subprocess
import sys
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("wa-worker"))
COMPLETION = {"_WA_WORKER_COMPLETE": "complete_bash", "COMP_WORDS": "wa-worker gr", "COMP_CWORD": "1"}
RUNS = 15


def least(command: list[str], extra: dict[str, str]) -> float:
    """Seconds of processor time."""
    best = float("inf")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env={**os.environ, **extra}, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def main() -> None:
    """Print one line for each."""
    alone = least([sys.executable, "-c", "pass"], {})
    print(f"python -c pass         {alone * 1000:4.0f} ms")
    asked = (("--help", ["--help"], {}), ("--version", ["--version"], {}), ("completion", [], COMPLETION))
    for name, arguments, extra in asked:
        took = least([PROGRAM, *arguments], extra)
        print(f"wa-worker {name:<12} {took * 1000:4.0f} ms  {took / alone:.1f}")


if __name__ == "__main__":
    main()

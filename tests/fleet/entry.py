"""A host as fleet runs start it: `python -m tests.fleet.entry host`. The product knows nothing of it.

Breaks what `$FLEET_SABOTAGE` names, then runs the worker.
"""

from __future__ import annotations

import os
import runpy
import sys

from worker.store import lanes


def sabotage(what: str) -> None:
    if what == "one_connection":
        lanes.LANE_CONNECTIONS = 1
        lanes.SESSIONS_A_CONNECTION = 1000


if __name__ == "__main__":
    sabotage(os.environ.get("FLEET_SABOTAGE", ""))
    sys.argv[0] = "wa-worker"
    runpy.run_module("worker", run_name="__main__")

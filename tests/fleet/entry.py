"""A host as fleet runs start it: `python -m tests.fleet.entry host`. The product knows nothing of it.

Breaks what `$FLEET_SABOTAGE` names, then runs the worker.
"""

from __future__ import annotations

import os
import runpy
import sys

import anyio

from worker.store.lanes import Lanes


def sabotage(what: str) -> None:
    make = Lanes.__init__

    def narrow(self: Lanes, sessions: int = 1) -> None:
        make(self, sessions)
        self._free = {lane: anyio.Semaphore(1) for lane in self._free}

    if what == "one_connection":
        Lanes.__init__ = narrow  # type: ignore[method-assign]


if __name__ == "__main__":
    sabotage(os.environ.get("FLEET_SABOTAGE", ""))
    sys.argv[0] = "wa-worker"
    runpy.run_module("worker", run_name="__main__")

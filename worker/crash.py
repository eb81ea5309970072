"""Named points at which a chaos run lets the worker die (`make chaos`).

Without `WA_CRASH_POINT` in the environment, which only the tests set, each call is one comparison. The file named
by `WA_CRASH_FILE` arms the point and is removed by the one crash, so that the restarted process lives.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_POINT = os.environ.get("WA_CRASH_POINT", "")
_FILE = Path(os.environ.get("WA_CRASH_FILE", "/nonexistent"))


def crash_point(name: str) -> None:
    """Die here by SIGKILL, if this point is armed."""
    if name == _POINT and _FILE.exists():
        _FILE.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

"""`python -m testkit.tied ARGS`: `wa-worker ARGS` that exits when its stdin closes, so it cannot outlive its
starter."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from worker.__main__ import main

ENDING_SECONDS = 20.0  # its own shutdown ends well before
READ_BYTES = 4096


def end_with_stdin() -> None:
    """SIGTERM when stdin closes, a hard exit after a while. Reads no buffer: Python would wait for its lock."""
    descriptor = sys.stdin.fileno()
    while os.read(descriptor, READ_BYTES):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ENDING_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    main()

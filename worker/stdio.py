"""Force UTF-8 output; exit cleanly on Ctrl-C during imports; the version.

Imports only the standard library, so that it runs before anything slow is loaded.
"""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def version() -> str:
    """Of the installed distribution."""
    import importlib.metadata

    return importlib.metadata.version("wa-worker")


def force_utf8() -> None:
    """Write UTF-8 to stdout and stderr, whatever the locale says.

    Messages hold any character and QR codes are drawn with blocks; one of them would raise under another encoding.
    A lone surrogate is written as its escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def exit_on_ctrl_c() -> Iterator[None]:
    """Within this block, Ctrl-C ends the process by the system's default action, without a stack trace.

    For imports, which take half a second. If Ctrl-C was ignored (`nohup`, a background job), it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

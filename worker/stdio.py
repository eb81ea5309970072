"""UTF-8 output, clean exit on Ctrl-C during imports, and the version.

Imports only the standard library, so that it runs before anything slow is loaded.
"""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def version() -> str:
    """The version of the installed distribution."""
    import importlib.metadata

    return importlib.metadata.version("wa-worker")


def force_utf8() -> None:
    """Write UTF-8 to stdout and stderr, whatever the locale says.

    Messages contain any character and QR codes use block characters, which raise under other encodings. A lone
    surrogate is written as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def exit_on_ctrl_c() -> Iterator[None]:
    """In this block, Ctrl-C ends the process by the system's default action, without a stack trace.

    For imports, which take half a second. An ignored Ctrl-C (`nohup`, a background job) stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

"""What a program owes a terminal before its first word: UTF-8 out, and a Ctrl-C that is no fault.

Imports nothing of ours and nothing large: it is there before the rest is.
"""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def speak_utf8() -> None:
    """Write UTF-8 to stdout and stderr, whatever the locale says.

    Messages hold any character, and a QR code is drawn with blocks: under another encoding a single one would end the
    program. Half a surrogate pair comes out as its escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """In this block, Ctrl-C ends the process as the system does by default, without a stack trace.

    For imports, which take half a second. Where Ctrl-C is ignored (`nohup`, a shell's background), it stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

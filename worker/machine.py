"""Explains machine trouble: a full or read-only disk, no memory, too many open files. Not faults of the program.

Also guards the standard streams: they may be closed at the start or break later, and neither may end a worker.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this process may write (ulimit -f)",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports an error",
    errno.ENOMEM: "no memory is left",
    errno.EMFILE: "too many open files (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
}
LITTLE_SPACE_BYTES = 64_000_000  # a new embedded database takes 42 MB


def trouble(error: OSError) -> str | None:
    """What is wrong with the machine (and with which file, if known); None: the error has another cause."""
    words = WORDS.get(error.errno or 0)
    return f"{error.filename}: {words}" if words and error.filename else words


def little_space(folder: Path) -> str:
    """` (the disk of … has 0 MB left)`, to append to an error, if there is little space; else an empty string."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f" (the disk of {folder} has {free // 1_000_000} MB left)" if free < LITTLE_SPACE_BYTES else ""


def open_closed_streams() -> None:
    """Replace a closed stdin, stdout or stderr by /dev/null.

    Otherwise the next file or socket would get its number, and prints would go there.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def silence_stdout() -> None:
    """Discard everything written to stdout from now on, including what is buffered."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class PatientStdout:
    """A stdout for a program that can go on without it: reports the first error, then discards everything."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told

    def write(self, text: str) -> int:
        return self._try(lambda: sys.stdout.write(text)) or len(text)

    def flush(self) -> None:
        self._try(sys.stdout.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def _try(self, write: Callable[[], int | None]) -> int | None:
        try:
            return write()
        except OSError as error:
            silence_stdout()
            self._told(trouble(error) or (error.strerror or type(error).__name__).lower())
            return None

"""What this machine lacks, in words: a full disk, a read-only one, memory, open files. No fault of the program.

Also the standard streams: they may be closed at the start, and break later, and neither may end a worker.
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
    """What is wrong with the machine, and with which file if it is known; None: it is something else."""
    words = WORDS.get(error.errno or 0)
    return f"{error.filename}: {words}" if words and error.filename else words


def little_space(folder: Path) -> str:
    """` (the disk of … has 0 MB left)` if that is little, to be appended to another error; else nothing."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f" (the disk of {folder} has {free // 1_000_000} MB left)" if free < LITTLE_SPACE_BYTES else ""


def open_closed_streams() -> None:
    """Put /dev/null in the place of a closed stdin, stdout or stderr.

    Otherwise the next file or socket would get its number, and what is printed would go there.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def silence_stdout() -> None:
    """From now on what is written to stdout is thrown away, what is still buffered included."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class PatientStdout:
    """stdout for a program that goes on without it: the first error is told, what follows is thrown away."""

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

"""Proof that a worker is dead: a file in the data folder that its process locks as long as it lives.

The kernel gives the lock back when the process ends, however it ends. So whoever can lock the file of a lease's owner
need not wait until the lease runs out. A process id would prove nothing: containers share host names and numbers.
A copy of the file proves nothing either (a data folder moved to another machine while its worker runs), so the file
names its own inode and the boot of its kernel. Without proof the lease is waited for.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from loguru import logger

OWNER = re.compile(r"[^/]*:[0-9]+:[0-9a-f]{8}")  # the database says who it is
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def held(folder: Path, owner: str) -> Iterator[None]:
    """Show that `owner` lives as long as this block runs. A folder that cannot be written means no proof, no error."""
    with ExitStack() as until_the_end:
        try:
            _hold(folder, owner, until_the_end)
        except OSError as error:
            logger.debug("no lock for the lease in {} ({}): if killed, the next worker waits", folder, error.strerror)
        yield


def _hold(folder: Path, owner: str, until_the_end: ExitStack) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = _path(folder, owner)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until_the_end.callback(os.close, fd)
    until_the_end.callback(_remove, path)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, json.dumps(_marks(owner, fd)).encode())


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def is_dead(folder: Path, owner: str) -> bool:
    """Whether `owner` is proven to have ended. Its file is removed then."""
    if not OWNER.fullmatch(owner):
        return False
    path = _path(folder, owner)
    try:
        with _locked(path) as fd:
            if json.loads(os.read(fd, 4096)) != _marks(owner, fd):
                return False
            path.unlink(missing_ok=True)
            return True
    except (OSError, ValueError):
        return False


def sweep(folder: Path) -> None:
    """Remove the files that nobody locks: of workers that were killed long ago."""
    for path in folder.glob("holder-*.lock"):
        with suppress(OSError), _locked(path):
            path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file's descriptor. Raises OSError if there is no such file, or somebody else has locked it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def _path(folder: Path, owner: str) -> Path:
    return folder / f"holder-{owner.rsplit(':', 1)[-1]}.lock"


def _marks(owner: str, fd: int) -> dict[str, Any]:
    return {"owner": owner, "inode": os.fstat(fd).st_ino, "boot": BOOT_ID.read_text().strip()}

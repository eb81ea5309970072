"""Proof that a worker is dead: a file in the data folder that its process keeps locked while it lives.

The kernel releases the lock however the process ends. So a worker that can lock the file of a lease's owner need not
wait for the lease to expire. A process id proves nothing: containers share host names and ids. A copy of the file
proves nothing either (a data folder moved while its worker runs), so the file names its own inode and the kernel's
boot id. Without proof, the worker waits for the lease.
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

OWNER = re.compile(r"[^/]*:[0-9]+:[0-9a-f]{8}")  # validated, because the name comes from the database
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def held(folder: Path, owner: str) -> Iterator[None]:
    """Hold the owner's lock while the block runs. An unwritable folder is not an error: there is just no proof."""
    with ExitStack() as until_the_end:
        try:
            _hold(folder, owner, until_the_end)
        except OSError as error:
            logger.debug("no holder file in {} ({}): if killed, the next worker waits", folder, error.strerror)
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
    """Whether `owner` has provably ended. Removes its file if so."""
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
    """Remove unlocked files of workers that were killed long ago."""
    for path in folder.glob("holder-*.lock"):
        with suppress(OSError), _locked(path):
            path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The locked file's descriptor. Raises OSError if the file is missing or locked by another process."""
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

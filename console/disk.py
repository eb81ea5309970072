"""Free disk space for the embedded database, if this process can see its folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

LITTLE_BYTES = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk that holds the folder."""

    free: int
    total: int

    @property
    def little(self) -> bool:
        return self.free < LITTLE_BYTES


async def measure(folder: Path | None) -> Disk | None:
    """The disk of the folder; None if the database is elsewhere, or the folder does not exist."""
    if folder is None:
        return None
    try:
        found = await anyio.to_thread.run_sync(shutil.disk_usage, folder)
    except OSError:
        return None
    return Disk(free=found.free, total=found.total)

"""The mark: the stanza that a sidecar is decrypting, recorded in a file that outlives it.

The file is nameless and in memory (without memfd: in the temporary folder). The sidecar inherits its descriptor and
writes 32 bytes before each decryption, which takes microseconds. Why: docs/architecture.md, "A stanza that kills".
"""

from __future__ import annotations

import os
import tempfile
from typing import Self

DESCRIPTOR = "WA_MARK_FD"  # in the sidecar's environment
HASH_BYTES = 32


class Mark:
    """The mark of one sidecar. Still readable after the block."""

    def __init__(self) -> None:
        self.descriptor = _open()
        os.ftruncate(self.descriptor, HASH_BYTES)
        self._last: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._last = self._bytes()
        os.close(self.descriptor)

    def read(self) -> str | None:
        """Hex sha256 of the first ciphertext of the stanza being decrypted; None if there is none."""
        found = self._bytes() if self._last is None else self._last
        return found.hex() if any(found) else None

    def _bytes(self) -> bytes:
        return os.pread(self.descriptor, HASH_BYTES, 0)


def _open() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("wa-mark")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())

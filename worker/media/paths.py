"""The path of an object in the bucket: the hash of its content, so that equal files share one object.

Source: docs/contract.md §7.
"""

from __future__ import annotations

import re

from worker.media.file_types import EXTENSIONS

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KNOWN = frozenset(EXTENSIONS.values())


def storage_path(sha256: str, extension: str) -> str:
    """`{sha256}/original.<ext>`.

    Raises:
        ValueError: the hash is not 64 lower-case hex digits, or the extension is unknown.
    """
    if _SHA256.fullmatch(sha256) is None or extension not in _KNOWN:
        raise ValueError("not the hash of a file with a known extension")
    return f"{sha256}/original.{extension}"

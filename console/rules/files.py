"""Which files are shown inline, and which part of a file a player requests."""

from __future__ import annotations

import re
from dataclasses import dataclass

SHOWN_TYPES = frozenset(
    {
        *("image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"),
        *("video/mp4", "video/webm", "video/3gpp", "video/quicktime"),
        *("audio/ogg", "audio/mpeg", "audio/mp4", "audio/aac", "audio/amr", "audio/wav", "audio/webm"),
    }
)
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class Span:
    """The bytes `first` to `last`, inclusive."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


def parse_range(header: str | None, total: int) -> Span | None:
    """The span that a Range header requests; None: the whole file, also for headers that we do not support.

    Raises:
        ValueError: it is outside the file.
    """
    found = RANGE.fullmatch(header or "")
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, last = max(0, total - int(found[2])), total - 1
    else:
        first, last = int(found[1]), min(int(found[2] or total - 1), total - 1)
    if first > last or first >= total:
        raise ValueError("outside the file")
    return Span(first, last)

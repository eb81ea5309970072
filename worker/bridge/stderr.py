"""Copies the sidecar's stderr to our log: redacted, bounded, never blocking the sidecar.

A line that is not JSON may contain anything, even a message. It is quoted only if it looks like a Node crash.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream
from loguru import logger

from worker.log_limits import LineBudget

LINE_BYTES_MAX = 64 * 1024  # longer log lines are cut; a stack trace has 5 kB
FIELDS_KEPT = 12
TEXT_KEPT = 2000
LEVELS = {"trace", "debug", "info", "warning", "error", "critical"}
# Baileys' info is debug output for an operator; its errors are closes, which `session.closes` judges.
MEANINGS = {"info": "debug", "warn": "warning", "error": "warning", "fatal": "error"}
CLOSES = {"stream errored out"}  # normal on a first link (515); `session.closes` reports closes
SILENT = {
    "text",
    "content",
    "message",
    "body",
    "conversation",
    "caption",
    "notify",
    "pushname",
    "push_name",
    "name",
    "subject",
}
TOLD_EVERY_SECONDS = 60.0
TEXTS_COUNTED = 200  # distinct suppressed lines; all others count as one
TEXTS_TOLD = 3
TEXT_OF_LINE = re.compile(rb'"msg":"((?:[^"\\]|\\.){0,80})')
CRASH_LINE = re.compile(r"^(FATAL ERROR|<--- |node:|Node\.js v|\s{4}at |(\w*Error)(:| \[)|\(node:\d+\)|#)")


class SuppressedLines:
    """Counts lines suppressed by the rate limit. Reports them once a minute, with the most frequent texts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._texts: Counter[str] = Counter()
        self._since = 0.0

    def count(self, line: bytes) -> None:
        if not self._texts:
            self._since = self._clock()
        found = TEXT_OF_LINE.search(line)
        text = found[1].decode("utf-8", "replace") if found else ""
        known = text in self._texts or len(self._texts) < TEXTS_COUNTED
        self._texts[text if known else ""] += 1

    def tell(self, *, now: bool = False) -> None:
        """Log the count if it is a minute old, or `now`."""
        if not self._texts or not (now or self._clock() - self._since >= TOLD_EVERY_SECONDS):
            return
        most = ", ".join(f"{count} times {text or 'others'!r}" for text, count in self._texts.most_common(TEXTS_TOLD))
        total, seconds = self._texts.total(), self._clock() - self._since
        self._texts.clear()
        logger.warning("the sidecar logs too fast: {} lines were suppressed in {:.0f} s ({})", total, seconds, most)


async def relay_stderr(stream: ByteReceiveStream, allowance: LineBudget | None = None) -> None:
    """Log lines until the stream ends. Keeps reading past the limit, so that the child never blocks.

    `allowance`: a budget that outlives this sidecar.
    """
    allowance, left_out = allowance or LineBudget(), SuppressedLines()
    rest = b""
    while True:
        try:
            chunk = await stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            break
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:LINE_BYTES_MAX]
        for line in lines:
            _relay(line, allowance, left_out)
    if rest:
        _relay(rest, allowance, left_out)
    left_out.tell(now=True)


def _relay(line: bytes, allowance: LineBudget, left_out: SuppressedLines) -> None:
    left_out.tell()
    if not line.strip():
        return
    if not allowance.take():
        left_out.count(line)
        return
    level, text, fields = read_line(line[:LINE_BYTES_MAX])
    logger.bind(part="sidecar", **fields).log(level.upper(), "{}", text)


def read_line(line: bytes) -> tuple[str, str, dict[str, Any]]:
    """Level, text and small fields of one line of the sidecar's log."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        words = line.decode("utf-8", "replace").rstrip()
        if CRASH_LINE.match(words):
            return "warning", words[:TEXT_KEPT], {}
        return "warning", f"the sidecar wrote {len(line)} bytes to stderr that are not a log line", {}
    level = str(entry.pop("level", "info")).lower()
    level = MEANINGS.get(level, level)
    text = str(entry.pop("msg", ""))[:TEXT_KEPT]
    fields = {
        f"_{key}" if key == "part" else key: value[:TEXT_KEPT] if isinstance(value, str) else value
        for key, value in list(entry.items())[:FIELDS_KEPT]
        if isinstance(value, str | int | float | bool) and key.lower() not in SILENT and key.isidentifier()
    }
    return level if level in LEVELS and text not in CLOSES else "debug", text, fields

"""The sidecar's stderr, said again by our own log: redacted, bounded, and never able to block the sidecar.

A line that is not one of the sidecar's JSON objects is not quoted, unless it has the look of Node's own last words:
it may hold anything, a message included.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream
from loguru import logger

LINE_BYTES_MAX = 64 * 1024  # a log line over this is cut; a stack trace has 5 kB
LINES_PER_SECOND = 200.0  # what a person could still make sense of
LINES_AT_ONCE = 500.0  # the burst of a start at level trace
FIELDS_KEPT = 12
TEXT_KEPT = 2000
LEVELS = {"trace", "debug", "info", "warning", "error", "critical"}
# What Baileys calls information is an operator's debugging, and its errors are closes that we judge ourselves.
MEANINGS = {"info": "debug", "warn": "warning", "error": "warning", "fatal": "error"}
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
LAST_WORDS = re.compile(r"^(FATAL ERROR|<--- |node:|Node\.js v|\s{4}at |(\w*Error)(:| \[)|\(node:\d+\)|#)")


class Allowance:
    """So many lines at once, so many a second after that; the rest is counted, not written."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = LINES_AT_ONCE
        self._at = clock()
        self.dropped = 0

    def take(self) -> bool:
        now = self._clock()
        self._left = min(LINES_AT_ONCE, self._left + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        return True


async def relay_stderr(stream: ByteReceiveStream) -> None:
    """Log what arrives until the stream ends. Reads on whatever comes, so that the child never waits for us."""
    allowance = Allowance()
    rest = b""
    while True:
        try:
            chunk = await stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            break
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:LINE_BYTES_MAX]
        for line in lines:
            _relay(line, allowance)
    if rest:
        _relay(rest, allowance)
    if allowance.dropped:
        logger.warning("the sidecar wrote too much to its log; {} lines were left out", allowance.dropped)


def _relay(line: bytes, allowance: Allowance) -> None:
    if not line.strip() or not allowance.take():
        return
    if allowance.dropped:
        logger.warning("the sidecar wrote too much to its log; {} lines were left out", allowance.dropped)
        allowance.dropped = 0
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
        if LAST_WORDS.match(words):
            return "warning", words[:TEXT_KEPT], {}
        return "warning", f"the sidecar wrote {len(line)} bytes to stderr that are not a line of its log", {}
    level = str(entry.pop("level", "info")).lower()
    level = MEANINGS.get(level, level)
    text = str(entry.pop("msg", ""))[:TEXT_KEPT]
    fields = {
        f"_{key}" if key == "part" else key: value[:TEXT_KEPT] if isinstance(value, str) else value
        for key, value in list(entry.items())[:FIELDS_KEPT]
        if isinstance(value, str | int | float | bool) and key.lower() not in SILENT and key.isidentifier()
    }
    return level if level in LEVELS else "debug", text, fields

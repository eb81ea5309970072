"""Formats values for a terminal: ages, sizes, and untrusted text, made harmless.

Pure, except for the two consoles: results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

# C0, C1 and DEL start escape sequences; bidi controls and line separators reorder text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")
UNITS = ("B", "kB", "MB", "GB", "TB")
PIPE_WIDTH = 10_000  # without a terminal, rich would use 80 or COLUMNS
MINUTE, HOUR, DAY = 60, 3600, 86_400


def out() -> Console:
    """A console for results. Created per call, because tests replace stdout. A pipe has no width limit."""
    at_terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, highlight=False, soft_wrap=not at_terminal, width=None if at_terminal else PIPE_WIDTH
    )


def err() -> Console:
    """A console for progress and remarks."""
    return Console(file=sys.stderr, highlight=False)


def print_json(value: object) -> None:
    """Print one document on one line, for scripts."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


def plain(value: object, limit: int = 0) -> str:
    """Untrusted text on one line, without control characters; cut to `limit` characters if given."""
    text = _UNSAFE.sub(" ", str(value)).strip()
    return text if not limit or len(text) <= limit else text[: limit - 1].rstrip() + "…"


def safe(value: object, limit: int = 0, style: str = "") -> Text:
    """`plain` as a rich Text, so that square brackets are not markup."""
    return Text(plain(value, limit), style=style)


def ago(when: datetime | str | None, now: datetime) -> str:
    """How long ago, in the largest suitable unit: `3 min ago`."""
    if when is None:
        return "never"
    at = datetime.fromisoformat(when) if isinstance(when, str) else when
    seconds = (now - at).total_seconds()
    return "now" if abs(seconds) < 1 else f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """A duration in one unit."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds // MINUTE:.0f} min"
    if seconds < 2 * DAY:
        return f"{seconds // HOUR:.0f} h"
    return f"{seconds // DAY:.0f} days"


def size(count: float) -> str:
    """Bytes in decimal units, like file managers."""
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 or count >= 100 else f"{count:.1f} {UNITS[unit]}"


def number_of(count: int, noun: str, plural: str | None = None) -> str:
    """`1 message`, `2 messages`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def local_time(when: str) -> str:
    """Date and time of an ISO time, in this machine's zone."""
    return datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def author(message: Mapping[str, Any]) -> str:
    """The name to show for the sender."""
    if message.get("from_me"):
        return "me"
    sender, _, server = str(message.get("sender", "")).partition("@")
    if server == "g.us":  # a group event without an actor
        return "the group"
    return plain(message.get("push_name") or sender, 24)


def content(message: Mapping[str, Any], limit: int = 0) -> str:
    """A message on one line: its kind unless it is a text, then its text."""
    if message.get("revoked_at"):
        return "[revoked]"
    words = plain(message.get("text") or "", limit)
    if message.get("revoke_claimed_at"):
        words = f"{words} [revoke, author not verified]".lstrip()
    if message["kind"] == "text":
        return words
    state = message.get("media_status")
    label = str(message["kind"]) if state in (None, "stored") else f"{message['kind']}, {state}"
    return f"[{label}] {words}".rstrip()


def utc_now() -> datetime:
    return datetime.now(UTC)

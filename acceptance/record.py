"""What the report says beside the verdicts: versions, ends of connections, stanzas by kind. Counts alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

STANZAS = "stanzas of this connection"  # the sidecar says so at each end of a connection, at LOG_LEVEL=debug


def claimed(session_row: Mapping[str, Any] | None) -> str:
    """The version of WhatsApp Web that the worker claimed, and where it is from."""
    claims = ((session_row or {}).get("detail") or {}).get("claims") or {}
    return f"{claims.get('version') or 'unknown'} ({claims.get('source') or 'unknown'})"


def closes(events: Iterable[Mapping[str, Any]]) -> str:
    """How often a connection ended, by WhatsApp's code, from entries `disconnect` of the audit log."""
    codes = Counter(str(entry["payload"].get("code") or "ours") for entry in events)
    return listed(codes, ": ") or "none"


def unanswered_ends(events: Iterable[Mapping[str, Any]]) -> int:
    """How often WhatsApp ended the stream since something had no answer (`stream:error` with an `ack`)."""
    return sum("(ack)" in str(entry["payload"].get("reason")) for entry in events)


def stanzas(log: str) -> tuple[Counter[str], Counter[str]]:
    """Stanzas by tag, and notifications by type, over all connections in this log of a worker; and the unanswered."""
    counted: Counter[str] = Counter()
    unanswered: Counter[str] = Counter()
    for line in log.splitlines():
        if STANZAS not in line:
            continue
        try:
            entry = json.loads(line)
            counted[str(entry["type"])] += int(entry["count"])
            unanswered[str(entry["type"])] += int(entry["unanswered"])
        except (ValueError, TypeError, KeyError):  # cut by a kill
            continue
    return counted, +unanswered


def listed(counts: Mapping[str, int], between: str = " ") -> str:
    return ", ".join(f"{kind}{between}{count}" for kind, count in sorted(counts.items()))

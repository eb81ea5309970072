"""What the report says beside the verdicts: the version claimed, ends of connections, stanzas by kind. Counts alone."""

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
    return ", ".join(f"{code}: {count}" for code, count in sorted(codes.items())) or "none"


def stanzas(log: str) -> Counter[str]:
    """Stanzas by tag, and notifications by type, over all connections in this log of a worker."""
    counted: Counter[str] = Counter()
    for line in log.splitlines():
        if STANZAS not in line:
            continue
        try:
            entry = json.loads(line)
            counted[str(entry["type"])] += int(entry["count"])
        except (ValueError, TypeError, KeyError):  # cut by a kill
            continue
    return counted

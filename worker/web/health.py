"""The state behind /readyz and /metrics; each part of the worker writes its own fields."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from worker.session.hearing import Hearing
from worker.session.report import View
from worker.web.metrics import Metrics

KNOWINGLY_IDLE = ("idle", "logged_out")  # no phone is linked, by choice: not a fault

# Addresses, numeric ones too, names with a number behind them, and paths. Not `docs/page.md`, `and/or` or `HTTP/1.1`.
_PLACE = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s,;()]*[^\s,;:().]"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|\b(?=[\d.-]*[a-z])[\w.-]{1,64}:\d+\b"
    r"|(?<![\w/.])/(?=[\w.])[^\s,;:()]*",
    re.IGNORECASE,
)


@dataclass
class Health:
    """Written by the supervisor, read by /readyz and /metrics."""

    supabase: str = "not reached yet"
    supabase_ok: bool = False
    bucket_trouble: str | None = None
    lease: str = "not held yet"
    lease_ok: bool = False
    sidecar_pid: int | None = None
    sidecar_restarts: int = 0
    view: View | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    hearing: Hearing = field(default_factory=Hearing)
    refresh: Callable[[], Awaitable[None]] | None = None  # the database's figures, before they are shown

    def describe(self) -> dict[str, Any]:
        """The document of /readyz. Ready: messages are received and stored, or no phone is linked by choice.

        The port may be public: addresses and paths stand in the log alone.
        """
        reasons: list[str] = []
        if not self.supabase_ok:
            reasons.append(f"Supabase: {self.supabase}")
        elif self.metrics.away():
            reasons.append("Supabase: the database does not answer")
        if self.bucket_trouble:
            reasons.append(f"bucket: {self.bucket_trouble}")
        if not self.lease_ok:
            reasons.append(f"lease: {self.lease}")
        if self.view and self.view.status != "connected" and self.view.state not in KNOWINGLY_IDLE:
            reasons.append(f"WhatsApp: {self.view.say}")
        elif not self.view:
            reasons.append("WhatsApp: not connected yet")
        if self.view and self.sidecar_pid is None:
            reasons.append("the sidecar is not running")
        state = (
            {"status": self.view.status, "state": self.view.state, "say": without_places(self.view.say)}
            if self.view
            else None
        )
        return {
            "ok": not reasons,
            "reasons": [without_places(reason) for reason in reasons],
            "warnings": self.hearing.warnings,
            "supabase": without_places(self.supabase),
            "session": state,
            "sidecar": {"pid": self.sidecar_pid, "restarts": self.sidecar_restarts},
        }


def without_places(text: str) -> str:
    """`text` with `…` for each address and path."""
    return _PLACE.sub("…", text)

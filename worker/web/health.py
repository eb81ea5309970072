"""The state behind /readyz and /metrics; each part of the worker writes its own fields."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from worker.session.hearing import Hearing
from worker.session.report import View
from worker.web.metrics import Metrics

KNOWINGLY_IDLE = ("idle", "logged_out")  # no phone is linked, by choice: not a fault


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
        """The document of /readyz. Ready: messages are received and stored, or no phone is linked by choice."""
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
        state = {"status": self.view.status, "state": self.view.state, "say": self.view.say} if self.view else None
        return {
            "ok": not reasons,
            "reasons": reasons,
            "warnings": self.hearing.warnings,
            "supabase": self.supabase,
            "session": state,
            "sidecar": {"pid": self.sidecar_pid, "restarts": self.sidecar_restarts},
        }

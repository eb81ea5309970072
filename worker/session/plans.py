"""What the connection does next."""

from __future__ import annotations

from dataclasses import dataclass

from worker.session.report import View


@dataclass(frozen=True, kw_only=True)
class Go:
    """Connect, after `delay` seconds."""

    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Stay:
    """Stay down until asked, or for `seconds`."""

    view: View
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class AwaitDatabase:
    """Stay down until the database answers."""


@dataclass(frozen=True, kw_only=True)
class Forget:
    """The link is gone for good: wipe the credentials, then connect for a new QR code after `delay` seconds."""

    delay: float = 0.0


Plan = Go | Stay | AwaitDatabase | Forget

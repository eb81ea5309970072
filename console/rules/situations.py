"""Turns a session's row into one situation for people, with one thing to do.

The texts are in the catalogue: `situation.NAME.title` and `situation.NAME.do`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Tone = Literal["good", "busy", "attention", "bad"]

TONES: dict[str, Tone] = {
    "away": "bad",
    "killed": "bad",  # of a demo town, like the next one
    "taking_over": "busy",
    "no_database": "bad",
    "database_starting": "busy",
    "no_session": "attention",
    "no_worker": "bad",
    "connected": "good",
    "scan": "attention",
    "code": "attention",
    "passkey": "attention",
    "compare": "attention",
    "next_code": "busy",
    "starting": "busy",
    "connecting": "busy",
    "paired": "busy",
    "reconnecting": "busy",
    "unreachable": "busy",
    "idle": "attention",
    "logged_out": "attention",
    "needs_you": "bad",
    "unlinked": "attention",
    "database_away": "bad",
    "crashing": "bad",
    "failed": "bad",
    "stopped": "bad",
    "other": "attention",
}
REFRESHABLE = frozenset(
    {"scan", "code", "passkey", "compare", "next_code", "idle", "logged_out", "needs_you", "unlinked", "other"}
)
LINKED = frozenset({"connected", "reconnecting", "paired", "needs_you"})
UNREAD = frozenset({"away", "no_database", "database_starting"})  # the database could not be asked
# What the worker says of these, our words say already.
SELF_EVIDENT = frozenset(
    {"no_session", "connected", "scan", "code", "next_code", "starting", "connecting", "paired", "stopped"}
)
NAMELESS = frozenset({"waiting_for_scan"})  # has its own situations: a code is shown, or is about to come


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The situation of a session. `say`: the worker's own sentence. Seconds count from the database's `now`."""

    name: str
    who: str = ""
    number: str = ""
    say: str = ""
    qr: str | None = None
    qr_seconds: float = 0.0
    code: str | None = None
    code_seconds: float = 0.0
    next_attempt_at: str | None = None
    passkey: str | None = None  # what the owner's browser must sign, as JSON
    compare: str | None = None  # the code that the phone must show too

    @property
    def tone(self) -> Tone:
        return TONES[self.name]

    @property
    def may_refresh(self) -> bool:
        return self.name in REFRESHABLE

    @property
    def may_disconnect(self) -> bool:
        return self.name in LINKED

    @property
    def linked(self) -> bool:
        return self.name == "connected"

    @property
    def may_play(self) -> bool:
        """Whether to offer a demo town: as far as we know, no account is linked."""
        return not (self.who or self.name in LINKED or self.name in UNREAD)

    @property
    def is_read(self) -> bool:
        return self.name not in UNREAD

    @property
    def say_adds(self) -> bool:
        """Whether to show the worker's sentence, which is English."""
        return bool(self.say) and self.name not in SELF_EVIDENT


AWAY = Situation(name="away")
NO_DATABASE = Situation(name="no_database")
DATABASE_STARTING = Situation(name="database_starting")


def judge(view: Mapping[str, Any] | None) -> Situation:
    """The situation for an answer of `wa_pairing_view`; None: no worker ever served this session.

    A QR code counts only while the worker runs, the status is `connecting` and the code has not expired.
    """
    if view is None:
        return Situation(name="no_session")
    detail = view.get("detail") or {}
    number = str(view.get("wa_number") or "")
    who = str(view.get("wa_name") or number)
    say = str(detail.get("say") or "")
    if not view.get("lease_held"):
        stale = detail.get("state") in SELF_EVIDENT | NAMELESS
        return Situation(name="no_worker", say="" if stale else say, who=who, number=number)
    if view["status"] == "connected":
        return Situation(name="connected", say=say, who=who, number=number)
    name = str(detail.get("state") or "")
    if view["status"] == "connecting" and (asked := _passkey(view, detail)):
        return Situation(name="compare" if asked.get("compare") else "passkey", say=say, **asked)
    if view["status"] == "connecting" and (shown := _codes(view, detail)):
        return Situation(name="code" if shown.get("code") else "scan", say=say, **shown)
    if name in NAMELESS:
        return Situation(name="next_code", say=say)
    known = name if name in TONES else ("other" if name else "starting")
    if known == "reconnecting" and not who:
        known = "unreachable"  # it never was connected
    return Situation(name=known, say=say, next_attempt_at=detail.get("next_attempt_at"), who=who, number=number)


def _codes(view: Mapping[str, Any], detail: Mapping[str, Any]) -> dict[str, Any]:
    """The codes that may be shown now: the QR code, the pairing code, both or none."""
    now = datetime.fromisoformat(str(view["now"]))
    found: dict[str, Any] = {}
    if detail.get("qr") and (left := _seconds(detail.get("expiresAt"), now)) > 0:
        found |= {"qr": str(detail["qr"]), "qr_seconds": left}
    if detail.get("pairing_code") and (left := _seconds(detail.get("pairing_code_expires_at"), now)) > 0:
        found |= {"code": str(detail["pairing_code"]), "code_seconds": left}
    return found


def _passkey(view: Mapping[str, Any], detail: Mapping[str, Any]) -> dict[str, Any]:
    """The current step of linking with a passkey (docs/passkey.md, "For a web app")."""
    told = detail.get("passkey")
    now = datetime.fromisoformat(str(view["now"]))
    if not isinstance(told, Mapping) or (left := _seconds(told.get("expiresAt"), now)) <= 0:
        return {}
    if told.get("code"):
        return {"compare": str(told["code"]), "code_seconds": left}
    if told.get("options"):
        return {"passkey": json.dumps(told["options"], indent=1), "code_seconds": left}
    return {}


def _seconds(at: object, now: datetime) -> float:
    """Seconds from `now` to `at`; 0 if `at` is missing or past."""
    try:
        return max(0.0, (datetime.fromisoformat(str(at)) - now).total_seconds())
    except (ValueError, TypeError):
        return 0.0

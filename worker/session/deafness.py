"""Detects a deaf connection: pings pass, but nothing else arrives, or nothing from groups. Reads no clock.

A deaf connection looks like a quiet account. So silence is compared with the account's longest recent silence, as
this process observed it. It leads to one reconnect, and to no second one until something arrives.
Source: docs/whatsapp.md, "Stalls".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from worker.bridge.protocol import Pong
from worker.times import iso_utc

FLOOR_SECONDS = 6 * 3600.0  # a shorter silence proves nothing, however busy the account is
TIMES_USUAL = 2.0  # suspicious: longer than the longest recent silence by this factor
ENOUGH_GAPS = 20  # silences to observe before judging
DAYS_REMEMBERED = 8
DAY_SECONDS = 86_400.0
WAITED_SECONDS = 120.0  # what arrives this soon after a reconnect was waiting: the old connection was deaf
TELL_EVERY_SECONDS = 60.0  # write the times to the database at most this often


class SilenceTracker:
    """The silences between arrivals of one kind. Times are Unix seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.last: float | None = None
        self.suspected = False
        self._gaps = 0
        self._longest: dict[int, float] = {}  # day → the longest silence that ended on it
        self._suspicions: list[float] = []  # when silence was suspected, in the last days; each doubles the limit

    @property
    def usual(self) -> float | None:
        """Seconds of the longest silence of the last days; None before ENOUGH_GAPS observations."""
        return max(self._longest.values(), default=None) if self._gaps >= ENOUGH_GAPS else None

    def heard(self, at: float, opened_at: float) -> None:
        """Something arrived at `at`. Silence counts within one connection, which opened at `opened_at`."""
        if self.last is not None and at <= self.last:
            return
        was_deaf = self.suspected and at - opened_at <= WAITED_SECONDS
        if self.last is not None and not was_deaf:
            # The suspicion was wrong: the whole silence was normal.
            self._learn(at, at - (self.last if self.suspected else max(self.last, opened_at)))
        self.last, self.suspected = at, False

    def too_long(self, now: float, opened_at: float) -> str | None:
        """Why this silence is suspicious; None if it is not, or was already reported."""
        if self.last is None or self.usual is None or self.suspected:
            return None
        self._suspicions = [at for at in self._suspicions if now - at < DAYS_REMEMBERED * DAY_SECONDS]
        silent = now - max(self.last, opened_at)
        if silent <= max(FLOOR_SECONDS, TIMES_USUAL * self.usual) * 2 ** len(self._suspicions):
            return None
        self.suspected = True
        self._suspicions.append(now)
        return f"{self._what} for {_span(silent)}; the longest silence of the last days was {_span(self.usual)}"

    def _learn(self, at: float, seconds: float) -> None:
        day = int(at // DAY_SECONDS)
        self._gaps += 1
        self._longest[day] = max(seconds, self._longest.get(day, 0.0))
        for old in [known for known in self._longest if known <= day - DAYS_REMEMBERED]:
            del self._longest[old]


class DeafnessDetector:
    """Judges the silence of one account's connections, across all sidecars of a process."""

    def __init__(self) -> None:
        self.anything = SilenceTracker("nothing has arrived from WhatsApp")
        self.groups = SilenceTracker("nothing has arrived from any group, though other things have,")
        self._told_at = 0.0

    def observe(self, pong: Pong, *, now: float, opened_at: float) -> str | None:
        """Note the last arrivals of an open connection. Returns why to reconnect, or None."""
        for silence, at_ms in (
            (self.anything, pong.last_stanza_at_ms),
            (self.groups, pong.last_group_stanza_at_ms),
        ):
            if at_ms:
                silence.heard(at_ms / 1000, opened_at)
        if reason := self.anything.too_long(now, opened_at):
            return reason
        if self._others_came(opened_at):
            return self.groups.too_long(now, opened_at)
        return None

    def _others_came(self, opened_at: float) -> bool:
        others = self.anything.last or 0.0
        return others > max(self.groups.last or 0.0, opened_at) and not self.anything.suspected

    @property
    def warnings(self) -> list[str]:
        """Warnings for people, shown until something arrives."""
        return [
            f"{what} for unusually long; the worker reconnected once, and nothing arrived. Send a message to a group "
            "from a phone to see whether the connection is deaf or the account is quiet"
            for what, silence in (("nothing from WhatsApp", self.anything), ("nothing from any group", self.groups))
            if silence.suspected
        ]

    def times_to_store(self, now: float) -> Mapping[str, Any] | None:
        """The times for the session's row; None if nothing newer arrived or TELL_EVERY_SECONDS have not passed."""
        newest = max(self.anything.last or 0.0, self.groups.last or 0.0)
        if newest <= self._told_at or now - self._told_at < TELL_EVERY_SECONDS:
            return None
        self._told_at = now
        return {"any": _iso(self.anything.last), "group": _iso(self.groups.last)}


def _span(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"


def _iso(at: float | None) -> str | None:
    return None if at is None else iso_utc(datetime.fromtimestamp(at, UTC), "seconds")

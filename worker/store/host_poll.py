"""Arguments and answer of `wa_host_poll`: plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.store.rows import Flag, Json


@dataclass(frozen=True, kw_only=True)
class HeldSession:
    """A session that this process holds.

    `monitored`: the version of the monitored groups that it has, None if it has none. `media`: which jobs it could take
    now: 0 none, 1 files, 2 also those that wait for the phone. `complete`: connection (epoch) and time until which
    everything that came on it is durable; None while that is not known.
    """

    session: str
    fence: int
    monitored: int | None
    media: int
    complete: tuple[int, datetime] | None = None

    def as_document(self) -> dict[str, Any]:
        version = None if self.monitored is None else str(self.monitored)
        held = {"session": self.session, "fence": str(self.fence), "monitored": version, "media": self.media}
        if self.complete is None:
            return held
        epoch, complete_to = self.complete
        return {**held, "epoch": str(epoch), "complete_to": complete_to.isoformat()}


@dataclass(frozen=True, kw_only=True)
class MonitoredGroups:
    """The groups that are switched on, and how often that set has changed."""

    version: int
    groups: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class News:
    """What is new for one session. `monitored` None: unchanged. `media`, `refused`: something is due now."""

    flags: Sequence[Flag] = ()
    monitored: MonitoredGroups | None = None
    media: bool = False
    refused: bool = False


@dataclass(frozen=True, kw_only=True)
class HostPolled:
    """The answer to one poll.

    `lost`: sessions that somebody else holds by now. `busy`: their leases were due and could not be written, because
    their rows were locked. All others are held for at least two thirds of their lease.
    """

    lost: frozenset[str] = frozenset()
    busy: frozenset[str] = frozenset()
    news: Mapping[str, News]


def parse_answer(row: Json) -> HostPolled:
    """The answer as a value.

    Raises:
        KeyError: it is not the function's (`OddAnswer` for an answer of the database).
    """
    row["alive"]
    news = {session: _parse_news(told) for session, told in row.get("news", {}).items()}
    return HostPolled(lost=frozenset(row.get("lost", ())), busy=frozenset(row.get("busy", ())), news=news)


def _parse_news(told: Json) -> News:
    monitored = told.get("monitored")
    return News(
        flags=[parse_flag(flag) for flag in told.get("flags", ())],
        monitored=monitored
        and MonitoredGroups(version=int(monitored["version"]), groups=frozenset(monitored["groups"])),
        media=bool(told.get("media")),
        refused=bool(told.get("refused")),
    )


def parse_flag(row: Json) -> Flag:
    """One entry of `wa_pending_flags`."""
    return Flag(
        key=row["key"],
        at=datetime.fromisoformat(row["at"]) if row["at"] else None,
        at_text=row["at_text"],
        age_seconds=row["age_s"],
        phone=row["phone"],
        given=row["given"],
    )

"""Arguments and answer of `wa_host_poll`: plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from worker.store.rows import Flag, Json, known


@dataclass(frozen=True, kw_only=True)
class HeldSession:
    """A session that this process holds.

    `monitored`: the version of the monitored groups that it has, None if it has none. `media`: which jobs it could take
    now: 0 none, 1 files, 2 also those that wait for the phone. `complete`: connection (epoch) and time until which
    everything that came on it is durable; None while that is not known. `claimed`: it came by a poll; `settings`: the
    version of its settings that this process then has.
    """

    session: str
    fence: int
    monitored: int | None
    media: int
    complete: tuple[int, datetime] | None = None
    claimed: bool = False
    settings: str | None = None

    def as_document(self) -> dict[str, Any]:
        version = None if self.monitored is None else str(self.monitored)
        held: dict[str, Any] = {"session": self.session, "fence": str(self.fence)}
        held |= {"monitored": version, "media": self.media}
        if self.claimed:
            held |= {"claimed": True, "settings": self.settings}
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
class StoredSettings:
    """A session's settings as they stand in its row, not validated; `version` tells one set from another.

    They may hold a proxy's password: never logged.
    """

    version: str
    values: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SessionRequest:
    """A row of `wa_requests` that waits: fetch_groups, refresh_qr, disconnect or pairing_code (`args` {phone})."""

    id: int
    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClaimedSession:
    """A wanted session that is ours now, under this fence, from `now` to `until` by the database's clock."""

    session: str
    fence: int
    until: datetime
    now: datetime
    settings: StoredSettings


@dataclass(frozen=True, kw_only=True)
class SessionUpdate:
    """What is new for one session. `monitored` None: unchanged. `media`, `refused`: something is due now.

    `stop`: it is no longer wanted. `settings`: it has others than the version that we named. Only those that we claimed
    have these two. `requests` are told until they are handled.
    """

    flags: Sequence[Flag] = ()
    monitored: MonitoredGroups | None = None
    media: bool = False
    refused: bool = False
    stop: bool = False
    settings: StoredSettings | None = None
    requests: Sequence[SessionRequest] = ()


@dataclass(frozen=True, kw_only=True)
class HostPollAnswer:
    """The answer to one poll.

    `lost`: sessions that somebody else holds by now. `busy`: their leases were due and could not be written, because
    their rows were locked. All others are held for at least two thirds of their lease. `claimed`: new ones of ours.
    `give_up`: to stop and release, because another host has too few; told again while it is held.
    """

    lost: frozenset[str] = frozenset()
    busy: frozenset[str] = frozenset()
    updates: Mapping[str, SessionUpdate]
    claimed: Sequence[ClaimedSession] = ()
    give_up: frozenset[str] = frozenset()


def parse_answer(row: Json) -> HostPollAnswer:
    """The answer as a value.

    Raises:
        KeyError: it is not the function's (`UnexpectedAnswer` for an answer of the database).
    """
    row["alive"]
    updates = {session: _parse_update(told) for session, told in row.get("news", {}).items()}
    return HostPollAnswer(
        lost=frozenset(row.get("lost", ())),
        busy=frozenset(row.get("busy", ())),
        updates=updates,
        claimed=[_parse_claimed(told) for told in row.get("claimed", ())],
        give_up=frozenset(row.get("give_up", ())),
    )


def _parse_claimed(told: Json) -> ClaimedSession:
    return ClaimedSession(
        session=told["session"],
        fence=int(told["fence"]),
        until=datetime.fromisoformat(told["until"]),
        now=datetime.fromisoformat(told["now"]),
        settings=StoredSettings(**known(StoredSettings, told["settings"])),
    )


def _parse_update(told: Json) -> SessionUpdate:
    monitored, settings = told.get("monitored"), told.get("settings")
    return SessionUpdate(
        flags=[parse_flag(flag) for flag in told.get("flags", ())],
        monitored=monitored
        and MonitoredGroups(version=int(monitored["version"]), groups=frozenset(monitored["groups"])),
        media=bool(told.get("media")),
        refused=bool(told.get("refused")),
        stop=bool(told.get("stop")),
        settings=settings and StoredSettings(**known(StoredSettings, settings)),
        requests=[
            SessionRequest(**{**known(SessionRequest, request), "id": int(request["id"])})
            for request in told.get("requests", ())
        ],
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

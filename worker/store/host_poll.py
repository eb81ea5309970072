"""Arguments and answer of `wa_host_poll`. Plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from worker.store.rows import Flag, Json, known


@dataclass(frozen=True, kw_only=True)
class HeldSession:
    """A session that this process holds, as told to the poll.

    Attributes:
        monitored: version of the monitored groups that this process knows; None: none yet.
        media: jobs that it could take now: 0 none, 1 files, 2 also those that wait for the phone.
        complete: connection (epoch) and time up to which everything on it is durable; None: unknown.
        claimed: a poll claimed it.
        settings: version of its settings that this process has, if claimed.
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
    """The groups that are switched on, and how often the set has changed."""

    version: int
    groups: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class StoredSettings:
    """A session's settings from its row, not validated. `version` identifies the set.

    May contain a proxy's password: never log them.
    """

    version: str
    values: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SessionRequest:
    """A pending row of `wa_requests`: fetch_groups, refresh_qr, disconnect or pairing_code (`args` {phone})."""

    id: int
    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClaimedSession:
    """A wanted session that we have just claimed, with its fence. `now` and `until`: by the database's clock."""

    session: str
    fence: int
    until: datetime
    now: datetime
    settings: StoredSettings


@dataclass(frozen=True, kw_only=True)
class SessionUpdate:
    """What is new for one session.

    Attributes:
        monitored: None if unchanged.
        media: a media job is due now.
        refused: a refused item is due for a retry now.
        stop: the session is no longer wanted (claimed sessions only).
        settings: set if they differ from the version that we sent (claimed sessions only).
        requests: repeated until they are handled.
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
    """The answer to one poll. Leases not named here run for at least two thirds of their time.

    Attributes:
        lost: sessions that another worker holds now.
        busy: sessions whose lease was due but whose row was locked.
        claimed: sessions that we have just claimed.
        give_up: sessions to stop and release, because another host has too few; repeated until released.
    """

    lost: frozenset[str] = frozenset()
    busy: frozenset[str] = frozenset()
    updates: Mapping[str, SessionUpdate]
    claimed: Sequence[ClaimedSession] = ()
    give_up: frozenset[str] = frozenset()


def parse_answer(row: Json) -> HostPollAnswer:
    """The SQL function's answer as a value.

    Raises:
        KeyError: a field is missing (`UnexpectedAnswer` if `row` is the database's answer).
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

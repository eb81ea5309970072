"""Stand-ins for the session's unit tests: a database in memory, a sidecar that says what it is told to say.

The real ones are in tests/integration and tests/e2e; these exist for what the real ones cannot be made to do on time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import anyio

from worker.bridge.peer import Peer
from worker.bridge.protocol import (
    CloseInfo,
    Code,
    Connected,
    ConnectionState,
    ConnectParameters,
    Group,
    Groups,
    Me,
    Notification,
    Qr,
)
from worker.errors import StoreRefused, StoreUnavailable, TooSlow
from worker.store import (
    AccountState,
    Audit,
    Batch,
    Committed,
    Flag,
    GroupChange,
    GroupsUpserted,
    HeldSession,
    HostPollAnswer,
    Lease,
    MonitoredGroups,
    Piece,
    SessionUpdate,
    Suspect,
)
from worker.store.session import SessionStore

BOUND = 60.0  # no wait in a unit test takes longer


async def until(probe: Callable[[], object]) -> None:
    """Let the others run until `probe` is true; bounded."""
    with anyio.fail_after(BOUND):
        while not probe():  # noqa: ASYNC110 - what is waited for has no event
            await anyio.sleep(0.002)


@dataclass
class Database:
    """What the session's account, and its lease, would find in Postgres. `away` makes every call fail."""

    away: bool = False
    holder: str | None = None
    fence: int = 1
    epoch: int = 0
    creds: str | None = None
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    patches: list[Mapping[str, Any]] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    commits: list[Batch] = field(default_factory=list)
    parts: list[Batch] = field(default_factory=list)
    monitored: frozenset[str] = frozenset()
    flags: list[Flag] = field(default_factory=list)
    handled: list[Flag] = field(default_factory=list)
    answered: list[tuple[int, str]] = field(default_factory=list)
    groups: list[GroupChange] = field(default_factory=list)
    members: list[Mapping[str, Any]] = field(default_factory=list)
    identities: dict[str, str] = field(default_factory=dict)
    suspects: list[Suspect] = field(default_factory=list)
    deaths: list[tuple[str, str, bool]] = field(default_factory=list)
    wipes: int = 0
    busy: bool = False
    hangs: bool = False
    media_due: bool = False
    refused_poll: bool = False
    polled: list[HeldSession] = field(default_factory=list)
    refuse: Callable[[Batch], Exception | None] = lambda batch: None
    session: str = "default"
    tries: int = 0  # calls of any kind; grows while it is away too

    @property
    def store(self) -> SessionStore:
        return cast(SessionStore, self)

    @property
    def status(self) -> str | None:
        return self.row.get("status")

    @property
    def row(self) -> dict[str, Any]:
        """The session's row as the patches made it."""
        row: dict[str, Any] = {}
        for patch in self.patches:
            row.update(patch)
        return row

    async def list_suspects(self) -> list[Suspect]:
        return self.suspects

    async def note_death(self, digest: str, death: str, *, killed: bool) -> None:
        self.deaths.append((digest, death, killed))

    def events(self, name: str | None = None) -> list[Any]:
        return [a.event if name is None else dict(a.payload) for a in self.audits if name in (None, a.event)]

    async def _answer(self) -> None:
        self.tries += 1
        await anyio.lowlevel.checkpoint()
        if self.away:
            raise StoreUnavailable("away")

    async def lease_acquire(self, session: str, owner: str, seconds: float) -> Lease:
        await self._answer()
        acquired = self.holder in (None, owner)
        if acquired:
            self.holder = owner
        now = datetime.now(UTC)
        return Lease(
            acquired=acquired, fence=self.fence, epoch=self.epoch, holder=self.holder or "", expires_at=now, now=now
        )

    async def begin_epoch(self) -> int:
        await self._answer()
        self.epoch += 1
        return self.epoch

    async def load_state(self) -> AccountState:
        await self._answer()
        return AccountState(creds=self.creds, has_keys=bool(self.keys))

    async def get_keys(self, type_: str, ids: Sequence[str]) -> dict[str, str]:
        await self._answer()
        return {id_: self.keys[type_, id_] for id_ in ids if (type_, id_) in self.keys}

    async def known_stanzas(self, hashes: Sequence[str]) -> set[str]:
        await self._answer()
        return set()

    async def get_identities(self, ids: Sequence[str]) -> dict[str, str]:
        await self._answer()
        return {id_: self.identities[id_] for id_ in ids if id_ in self.identities}

    async def commit(self, batch: Batch) -> Committed:
        await self._answer()
        if error := self.refuse(batch):
            raise error
        self.commits.append(batch)
        return Committed(seq=batch.seq, duplicate=False, stored=len(batch.messages))

    async def commit_part(self, part: Batch) -> Committed:
        await self._answer()
        if error := self.refuse(part):
            raise error
        self.parts.append(part)
        return Committed(seq=part.seq, duplicate=False, stored=len(part.messages) + len(part.opaque))

    async def put_piece(self, piece: Piece) -> Committed:
        await self._answer()
        if error := self.refuse(piece.batch):
            raise error
        return Committed(seq=piece.batch.seq, duplicate=False)

    async def cheapest_call(self) -> None:
        await self._answer()

    async def set_session(self, patch: Mapping[str, Any], audits: Sequence[Audit] = ()) -> None:
        await self._answer()
        self.patches.append(dict(patch))
        self.audits.extend(audits)

    async def wipe_credentials(self) -> int:
        await self._answer()
        self.wipes += 1
        self.creds = None
        return self.epoch

    async def upsert_groups(self, groups: Sequence[GroupChange], *, complete: bool) -> GroupsUpserted:
        await self._answer()
        self.groups = list(groups)
        return GroupsUpserted(count=len(groups), added=len(groups), renamed=0, left=0)

    async def write_members(self, entries: Sequence[Mapping[str, Any]]) -> int:
        await self._answer()
        self.members.extend(entries)
        return 0

    async def host_poll(
        self,
        owner: str,
        capacity: int | None,
        held: Sequence[HeldSession],
        lease_seconds: float | None = None,
        within: float | None = None,
    ) -> HostPollAnswer:
        """As the SQL function, for one session; `busy` and `hangs` are what a test makes of it."""
        await self._answer()
        if self.hangs:
            with anyio.move_on_after(within):
                await anyio.sleep_forever()
            raise TooSlow("wa_host_poll: no answer")
        (one,) = held
        self.polled.append(one)
        if self.refused_poll:
            raise StoreRefused("wa_host_poll: 42501", "42501")
        if (self.holder, self.fence) != (owner, one.fence):
            return HostPollAnswer(lost=frozenset({one.session}), updates={})
        version = hash(self.monitored)
        news = SessionUpdate(
            flags=[flag for flag in self.flags if flag not in self.handled],
            monitored=MonitoredGroups(version=version, groups=self.monitored) if version != one.monitored else None,
            media=self.media_due and one.media > 0,
        )
        return HostPollAnswer(busy=frozenset({one.session} if self.busy else ()), updates={one.session: news})

    async def request_handled(self, id_: int, result: str) -> None:
        await self._answer()
        self.answered.append((id_, result))

    async def flag_handled(self, flag: Flag) -> None:
        await self._answer()
        self.handled.append(flag)


def make_flag(key: str, at: str | None = "2026-01-31T12:00:00Z") -> Flag:
    """A flag as the store reports it; `at` None is a malformed one."""
    time = datetime.fromisoformat(at) if at else None
    return Flag(key=key, at=time, at_text=at, age_seconds=None)


class Sidecar:
    """A peer that notifies what a test tells it to, and notes what it was asked."""

    def __init__(self) -> None:
        self._told, self.notifications = anyio.create_memory_object_stream[Notification](100)
        self.calls: list[str] = []
        self.connects: list[ConnectParameters] = []
        self.failures: dict[str, list[Exception]] = {}
        self.code_ttl_ms = 180_000
        self.asked_at_ms = 0.0
        self.members_of: list[str] = []
        self.groups_found = [Group(id="1@g.us", subject="One", addressing_mode="lid", size=2, admins=["1001@lid"])]

    @property
    def peer(self) -> Peer:
        return cast(Peer, self)

    def _note(self, call: str) -> None:
        self.calls.append(call)
        failures = self.failures.get(call.split()[0])
        if failures:
            raise failures.pop(0)

    async def connect(self, params: ConnectParameters) -> Connected:
        await anyio.lowlevel.checkpoint()
        self._note("connect")
        self.connects.append(params)
        return Connected(version=params.version or [2, 3000, 1])

    async def close(self, *, logout: bool, drain_seconds: float) -> int:
        await anyio.lowlevel.checkpoint()
        self._note("close logout" if logout else "close")
        return 0

    async def groups(self, members_of: Iterable[str] = ()) -> Groups:
        await anyio.lowlevel.checkpoint()
        self._note("groups")
        self.members_of = list(members_of)
        return Groups(groups=self.groups_found, asked_at_ms=self.asked_at_ms)

    async def pairing_code(self, phone: str) -> Code:
        await anyio.lowlevel.checkpoint()
        self._note(f"pairing_code {phone}")
        return Code(code="ABCD1234", ttl_ms=self.code_ttl_ms)

    def says(self, notification: Notification) -> None:
        self._told.send_nowait(notification)

    def shows_qr(self, text: str | None = "2@qr", ttl_ms: int = 60_000) -> None:
        self.says(Qr(qr=text, ttl_ms=ttl_ms))

    def opens(self) -> None:
        me = Me(id="491511234567:5@s.whatsapp.net", lid="2001:5@lid", name="Ana's worker")
        self.says(ConnectionState(state="open", me=me, server_time_offset_ms=-12.0))

    def closes(self, code: int | None, message: str = "Stream Errored", phase: str = "open", data: Any = None) -> None:
        info = CloseInfo.model_validate({"code": code, "message": message, "phase": phase, "data": data})
        self.says(ConnectionState(state="close", close=info))

    def hang_up(self) -> None:
        self._told.close()
        self.notifications.close()

"""What the command line and /metrics ask of the database, one method per SQL function.

No lease and no fence: nothing here is a worker's work. Errors are those of `worker.store.client.translated`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.store.host_poll import StoredSettings
from worker.store.rows import known

Call = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Our role according to the database, and its clock."""

    role: str
    now: datetime
    version: str


@dataclass(frozen=True, kw_only=True)
class ListedGroup:
    """One group. `last`: its last message, as from `wa_list_groups`. `today`: messages in the last 24 hours."""

    id: int
    wa_group_id: str
    name: str | None
    monitor: bool
    left_at: datetime | None
    today: int
    last: Row | None


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many; not `exact`: an estimate."""

    count: int
    exact: bool


@dataclass(frozen=True, kw_only=True)
class Members:
    """Some of a group's people as `wa_list_members` has them; how many are in it and were; when that was told last."""

    present: int
    left: int
    as_of: datetime | None
    members: list[Row]


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Messages in order, and the cursor for the next call."""

    cursor: int
    messages: list[Row]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A page of search results, as from `search_messages`. `next`: cursor of the next page."""

    results: list[Row]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class Requeued:
    """Files that are jobs again. `without`: abandoned files that cannot be retried, because no descriptor was kept."""

    requeued: int
    without: int


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What is older than a date. `objects`: left in the bucket by an interrupted run."""

    messages: int
    refused: int
    media: int
    bytes: int
    objects: int


@dataclass(frozen=True, kw_only=True)
class Deleted:
    messages: int
    refused: int
    more: bool


@dataclass(frozen=True, kw_only=True)
class RefusedItem:
    """A message or a change that could not be stored, without its content."""

    id: int
    at: datetime
    item: str
    state: str
    chat_id: str | None
    sender: str | None
    wa_msg_id: str | None
    code: str
    reason: str
    tries: int
    next_at: datetime | None
    has_body: bool


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The database's share of /metrics."""

    now: datetime
    epoch: int | None
    seq: int | None
    running: int
    due: int
    waiting: int
    oldest_seconds: float | None
    abandoned: Mapping[str, int]
    pending_stubs: int
    refused: int
    held_changes: int
    refused_waiting: int = 0
    undecrypted: int = 0


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """All sessions, as from `wa_list_sessions`, the live hosts, and the database's clock."""

    now: datetime
    sessions: list[Row]
    hosts: list[Row]


@dataclass(frozen=True, kw_only=True)
class RequestState:
    """The state of a request. `gone`: the request is no longer stored."""

    handled: bool
    result: str | None
    gone: bool = False


class Console:
    """Reads and signals for people. Made by `Store`."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def whoami(self) -> Caller:
        row = await self._call("wa_whoami", {})
        return Caller(role=row["role"], now=datetime.fromisoformat(row["now"]), version=str(row["version"]))

    async def groups(self, session: str, only: int | None = None) -> list[ListedGroup]:
        """All groups, or `only` one, if it exists."""
        rows = (await self._call("wa_list_groups", {"p_session": session, "p_group": _id(only)}))["groups"]
        return [
            ListedGroup(
                **{
                    **known(ListedGroup, row),
                    "id": int(row["id"]),
                    "left_at": _time(row["left_at"]),
                    "today": int(row["today"]),
                }
            )
            for row in rows
        ]

    async def coverage(self, session: str, wa_group_id: str, limit: int = 1000) -> Row:
        """`{complete, since, complete_to, gaps, gap_count}` of one group, for all time; docs/coverage.md."""
        args = {"p_session": session, "p_group": wa_group_id, "p_limit": limit}
        return dict(await self._call("coverage", args))

    async def all_coverage(self, session: str) -> list[Row]:
        """The coverage of every group that is or was switched on, with `wa_group_id`, `name`, `monitor`."""
        return list((await self._call("wa_coverage", {"p_session": session}))["groups"])

    async def some_coverage(self, session: str, since: datetime, limit: int, offset: int) -> tuple[list[Row], int]:
        """As `all_coverage`, since a time, for `limit` groups by name after `offset`; and the number of groups."""
        args = {"p_session": session, "p_from": since.isoformat(), "p_limit": limit, "p_offset": offset}
        row = await self._call("wa_coverage", args)
        return list(row["groups"]), int(row["group_count"])

    async def activity(self, session: str, group: int | None, step_seconds: int, steps: int) -> Row:
        """Message counts for each of the last steps, from `wa_activity`; of one group or all."""
        args = {"p_session": session, "p_group": _id(group), "p_step": step_seconds, "p_steps": steps}
        return dict(await self._call("wa_activity", args))

    async def event_counts(self, session: str, step_seconds: int, steps: int) -> Row:
        """Connects, disconnects, attempts and errors for each of the last steps, from `wa_event_counts`."""
        args = {"p_session": session, "p_step": step_seconds, "p_steps": steps}
        return dict(await self._call("wa_event_counts", args))

    async def poll_results(self, session: str, polls: Sequence[int]) -> dict[int, Row]:
        """The results of these polls, by id: `{voters, options: [{option, votes}]}`."""
        args = {"p_session": session, "p_polls": [str(poll) for poll in polls]}
        return {int(row["poll_id"]): row for row in (await self._call("wa_poll_results", args))["polls"]}

    async def set_monitor(self, session: str, groups: Sequence[int], on: bool) -> int:
        """Switch groups on or off. Returns how many changed."""
        args = {"p_session": session, "p_groups": [str(group) for group in groups], "p_monitor": on}
        return int((await self._call("wa_set_monitor", args))["changed"])

    async def pairing_view(self, session: str) -> Row | None:
        """Status, detail (with any QR code) and the database's `now`; None: no such session."""
        row = await self._call("wa_pairing_view", {"p_session": session})
        return dict(row) if row else None

    async def change_cursor(self, session: str) -> str:
        """A cursor that changes whenever a message changes."""
        return str((await self._call("changes", {"p_session": session, "p_since": None}))["next"])

    async def raise_flag(self, session: str, flag: str, value: Mapping[str, Any] | None = None) -> str:
        """Raise a flag. Returns its time, for `flag_handled`."""
        args = {"p_session": session, "p_flag": flag, "p_value": dict(value or {})}
        return str((await self._call("wa_raise_flag", args))["at"])

    async def flag_handled(self, session: str, flag: str, at: str) -> bool:
        args = {"p_session": session, "p_flag": flag, "p_at": at}
        return bool((await self._call("wa_flag_state", args))["handled"])

    async def sessions(self, only: str | None = None, page: int = 500) -> Sessions:
        """All sessions, or `only` one, if it exists."""
        found: list[Row] = []
        while True:
            args = {"p_after": found[-1]["id"] if found else "", "p_limit": page, "p_only": only}
            row = await self._call("wa_list_sessions", args)
            found += row["sessions"]
            if len(row["sessions"]) < page:
                return Sessions(now=datetime.fromisoformat(row["now"]), sessions=found, hosts=list(row["hosts"]))

    async def add_session(
        self, session: str, settings: Mapping[str, Any], *, wanted: bool, owner_id: str | None = None
    ) -> bool:
        """Add a session. Returns False, and changes nothing, if it exists."""
        args = {"p_session": session, "p_wanted": wanted, "p_settings": dict(settings), "p_owner_id": owner_id}
        return bool((await self._call("wa_add_session", args))["added"])

    async def want_session(self, session: str, wanted: bool) -> bool | None:
        """Set whether a session is wanted. Returns whether that changed anything; None: no such session."""
        row = await self._call("wa_want_session", {"p_session": session, "p_wanted": wanted})
        return bool(row["changed"]) if row["found"] else None

    async def session_settings(self, session: str) -> StoredSettings | None:
        """A session's stored settings, not validated; None: no such session."""
        row = await self._call("wa_session_settings", {"p_session": session})
        return StoredSettings(**known(StoredSettings, row)) if row["found"] else None

    async def set_settings(self, session: str, settings: Mapping[str, Any], version: str) -> bool:
        """Replace a session's settings. Returns False, and changes nothing, if `version` is outdated."""
        args = {"p_session": session, "p_settings": dict(settings), "p_version": version}
        return bool((await self._call("wa_set_settings", args))["changed"])

    async def remove_session(self, session: str, *, data: bool, limit: int) -> bool:
        """Do one step of a removal. Returns whether there are more.

        Raises:
            StoreRefused: `session_wanted` or `session_held`.
        """
        args = {"p_session": session, "p_data": data, "p_limit": limit}
        return bool((await self._call("wa_remove_session", args))["more"])

    async def ask(self, session: str, name: str, args: Mapping[str, Any] | None = None) -> int:
        """Add a request to `wa_requests`. Returns its id, for `request_state`."""
        call = {"p_session": session, "p_name": name, "p_args": dict(args or {})}
        return int((await self._call("wa_ask", call))["id"])

    async def request_state(self, session: str, id_: int) -> RequestState:
        row = await self._call("wa_request_state", {"p_session": session, "p_id": str(id_)})
        return RequestState(**known(RequestState, row))

    async def tail(self, session: str, group: int | None, after: int | None, limit: int) -> Tail:
        args = {"p_session": session, "p_group": _id(group), "p_after": _id(after), "p_limit": limit}
        row = await self._call("wa_tail", args)
        return Tail(cursor=int(row["cursor"]), messages=list(row["messages"]))

    async def search(
        self, session: str, query: str, narrow: Mapping[str, Any], *, sort: str, cursor: str | None, limit: int
    ) -> Found:
        """Search messages. `narrow`: the `p_filter` of `search_messages`. `sort`: newest or best."""
        args = {"p_session": session, "p_query": query, "p_filter": narrow, "p_sort": sort, "p_cursor": cursor}
        answer = await self._call("search_messages", args | {"p_limit": limit})
        return Found(results=answer["results"], next=answer["next"])

    async def media_requeue(self, session: str, statuses: Sequence[str], message: int | None = None) -> Requeued:
        """Retry abandoned files with these statuses: all, or that of one message."""
        args = {"p_session": session, "p_statuses": list(statuses), "p_message": _id(message)}
        return Requeued(**known(Requeued, await self._call("wa_media_requeue", args)))

    async def retention(self, session: str, before: datetime) -> Retention:
        row = await self._call("wa_retention", {"p_session": session, "p_before": before.isoformat()})
        return Retention(**{**known(Retention, row), "bytes": int(row["bytes"])})

    async def delete_messages(self, session: str, before: datetime, limit: int) -> Deleted:
        args = {"p_session": session, "p_before": before.isoformat(), "p_limit": limit}
        return Deleted(**known(Deleted, await self._call("wa_delete_messages", args)))

    async def list_media_to_delete(self, limit: int) -> dict[str, str]:
        """Paths of unreferenced objects, by sha256; empty when none is left."""
        row = await self._call("wa_list_media_to_delete", {"p_limit": limit})
        return {one["sha256"]: one["storage_path"] for one in row["objects"]}

    async def mark_media_deleted(self, sha256: Sequence[str]) -> None:
        row = await self._call("wa_mark_media_deleted", {"p_sha256": list(sha256)})
        row["done"]  # raises UnexpectedAnswer if it is missing

    async def export_messages(self, session: str, group: int, after: int, limit: int) -> list[Row]:
        args = {"p_session": session, "p_group": str(group), "p_after": str(after), "p_limit": limit}
        return list((await self._call("wa_export_messages", args))["messages"])

    async def export_size(self, session: str, group: int, after: int) -> tuple[int, int]:
        """The number of messages in the group, and of those after `after`."""
        args = {"p_session": session, "p_group": str(group), "p_after": str(after)}
        row = await self._call("wa_export_size", args)
        return int(row["all"]), int(row["left"])

    async def count_messages(self, session: str, group: int) -> Count:
        row = await self._call("wa_count_messages", {"p_session": session, "p_group": str(group)})
        return Count(**known(Count, row))

    async def members(self, session: str, group: int, limit: int, offset: int = 0) -> Members:
        args = {"p_session": session, "p_group": str(group), "p_limit": limit, "p_offset": offset}
        row = await self._call("wa_list_members", args)
        return Members(**{**known(Members, row), "as_of": _time(row["as_of"])})

    async def refused(self, session: str, after: int, limit: int) -> list[RefusedItem]:
        """Refused and waiting items after the id `after`, by id."""
        args = {"p_session": session, "p_after": str(after), "p_limit": limit}
        rows = (await self._call("wa_list_refused", args))["items"]
        return [
            RefusedItem(
                **{
                    **known(RefusedItem, row),
                    "id": int(row["id"]),
                    "at": datetime.fromisoformat(row["at"]),
                    "next_at": _time(row["next_at"]),
                }
            )
            for row in rows
        ]

    async def refused_body(self, session: str, id_: int) -> tuple[str | None, str]:
        """The stored body and its encoding; None if there is none, or the item is no longer listed."""
        row = await self._call("wa_refused_body", {"p_session": session, "p_id": str(id_)})
        return row["body"], str(row["encoding"])

    async def figures(self, session: str) -> Figures:
        row = await self._call("wa_figures", {"p_session": session})
        jobs = row["jobs"]
        return Figures(
            now=datetime.fromisoformat(row["now"]),
            epoch=None if row["epoch"] is None else int(row["epoch"]),
            seq=None if row["seq"] is None else int(row["seq"]),
            running=int(jobs["running"]),
            due=int(jobs["due"]),
            waiting=int(jobs["waiting"]),
            oldest_seconds=None if jobs["oldest_s"] is None else float(jobs["oldest_s"]),
            abandoned={status: int(count) for status, count in row["abandoned"].items()},
            pending_stubs=int(row["pending_stubs"]),
            refused=int(row["refused"]),
            held_changes=int(row["held_changes"]),
            refused_waiting=int(row["refused_waiting"]),
            undecrypted=int(row["undecrypted"]),
        )


def holes(coverage: Mapping[str, Any]) -> int:
    """The number of gaps. The time before a group was first switched on, or the first phone linked, is none."""
    return int(coverage["gap_count"]) - sum(gap["from"] is None for gap in coverage["gaps"])


def open_gap(gaps: Sequence[Row], now: datetime) -> Row | None:
    """The gap that explains why the group is not complete now; None if it is complete. Clocks differ: one may end later
    than now.
    """
    going_on = [gap for gap in gaps if gap["to"] is None or datetime.fromisoformat(gap["to"]) > now]
    return next((gap for gap in going_on if gap["reason"] == "not_monitored"), going_on[0] if going_on else None)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _id(number: int | None) -> str | None:
    return None if number is None else str(number)

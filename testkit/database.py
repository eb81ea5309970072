"""The web app's side: reads the tables, sets flags, switches groups on. Never does the worker's work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self, cast

import httpx
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from testkit.waiting import until

Row = dict[str, Any]

BUCKET = "wa-media"
CALL_SECONDS = 20.0
PAGE = 1000  # PostgREST returns at most this many rows, silently
DEFAULT_SESSION = "default"

Flag = Literal[
    "fetch_groups_requested", "wa_refresh_qr_requested", "wa_disconnect_requested", "wa_pairing_code_requested",
    "wa_passkey_answered", "wa_passkey_compared",
]  # fmt: skip


class Database:
    """One client with the service key, seeing one session."""

    def __init__(self, client: AsyncClient, http: httpx.AsyncClient, url: str, service_key: str, session: str) -> None:
        self.client = client
        self._url = url
        self._service_key = service_key
        self._http = http
        self.session = session

    @classmethod
    async def connect(cls, url: str, service_key: str, session: str = DEFAULT_SESSION) -> Self:
        http = httpx.AsyncClient(timeout=CALL_SECONDS, trust_env=False)
        client = await acreate_client(url, service_key, options=AsyncClientOptions(httpx_client=http))
        return cls(client, http, url, service_key, session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # Reading

    async def rows(self, table: str, *, order: str | None = None, **equal: object) -> list[Row]:
        """All rows of `table` whose columns equal the given values.

        `order` is a comma-separated list of columns; above a thousand rows it must be total, or pages repeat and miss
        rows.
        """
        found: list[Row] = []
        while True:
            query = self.client.table(table).select("*")
            for column, value in equal.items():
                query = query.is_(column, "null") if value is None else query.eq(column, value)
            for column in order.split(",") if order else ():
                query = query.order(column)
            page = (await query.range(len(found), len(found) + PAGE - 1).execute()).data
            found += cast(list[Row], page)
            if len(page) < PAGE:
                return found

    async def session_row(self) -> Row | None:
        found = await self.rows("wa_sessions", id=self.session)
        return found[0] if found else None

    async def detail(self) -> Row:
        """`wa_sessions.detail`: what the web app shows."""
        row = await self.session_row()
        return cast(Row, (row or {}).get("detail") or {})

    async def status(self) -> str | None:
        row = await self.session_row()
        return row["status"] if row else None

    async def qr(self) -> str | None:
        """The QR to scan, if there is one and it has not expired."""
        row = await self.session_row()
        detail = (row or {}).get("detail") or {}
        expires = detail.get("expiresAt")
        if not detail.get("qr") or not expires or parse_time(expires) <= datetime.now(UTC):
            return None
        return str(detail["qr"])

    async def groups(self) -> list[Row]:
        return await self.rows("groups", order="name,id", session_id=self.session)

    async def messages(self, **equal: object) -> list[Row]:
        return await self.rows("messages", order="ts,id", session_id=self.session, **equal)

    async def message(self, wa_msg_id: str) -> Row | None:
        """The one row of this message id.

        Raises:
            AssertionError: there are several.
        """
        found = await self.messages(wa_msg_id=wa_msg_id)
        assert len(found) < 2, f"{len(found)} rows for {wa_msg_id}"
        return found[0] if found else None

    async def newer_messages(self, after: int, chat_id: str | None = None) -> list[Row]:
        """Messages whose row id is above `after`, in the order in which they were stored; at most 1,000."""
        query = self.client.table("messages").select("*").eq("session_id", self.session).gt("id", after)
        if chat_id is not None:
            query = query.eq("chat_id", chat_id)
        return cast(list[Row], (await query.order("id").limit(PAGE).execute()).data)

    async def last_message(self) -> int:
        """The newest row id of this session's messages, to recognise later ones."""
        query = self.client.table("messages").select("id").eq("session_id", self.session)
        found = cast(list[Row], (await query.order("id", desc=True).limit(1).execute()).data)
        return int(found[0]["id"]) if found else 0

    async def events(self, name: str | None = None) -> list[Row]:
        """This session's audit log, oldest first."""
        equal = {"event": name} if name else {}
        return await self.rows("audit_log", order="id", session_id=self.session, **equal)

    # Waiting

    async def until(
        self,
        what: str,
        probe: Callable[[], Awaitable[Any]],
        seconds: float = 20.0,
        tell: Callable[[], str] | None = None,
        every: float | None = None,
    ) -> Any:
        return await until(what, probe, seconds=seconds, every=every, tell=tell)

    async def wait_status(self, status: str, seconds: float = 30.0, tell: Callable[[], str] | None = None) -> None:
        async def probe() -> bool:
            return await self.status() == status

        await until(f"wa_sessions.status = {status}", probe, seconds=seconds, tell=tell)

    async def wait_qr(self, seconds: float = 30.0, tell: Callable[[], str] | None = None) -> str:
        return await until("a QR in wa_sessions.detail", self.qr, seconds=seconds, tell=tell)

    async def wait_groups(
        self, wa_group_ids: Iterable[str], seconds: float = 30.0, tell: Callable[[], str] | None = None
    ) -> None:
        wanted = set(wa_group_ids)

        async def probe() -> bool:
            return wanted <= {row["wa_group_id"] for row in await self.groups()}

        await until("the groups in the table", probe, seconds=seconds, tell=tell)

    async def wait_message(self, wa_msg_id: str, seconds: float = 20.0, tell: Callable[[], str] | None = None) -> Row:
        async def probe() -> Row | None:
            return await self.message(wa_msg_id)

        return await until(f"message {wa_msg_id} in the table", probe, seconds=seconds, tell=tell)

    async def wait_media(self, wa_msg_id: str, seconds: float = 20.0, tell: Callable[[], str] | None = None) -> Row:
        """The row of a message once its file is linked."""

        async def probe() -> Row | None:
            row = await self.message(wa_msg_id)
            return row if row and row["media_id"] else None

        return await until(f"the file of message {wa_msg_id}", probe, seconds=seconds, tell=tell)

    async def wait_event(
        self, name: str, after: int = 0, seconds: float = 20.0, tell: Callable[[], str] | None = None
    ) -> Row:
        """The first audit entry of this event whose id is above `after`."""

        async def probe() -> Row | None:
            return next((row for row in await self.events(name) if row["id"] > after), None)

        return await until(f"audit_log: {name}", probe, seconds=seconds, tell=tell)

    async def last_event(self) -> int:
        """The id of the newest audit entry, to recognise later ones."""
        return max((int(row["id"]) for row in await self.events()), default=0)

    # What the web app writes

    def flag_key(self, flag: Flag) -> str:
        """Flags of the default session have the contract's names; those of others a prefix."""
        return flag if self.session == DEFAULT_SESSION else f"{self.session}:{flag}"

    async def raise_flag(self, flag: Flag, **more: object) -> None:
        value = {"at": datetime.now(UTC).isoformat(), **more}
        await self.client.table("runtime_flags").upsert({"key": self.flag_key(flag), "value": value}).execute()

    async def wait_flag_handled(self, flag: Flag, seconds: float = 20.0, tell: Callable[[], str] | None = None) -> None:
        async def probe() -> bool:
            rows = await self.rows("runtime_flags", key=self.flag_key(flag))
            return not rows or rows[0]["handled_at"] is not None

        await until(f"the flag {flag} handled", probe, seconds=seconds, tell=tell)

    async def fetch_groups(self, seconds: float = 20.0, tell: Callable[[], str] | None = None) -> None:
        """Press "fetch groups now" and wait until the worker has handled it; by then it has seen every switch too."""
        before = await self.last_event()
        await self.raise_flag("fetch_groups_requested")
        await self.wait_event("discovery", before, seconds, tell)

    async def monitor(self, wa_group_ids: Iterable[str], on: bool = True) -> None:
        """The switch beside each group in the web app."""
        query = self.client.table("groups").update({"monitor": on})
        await query.eq("session_id", self.session).in_("wa_group_id", list(wa_group_ids)).execute()

    # The bucket

    async def objects(self) -> dict[str, int]:
        """Path and size of every object in the bucket (at most 1,000)."""
        bucket = self.client.storage.from_(BUCKET)
        found: dict[str, int] = {}
        for item in await bucket.list("", {"limit": PAGE}):
            if item.get("metadata"):  # the embedded one lists objects by their full path
                found[item["name"]] = int(item["metadata"]["size"])
                continue
            for inner in await bucket.list(item["name"], {"limit": PAGE}):  # a hosted one lists folders first
                found[f"{item['name']}/{inner['name']}"] = int(inner["metadata"]["size"])
        return found

    async def bucket_is_private(self) -> bool:
        """Queried without supabase-py, which cannot parse the times that the embedded one writes."""
        headers = {"apikey": self._service_key, "authorization": f"Bearer {self._service_key}"}
        answer = await self._http.get(f"{self._url}/storage/v1/bucket/{BUCKET}", headers=headers)
        return answer.raise_for_status().json()["public"] is False

    async def download(self, path: str) -> bytes:
        return await self.client.storage.from_(BUCKET).download(path)


def parse_time(text: str) -> datetime:
    """A timestamptz as PostgREST writes it, or an ISO time of the contract; always with a zone."""
    when = datetime.fromisoformat(text)
    assert when.tzinfo is not None, f"a time without a zone: {text}"
    return when


def seconds_between(unix_ms: float, text: str) -> timedelta:
    """A phone's time as a column's value."""
    return parse_time(text) - datetime.fromtimestamp(unix_ms / 1000, UTC)

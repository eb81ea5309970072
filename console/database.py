"""The console's handle on Supabase: finds it, follows it when it moves, and translates errors.

The embedded Supabase may start after the console or change its port, so an address that stops answering is looked up
again. Errors are those of `worker.store.client.translated`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import httpx
from postgrest import AsyncPostgrestClient

from console.rules.situations import AWAY, DATABASE_STARTING, NO_DATABASE, Situation
from worker.errors import SettingsError, StoreError, StoreUnavailable
from worker.log import hide
from worker.outbound import http_client
from worker.store import BUCKET, Store, connect_store
from worker.store.client import database_client, translated

CALL_SECONDS = 10.0
CONNECT_SECONDS = 3.0
CONNECTIONS = 8  # pages of a few viewers; the one poll of a session's changes
FILE_CONNECTIONS = 16  # players keep one open per playing file
LOOK_AGAIN_SECONDS = 1.0  # between two lookups of an address that does not answer


class NoDatabase(StoreUnavailable):
    """No embedded Supabase runs in the folder, and no other one is set."""


class DatabaseStarting(NoDatabase):
    """The embedded Supabase does not run yet; the worker beside this console is starting it."""


def situation_of(fault: StoreError) -> Situation:
    """What a page says of a database that could not be asked."""
    match fault:
        case DatabaseStarting():
            return DATABASE_STARTING
        case NoDatabase():
            return NO_DATABASE
        case _:
            return AWAY


Row = dict[str, Any]
Address = tuple[str, str]  # URL and key
Locate = Callable[[], Awaitable[Address]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Open:
    address: Address
    store: Store
    tables: AsyncPostgrestClient
    files: httpx.AsyncClient


class Database:
    """Access to the database. Made by `open_database`; safe to share between requests."""

    def __init__(self, locate: Locate, *, beside: bool = False) -> None:
        self._locate = locate
        self._beside = beside
        self._lock = anyio.Lock()
        self._stack = AsyncExitStack()
        self._open: _Open | None = None
        self._doubtful = False
        self._looked_at = 0.0

    async def read(self, what: str, build: Callable[[AsyncPostgrestClient], Any]) -> list[Row]:
        """The rows of the query that `build` returns, at most a thousand."""

        async def run(opened: _Open) -> list[Row]:
            with translated(what, CALL_SECONDS):
                return list((await build(opened.tables).execute()).data)

        return await self._with(run)

    async def count(self, what: str, build: Callable[[AsyncPostgrestClient], Any]) -> int:
        """The number of rows. `build` selects with `count="exact", head=True`."""

        async def run(opened: _Open) -> int:
            with translated(what, CALL_SECONDS):
                return int((await build(opened.tables).execute()).count or 0)

        return await self._with(run)

    async def ask(self, call: Callable[[Store], Awaitable[T]]) -> T:
        """The result of a call to the store."""
        return await self._with(lambda opened: call(opened.store))

    async def audit(self, session: str, action: str, who: str, **more: object) -> None:
        """Audit a person's action. Called before the action, which must not happen without its entry."""
        payload = {"action": action, "who": who, **more}

        async def run(opened: _Open) -> None:
            args: Any = {"p_session": session, "p_event": "console", "p_payload": payload}  # any JSON, not text alone
            with translated("wa_audit", CALL_SECONDS):
                await opened.tables.rpc("wa_audit", args).execute()

        await self._with(run)

    @asynccontextmanager
    async def file(self, path: str, span: str | None) -> AsyncIterator[httpx.Response]:
        """Stream an object of the bucket. `span`: a Range header, which the embedded Supabase ignores.

        Raises:
            StoreUnavailable: Storage does not answer.
            httpx.PoolTimeout: all connections for files are in use.
        """
        opened = await self._opened()
        url, key = opened.address
        headers = {"apikey": key, "authorization": f"Bearer {key}", "accept-encoding": "identity"}
        headers |= {"range": span} if span else {}
        try:
            async with opened.files.stream(
                "GET", f"{url}/storage/v1/object/{BUCKET}/{path}", headers=headers
            ) as answer:
                yield answer
        except httpx.PoolTimeout:
            raise
        except httpx.HTTPError as error:
            self._doubtful = True
            raise StoreUnavailable(f"file: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close the clients. The next call looks the database up again."""
        stack, self._stack, self._open = self._stack, AsyncExitStack(), None
        await stack.aclose()

    async def _with(self, run: Callable[[_Open], Awaitable[T]]) -> T:
        opened = await self._opened()
        try:
            return await run(opened)
        except StoreUnavailable:
            self._doubtful = True
            raise

    async def _opened(self) -> _Open:
        async with self._lock:
            now = time.monotonic()
            if self._open and not (self._doubtful and now - self._looked_at > LOOK_AGAIN_SECONDS):
                return self._open
            self._looked_at = now
            address = await self._find()
            self._doubtful = False
            if self._open is None or self._open.address != address:
                self._open = await self._connect(address)
            return self._open

    async def _find(self) -> Address:
        try:
            return await self._locate()
        except SettingsError as missing:  # the embedded Supabase is not running
            starting = self._beside and self._open is None
            raise (DatabaseStarting if starting else NoDatabase)(str(missing)) from None

    async def _connect(self, address: Address) -> _Open:
        await self.close()
        url, key = address
        hide(key)
        timeout = httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=FILE_CONNECTIONS)
        return _Open(
            address=address,
            store=await self._stack.enter_async_context(connect_store(url, key)),
            tables=await self._stack.enter_async_context(
                database_client(url, key, connect=CONNECT_SECONDS, read=CALL_SECONDS, connections=CONNECTIONS)
            ),
            files=await self._stack.enter_async_context(http_client(url, timeout=timeout, limits=limits)),
        )


def beyond(query: Any, at: tuple[str, str], id_: tuple[str, int], operator: str) -> Any:
    """Limit a query to one side of a row, in order of a time and then an id: each a column and the row's value.

    `operator`: `lt`, `gt` or `gte`.
    """
    (column, value), strict = at, operator.removesuffix("e")
    bounded = query.filter(column, f"{strict}e", value)  # with only the `or`, Postgres scans from the end of the index
    return bounded.or_(f'{column}.{strict}."{value}",and({column}.eq."{value}",{id_[0]}.{operator}.{id_[1]})')


@asynccontextmanager
async def open_database(locate: Locate, *, beside: bool = False) -> AsyncIterator[Database]:
    """A handle on the database that `locate` finds; it need not answer yet. `beside`: a worker beside us starts it."""
    database = Database(locate, beside=beside)
    try:
        yield database
    finally:
        await database.close()

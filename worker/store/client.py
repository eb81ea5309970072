"""The two supabase-py clients, and the translation of their errors.

One for the database and one for Storage, so that media transfers cannot starve commits. `supabase` itself would also
load auth and Realtime, which nothing here uses (docs/performance.md, "From a kill to the next receipt").

Every call is bounded in time. None is retried here: that is the caller's decision. Bodies are never logged or quoted: a
Postgres error can contain a whole row.
What each answer leads to: docs/durability.md, "What the outside answers".
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
from postgrest import AsyncPostgrestClient
from postgrest.exceptions import APIError
from pydantic import ValidationError
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError

from worker.errors import (
    KeyRefused,
    SequenceGap,
    SettingsError,
    StaleEpoch,
    StaleFence,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
    TooSlow,
    UnexpectedAnswer,
)
from worker.outbound import http_client, why

KEY_WORDS = "SUPABASE_SERVICE_KEY is refused ({}): it must be the secret key of the service role"
SCHEMA_WORDS = "the database lacks our functions: apply supabase/migrations with `supabase db push`"
URL_WORDS = "the server at SUPABASE_URL is not Supabase ({}): set it to the project's address, without a path"
# SQLSTATE classes that say nothing about the statement: connection, resources, operator, object state, rollback.
TRANSIENT_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
# PostgREST without a connection, pool slot or schema cache. 25006 is read-only: hosted Supabase with a full disk, or
# a replica before it takes over.
TRANSIENT_CODES = frozenset({"25006", "PGRST000", "PGRST001", "PGRST002", "PGRST003"})
# Final refusals by Postgres: data, constraints, limits, a wrong statement, an error raised by a function.
LASTING_CLASSES = frozenset({"21", "22", "23", "42", "54", "P0"})
KEY_CODES = frozenset(
    {"401", "403", "PGRST300", "PGRST301", "PGRST302", "PGRST303"}
)  # Storage puts the status into the body
BUSY_STATUS = frozenset({408, 425, 429, 502, 503, 504, *range(520, 531)})  # gateways; PostgREST without its database
# The embedded Supabase uses one code (SUP) for everything else: other Postgres errors and its own trouble.
EMBEDDED_REFUSALS = ("error: ", "RangeError: ")
STATES_IN_WORDS = {
    "25006": "it is read-only, as a hosted one is while its disk is full",
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has no connection left",
    "57P03": "it is starting or stopping",
    "58030": "its disk reports an error",
}
IN_WORDS = {
    402: "a quota of the project is used up, or a bill is open; see its dashboard",
    413: "the request is too large for the gateway before Supabase",
    540: "the project is paused; resume it in its dashboard",
}
# Which grant is missing depends on the object's kind. PostgREST answers 42501 with 401 or 403.
DENIED = re.compile(r"permission denied for (function|table|view|sequence|schema) ([\w.\"$]{1,128})")
GRANTS = {"function": "execute", "schema": "usage", "sequence": "usage"}
CONFLICTS: dict[str, type[StoreError]] = {
    "stale_fence": StaleFence,
    "stale_epoch": StaleEpoch,
    "sequence_gap": SequenceGap,
    "other_items": SequenceGap,
    "pieces_missing": StoreUnavailable,
}


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Time limits in seconds. `call` bounds a whole database call, `transfer` a whole upload."""

    connect: float = 3.0
    call: float = 10.0  # a batch of 500 takes 0.15 s locally; hosted Supabase ends a statement after 8 s
    transfer: float = 120.0  # 25 MB at 2 Mbit/s; larger files get more (`Bucket.upload`)


@asynccontextmanager
async def database_client(
    url: str, key: str, *, connect: float, read: float, connections: int
) -> AsyncIterator[AsyncPostgrestClient]:
    """A client of the database.

    Raises:
        SettingsError: the URL or the key is malformed.
    """
    async with _http(url, key, connect=connect, read=read, connections=connections) as http:
        yield AsyncPostgrestClient(f"{url}/rest/v1", headers=_headers(key), http_client=http, retry_enabled=False)


@asynccontextmanager
async def storage_client(
    url: str, key: str, *, connect: float, read: float, connections: int
) -> AsyncIterator[AsyncStorageClient]:
    """A client of Storage. Raises the same as `database_client`."""
    async with _http(url, key, connect=connect, read=read, connections=connections) as http:
        yield AsyncStorageClient(f"{url}/storage/v1/", headers=_headers(key), http_client=http)


def _http(url: str, key: str, *, connect: float, read: float, connections: int) -> httpx.AsyncClient:
    if not url.startswith(("http://", "https://")):
        raise SettingsError("SUPABASE_URL must start with https:// or http://")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError("SUPABASE_SERVICE_KEY contains characters that no key has")
    timeout = httpx.Timeout(read, connect=connect, pool=read)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    hooks = {"response": [judge_status]}
    return http_client(url, http2=False, timeout=timeout, limits=limits, event_hooks=hooks)


def _headers(key: str) -> dict[str, str]:
    return {"apikey": key, "authorization": f"Bearer {key}"}


async def judge_status(response: httpx.Response) -> None:
    """Raise if the response is not from Supabase itself. Done here because supabase-py's errors drop the status."""
    status, storage = response.status_code, "/storage/" in response.url.path
    reads = response.request.method in {"GET", "HEAD"}
    if reads and (status < 300 or (storage and status in {400, 404})):
        return  # an object, maybe a large one; or a missing object, which storage3 recognises even in an empty body
    await response.aread()
    error = judge(status, response.content, storage=storage)
    if error:
        raise error


def judge(status: int, body: bytes, *, storage: bool = False) -> StoreError | None:
    """The error for this status and body; None if the body is Supabase's own and says more."""
    if status < 300:
        return UnexpectedAnswer(f"HTTP {status} with {_kind(body)}") if _kind(body) != "JSON" else None
    if status in BUSY_STATUS:
        return StoreUnavailable(f"HTTP {status}")
    told = _document(body)
    code = str(told.get("statusCode") if storage else told.get("code"))
    if (
        re.fullmatch(r"[0-9]{3}" if storage else r"SUP|PGRST[0-9]{3}|PGRSTX00|[0-9A-Z]{5}", code)
        and status not in IN_WORDS
    ):
        return None
    if status in {401, 403}:
        return KeyRefused(f"HTTP {status} with {_kind(body)}", KEY_WORDS.format(status))
    if "requested path is invalid" in str(told.get("error", "")) + str(told.get("message", "")):
        return UnexpectedAnswer(
            f"HTTP {status}, requested path is invalid", URL_WORDS.format("requested path is invalid")
        )
    if storage and status == 413:
        return StoreRefused("HTTP 413: the file is larger than Storage or its bucket allows", "413")
    if status == 413:
        return TooLarge(f"HTTP 413: {IN_WORDS[413]}")
    if status in IN_WORDS:
        return UnexpectedAnswer(f"HTTP {status}: {IN_WORDS[status]}")
    if status < 400 or status == 404:
        return UnexpectedAnswer(f"HTTP {status} with {_kind(body)}", URL_WORDS.format(f"HTTP {status}"))
    return UnexpectedAnswer(f"HTTP {status} with {_kind(body)}")


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _code(told: dict[str, Any]) -> str:
    return str(told.get("code"))


def _kind(body: bytes) -> str:
    """What kind of body it is, judged by its first byte."""
    start = body.lstrip()[:1]
    if not start:
        return "an empty body"
    if start == b"<":
        return "an HTML page"
    return "JSON" if start in b'{["-0123456789tfn' else "a body that is not JSON"


@contextmanager
def translated(what: str, seconds: float) -> Iterator[None]:
    """Bound a call to `seconds` and turn library errors into the worker's errors.

    Raises:
        StoreUnavailable: no answer, or one that a retry may change. The call may still have taken effect.
        TooSlow: as above; the call timed out.
        UnexpectedAnswer: as above; the answer is not Supabase's own, or one that a healthy Supabase gives now and then.
        StaleFence, StaleEpoch, SequenceGap: the database's state differs from the caller's.
        StoreRefused: a final refusal. `code` "stale_job": another process holds this media job.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise TooSlow(f"{what}: no answer within {seconds:g} s") from error
    except httpx.ReadTimeout as error:
        raise TooSlow(f"{what}: no answer within {seconds:g} s") from error
    except httpx.HTTPError as error:
        raise StoreUnavailable(f"{what}: {why(error)}") from error
    except UnexpectedAnswer as error:  # `judge_status` does not know the call
        raise type(error)(f"{what}: {error}", error.remedy) from None
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{what}: {error}") from None
    except APIError as error:
        raise refusal(what, error.code or "", error.message or "") from None
    except StorageApiError as error:
        raise refusal(what, str(error.status), "") from None
    except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise UnexpectedAnswer(f"{what}: unreadable answer") from error
    except (UnicodeError, ValueError, RecursionError) as error:
        raise StoreRefused(f"{what}: cannot be written as JSON", "client") from error


def refusal(what: str, code: str, message: str) -> StoreError:
    """The error for an answer with this code. Reads `message` only where the code is not enough."""
    if code == "PT409" and message in CONFLICTS:
        return CONFLICTS[message](what)
    if code == "PT409":
        return StoreRefused(f"{what}: {message}", message)
    if code in KEY_CODES:
        return KeyRefused(f"{what}: {code}", KEY_WORDS.format(code))
    if code == "42501":
        return KeyRefused(f"{what}: 42501, {_denied(message)}", _denied(message))
    if code == "PGRST202":
        return UnexpectedAnswer(f"{what}: {code}, no such function in the schema cache", SCHEMA_WORDS)
    if code == "SUP" and message.startswith(EMBEDDED_REFUSALS):
        return StoreRefused(f"{what}: {code}", code)
    if code == "57014":
        return TooSlow(f"{what}: 57014, the database ended the statement because it took too long")
    if code in TRANSIENT_CODES or (len(code) == 5 and code[:2] in TRANSIENT_CLASSES) or code in {"", "SUP"}:
        words = f", {STATES_IN_WORDS[code]}" if code in STATES_IN_WORDS else ""
        return StoreUnavailable(f"{what}: {code or 'an answer without a code'}{words}")
    is_status = len(code) == 3 and code.isdigit()
    if is_status and (code in {"408", "425", "429"} or code >= "500"):
        return StoreUnavailable(f"{what}: HTTP {code}")
    if is_status or code.startswith("PGRST") or (len(code) == 5 and code[:2] in LASTING_CLASSES):
        return StoreRefused(f"{what}: {code}", code)
    return UnexpectedAnswer(f"{what}: {code}")


def _denied(message: str) -> str:
    """Which object lacks which grant. The message of 42501 names our objects, never a value."""
    found = DENIED.match(message)
    if not found:
        return KEY_WORDS.format("42501")
    kind, name = found.groups()
    grant = GRANTS.get(kind, "select, insert, update, delete")
    return (
        f"SUPABASE_SERVICE_KEY is refused (permission denied for {kind} {name}): it must be the secret key of the "
        f"service role; if it is, run `grant {grant} on {kind} {name} to service_role`"
    )

"""The two supabase-py clients, and what their errors mean.

Two, so that media transfers cannot starve commits. Every call is bounded in time; none is retried here: whether to try
again is the caller's decision. Bodies are never logged or quoted: an error of Postgres can hold a whole row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
import httpx
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError
from supabase import AsyncClient, AsyncClientOptions

from worker.errors import (
    SequenceGap,
    SettingsError,
    StaleEpoch,
    StaleFence,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)

KEY_WORDS = "SUPABASE_SERVICE_KEY is refused ({}): it must be the secret key of the service role"
# Classes of SQLSTATE that say nothing about the statement: connection, resources, operator, object state, rollback.
TRANSIENT_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
# PostgREST: no connection, no pool slot, no schema cache. And 25006, read-only: hosted Supabase while its disk is full,
# a replica until it takes over.
TRANSIENT_CODES = frozenset({"25006", "PGRST000", "PGRST001", "PGRST002", "PGRST003"})
KEY_REFUSED = frozenset({"401", "403"})  # Storage puts the status into the body, under HTTP 400
BUSY_STATUS = frozenset({408, 425, 429, 502, 503, 504, *range(520, 531)})  # gateways; PostgREST without its database
# The embedded Supabase has one code for all that it does not know: Postgres' other errors, and troubles of its own.
EMBEDDED_REFUSALS = ("error: ", "RangeError: ")
CONFLICTS: dict[str, type[StoreError]] = {
    "stale_fence": StaleFence,
    "stale_epoch": StaleEpoch,
    "sequence_gap": SequenceGap,
}


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds. `call` bounds a whole database call, `transfer` a whole upload."""

    connect: float = 3.0
    call: float = 10.0  # a batch of 500 takes 0.15 s here; hosted Supabase ends a statement after 8 s
    transfer: float = 120.0  # 25 MB at 2 Mbit/s; a larger file has more (`Bucket.upload`)


@asynccontextmanager
async def make_client(
    url: str, key: str, *, connect: float, read: float, connections: int
) -> AsyncIterator[AsyncClient]:
    """A supabase-py client on an httpx client of its own.

    Raises:
        SettingsError: if the URL or the key cannot be one.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError("SUPABASE_URL must start with https:// or http://")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError("SUPABASE_SERVICE_KEY holds characters that no key has")
    timeout = httpx.Timeout(read, connect=connect, pool=read)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    hooks = {"response": [judge_status]}
    async with httpx.AsyncClient(http2=False, timeout=timeout, limits=limits, event_hooks=hooks) as http:
        options = AsyncClientOptions(
            httpx_client=http, auto_refresh_token=False, persist_session=False, postgrest_client_retry=False
        )
        yield AsyncClient(url, key, options)


async def judge_status(response: httpx.Response) -> None:
    """What the status alone tells. Gateways answer without a code, and supabase-py's errors do not keep the status."""
    if response.status_code in {401, 403}:
        raise SettingsError(KEY_WORDS.format(response.status_code))
    if response.status_code in BUSY_STATUS:
        raise StoreUnavailable(f"HTTP {response.status_code}")


@contextmanager
def translated(what: str, seconds: float) -> Iterator[None]:
    """Bounds a call to `seconds` and turns what the libraries raise into the worker's errors.

    Raises:
        StoreUnavailable: no answer, or one that a retry may change. It may have been done all the same.
        SettingsError: the key is refused.
        StaleFence, StaleEpoch, SequenceGap: the database holds another state than the caller.
        StoreRefused: no, and it would be no again; `code` "stale_job": another process holds this media job.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise StoreUnavailable(f"{what}: no answer within {seconds:g} s") from error
    except httpx.HTTPError as error:
        raise StoreUnavailable(f"{what}: {type(error).__name__}") from error
    except APIError as error:
        raise refusal(what, error.code or "", error.message or "") from None
    except StorageApiError as error:
        raise refusal(what, str(error.status), "") from None
    except (UnicodeError, ValueError, RecursionError) as error:
        raise StoreRefused(f"{what}: cannot be written as JSON", "client") from error


def refusal(what: str, code: str, message: str) -> StoreError | SettingsError:
    """The error that an answer with this code stands for; `message` is looked at only where the code does not tell."""
    if code == "PT409" and message in CONFLICTS:
        return CONFLICTS[message](what)
    if code == "PT409":
        return StoreRefused(f"{what}: {message}", message)
    if code in KEY_REFUSED:
        return SettingsError(KEY_WORDS.format(code))
    if code == "PGRST202":
        return SettingsError("the database lacks our functions: apply supabase/migrations with `supabase db push`")
    if code == "SUP" and message.startswith(EMBEDDED_REFUSALS):
        return StoreRefused(f"{what}: {code}", code)
    is_status = len(code) == 3 and code.isdigit()
    if is_status and (code in {"408", "425", "429"} or code >= "500"):
        return StoreUnavailable(f"{what}: HTTP {code}")
    if code in TRANSIENT_CODES or (len(code) == 5 and code[:2] in TRANSIENT_CLASSES) or code in {"", "SUP"}:
        return StoreUnavailable(f"{what}: {code or 'an answer without a code'}")
    return StoreRefused(f"{what}: {code}", code)

"""Asking the database again: jittered, bounded or not, and only where the answer may change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, stop_never, wait_random_exponential

from worker.errors import StoreUnavailable

PAUSE_FIRST_SECONDS = 0.1
PAUSE_MAX_SECONDS = 5.0

T = TypeVar("T")


async def until_answered(call: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
    """Call until the database answers, for `patience` seconds or for ever. The call must be safe to repeat.

    Raises:
        StoreUnavailable: the patience is at its end.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_random_exponential(multiplier=PAUSE_FIRST_SECONDS, max=PAUSE_MAX_SECONDS),
        stop=stop_never if patience is None else stop_after_delay(patience),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            return await call()
    raise AssertionError("unreachable")

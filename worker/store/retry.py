"""Retries database calls: until the database answers, or at a fixed interval."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from loguru import logger
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    stop_never,
    wait_random_exponential,
)

from worker.errors import StoreRefused, StoreUnavailable

PAUSE_FIRST_SECONDS = 0.1
PAUSE_MAX_SECONDS = 5.0
SAID_AFTER_SECONDS = 5.0
REFUSALS_BELIEVED = 3  # in a row; a single one may come from a gateway or a database being migrated

T = TypeVar("T")


async def until_answered(
    call: Callable[[], Awaitable[T]],
    patience: float | None = None,
    *,
    what: str | None = None,
) -> T:
    """Repeat a call until the database answers, with growing random pauses. The call must be idempotent.

    Args:
        patience: seconds before giving up; None: never.
        what: names the call in a warning after SAID_AFTER_SECONDS; None: no warning.

    Raises:
        StoreUnavailable: the database did not answer within `patience`.
        StoreRefused: REFUSALS_BELIEVED times in a row.
    """
    refusals, said = 0, what is None

    def say(state: RetryCallState) -> None:
        nonlocal said
        if not said and (state.seconds_since_start or 0.0) >= SAID_AFTER_SECONDS:
            said = True
            logger.warning("{}: no answer yet ({}); waiting for it", what, state.outcome and state.outcome.exception())

    def may_change(error: BaseException) -> bool:
        nonlocal refusals
        refusals = refusals + 1 if isinstance(error, StoreRefused) else 0
        return isinstance(error, StoreUnavailable) or 0 < refusals < REFUSALS_BELIEVED

    retrying = AsyncRetrying(
        retry=retry_if_exception(may_change),
        wait=wait_random_exponential(multiplier=PAUSE_FIRST_SECONDS, max=PAUSE_MAX_SECONDS),
        stop=stop_never if patience is None else stop_after_delay(patience),
        before_sleep=say,
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            return await call()
    raise AssertionError("unreachable")


async def repeat(
    every: float, call: Callable[[], Awaitable[None]], failed: Callable[[StoreUnavailable | StoreRefused], None]
) -> None:
    """Call every `every` seconds until cancelled. An error goes to `failed` and does not stop the loop."""
    while True:
        try:
            await call()
        except (StoreUnavailable, StoreRefused) as error:
            failed(error)
        await anyio.sleep(every)

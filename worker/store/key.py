"""Judges whether Supabase accepts our key.

Even a good key gets a stray 401 or 403 now and then (docs/supabase.md, "Hosted Supabase"). The key counts as refused
only after minutes in which every call was refused, even the cheapest. From then on only the cheapest call is sent,
once a minute; all others fail without being sent.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from worker.errors import KeyRefused, StoreError, StoreUnavailable

REFUSED_AFTER_SECONDS = 180.0  # outlasts a wrong clock, a gateway incident or a schema reload
LOOK_SECONDS = 5.0  # between two of the cheapest call, while all calls are refused
ASK_AGAIN_SECONDS = 60.0

Tell = Callable[[str | None], None]


class KeyWatch:
    """Judges the key by the answers to all calls."""

    def __init__(
        self,
        *,
        refused_after: float = REFUSED_AFTER_SECONDS,
        look: float = LOOK_SECONDS,
        ask_again: float = ASK_AGAIN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refused_after = refused_after
        self._look = look
        self._ask_again = ask_again
        self._clock = clock
        self._since: float | None = None
        self._words = ""
        self.refused: KeyRefused | None = None  # set while the key counts as refused

    def note(self, error: StoreError | None) -> None:
        """Note how a call ended; None: it succeeded. A call without an answer says nothing about the key."""
        if isinstance(error, KeyRefused):
            self._since = self._clock() if self._since is None else self._since
            self._words = error.remedy or str(error)
        elif not isinstance(error, StoreUnavailable):
            self._since = self.refused = None

    async def run(self, ask: Callable[[], Awaitable[object]], tell: Tell) -> None:
        """Judge until cancelled. `ask` makes the cheapest call; `tell` gets the refusal, and None when it is over."""
        while True:
            await anyio.sleep(self._look)
            if self._since is None or not await self._is_refused_now(ask):
                continue
            if self._clock() - self._since < self._refused_after:
                continue
            self.refused = KeyRefused(self._words, self._words)
            tell(self._words)
            while self.refused is not None:
                await anyio.sleep(self._ask_again)
                with suppress(StoreError):
                    await ask()
            tell(None)

    async def _is_refused_now(self, ask: Callable[[], Awaitable[object]]) -> bool:
        try:
            await ask()
        except KeyRefused:
            return self._since is not None
        except StoreError:
            return False
        return False

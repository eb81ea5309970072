"""A request to stop the process, or one session of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import anyio


class Stop:
    """A stop request and the blocks that it cancels. Stopping the `whole` stops its parts too."""

    def __init__(self, whole: Stop | None = None) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._parts: WeakSet[Stop] = WeakSet()
        self._event = anyio.Event()
        if whole is not None:
            whole._parts.add(self)
            if whole.asked:
                self._event.set()

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def ask(self) -> None:
        self._event.set()
        for scope in self._scopes:
            scope.cancel()
        for part in list(self._parts):
            part.ask()

    async def wait(self) -> None:
        """Return once the stop is requested."""
        await self._event.wait()

    def release(self, scope: anyio.CancelScope) -> None:
        """Let `scope` run on: a stop no longer cancels it."""
        self._scopes.discard(scope)

    @contextmanager
    def interrupts(self) -> Iterator[anyio.CancelScope]:
        """A block that a stop cancels. Shut down gracefully after it."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self.asked:
                    scope.cancel()
                yield scope
            finally:
                self._scopes.discard(scope)

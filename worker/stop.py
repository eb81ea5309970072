"""The request to stop: of the process, or of one session in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import anyio


class Stop:
    """The request to stop, and the blocks that it cancels. A stop of the `whole` stops its parts as well."""

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
        """Return when the stop is asked for."""
        await self._event.wait()

    def release(self, scope: anyio.CancelScope) -> None:
        """A stop no longer cancels `scope`."""
        self._scopes.discard(scope)

    @contextmanager
    def interrupts(self) -> Iterator[anyio.CancelScope]:
        """A block that a stop cancels; shut down gracefully after it."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self.asked:
                    scope.cancel()
                yield scope
            finally:
                self._scopes.discard(scope)

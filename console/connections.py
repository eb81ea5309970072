"""The console's HTTP connections: how many there may be, and which makes room for a new one."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS_MAX = 256  # each open page keeps one for its live stream


class Connection(H11Protocol):
    """One of them. If there are too many, the oldest that has not sent a whole request is closed.

    So connections that strangers open and leave silent, or half a request that they send, keep nobody out.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) > CONNECTIONS_MAX:
            others = [each for each in self.connections if isinstance(each, Connection) and each is not self]
            if waiting := [each for each in others if each.is_waiting]:
                min(waiting, key=lambda each: each.since).drop()

    @property
    def is_waiting(self) -> bool:
        """Whether the browser has not sent the whole of a further request."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def drop(self) -> None:
        """Close it at once."""
        self.connections.discard(self)  # now: `connection_lost` comes later, and others may come before it
        self.transport.abort()

"""The events of a session, and the queue that delivers them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
from loguru import logger

from worker.bridge.protocol import Notification
from worker.session.flags import Request

EVENTS_MAX = 2048


@dataclass(frozen=True, kw_only=True)
class DatabaseGone:
    """The database has not answered for too long. `reason`: why the last call failed."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class StallFound:
    """The watchdog found the connection stalled."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class DeafFound:
    """The connection has been silent for unusually long."""

    reason: str


SessionEvent = Notification | Request | DatabaseGone | StallFound | DeafFound


class EventQueue:
    """Events in order of arrival. `put` never blocks; a full queue drops the event and logs an error."""

    def __init__(self) -> None:
        self._put, self._take = anyio.create_memory_object_stream[SessionEvent](EVENTS_MAX)

    def put(self, event: SessionEvent) -> None:
        try:
            self._put.send_nowait(event)
        except anyio.WouldBlock:
            logger.error("the session's event queue is full; an event was dropped")

    async def take(self) -> SessionEvent:
        return await self._take.receive()

    @contextmanager
    def put_back_on_failure(self, request: Request) -> Iterator[None]:
        """A block that carries out a request. If the sidecar ends meanwhile, the next one gets the request."""
        try:
            yield
        except BaseException:  # the sidecar's end may also come as a cancellation
            self.put(request)
            raise

    def discard_notifications(self) -> None:
        """Drop the last notifications of an ended socket; keep the requests."""
        requests: list[Request] = []
        while True:
            try:
                event = self._take.receive_nowait()
            except anyio.WouldBlock:
                break
            if isinstance(event, Request):
                requests.append(event)
        for request in requests:
            self.put(request)

    def close(self) -> None:
        self._put.close()
        self._take.close()

"""What can happen to a session, and the one place where it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
from loguru import logger

from worker.bridge.protocol import Notification
from worker.session.flags import Request

INBOX_MAX = 2048


@dataclass(frozen=True, kw_only=True)
class DatabaseGone:
    """The database has not answered for longer than its patience."""


@dataclass(frozen=True, kw_only=True)
class StallFound:
    """A watchdog has judged."""

    reason: str


Item = Notification | Request | DatabaseGone | StallFound


class Inbox:
    """Where everything arrives. Never blocks a sender; a full one drops what the sidecar merely notified."""

    def __init__(self) -> None:
        self._put, self._take = anyio.create_memory_object_stream[Item](INBOX_MAX)

    def put(self, item: Item) -> None:
        try:
            self._put.send_nowait(item)
        except anyio.WouldBlock:
            logger.error("the session cannot keep up with what happens to it")

    async def take(self) -> Item:
        return await self._take.receive()

    @contextmanager
    def kept(self, request: Request) -> Iterator[None]:
        """While it is being obeyed: one that the sidecar's end interrupts is there for the next sidecar."""
        try:
            yield
        except BaseException:  # a cancellation too: the sidecar's end may come that way
            self.put(request)
            raise

    def discard_notifications(self) -> None:
        """Drop what an ended socket still had to say; keep the requests."""
        kept: list[Request] = []
        while True:
            try:
                item = self._take.receive_nowait()
            except anyio.WouldBlock:
                break
            if isinstance(item, Request):
                kept.append(item)
        for request in kept:
            self.put(request)

    def close(self) -> None:
        self._put.close()
        self._take.close()

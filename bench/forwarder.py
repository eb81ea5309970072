"""Stands between a program and its database: counts requests and bytes, and can put a distance between them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

REQUEST = re.compile(rb"(?:GET|POST|PUT|PATCH|HEAD|DELETE) (/\S+) HTTP/1\.1\r\n")
READ_BYTES = 65_536
CHUNKS_ON_THE_WAY = 256  # of one direction of one connection


class Forwarder:
    """Passes bytes on. `away_seconds`: a round trip to the database takes so much longer."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._server: asyncio.Server | None = None
        self.away_seconds = 0.0
        self.requests: Counter[str] = Counter()
        self.sent = self.received = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    def reset(self) -> None:
        self.requests.clear()
        self.sent = self.received = 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
            await asyncio.gather(self._pass(reader, back, out=True), self._pass(there, writer, out=False))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, out: bool) -> None:
        """Every chunk leaves half a round trip after it came; chunks travel at the same time, as on a real line."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_ON_THE_WAY)
        arrivals = asyncio.create_task(self._arrivals(line, sink))
        clock = asyncio.get_running_loop().time
        try:
            while data := await source.read(READ_BYTES):
                if out:
                    self.sent += len(data)
                    self.requests.update(path.decode().rsplit("/", 1)[-1] for path in REQUEST.findall(data))
                else:
                    self.received += len(data)
                await line.put((clock() + self.away_seconds / 2, data))
        except OSError:
            pass  # a side was killed
        await line.put((0.0, b""))
        await arrivals

    async def _arrivals(self, line: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        lost = False
        while (item := await line.get())[1]:
            due, data = item
            if (wait := due - clock()) > 0:
                await asyncio.sleep(wait)
            try:
                if not lost:
                    sink.write(data)
                    await sink.drain()
            except OSError:
                lost = True  # the other end reads on until it ends
        sink.close()

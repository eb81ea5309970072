"""A small HTTP proxy on loopback: it answers only CONNECT, and tunnels every name to one test server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ConnectProxy:
    """`asked`: the targets of all CONNECT requests. Without `port`, each is refused with `refusal`."""

    def __init__(self, port: int | None, refusal: str) -> None:
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.url = ""
        self._port = port
        self._refusal = refusal

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            self.asked.append(target if method == "CONNECT" else head.partition("\r\n")[0])
            self.heads.append(head)
            if self._port is None or method != "CONNECT":
                writer.write(f"HTTP/1.1 {self._refusal}\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def connect_proxy(port: int | None = None, refusal: str = "502 Bad Gateway") -> AsyncIterator[ConnectProxy]:
    """A running proxy that tunnels to `port` on loopback, or refuses."""
    proxy = ConnectProxy(port, refusal)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()

"""What a worker asks of Supabase while nothing happens: `python -m bench.at_rest [SECONDS] [WORKER_POLL_MS]`.

A worker with a linked account runs against the embedded Supabase through a forwarder that counts requests and bytes,
with headers, both ways. TLS, which adds some 60 bytes a request, is not in it.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from testkit.embedded import EmbeddedSupabase
from tests.integration.test_supervisor import OPENS, running
from worker.store import connect_store

SETTLE_SECONDS = 45.0  # housekeeping begins half a minute after the start
MONTH_SECONDS = 30 * 86_400.0
REQUEST = re.compile(rb"(?:GET|POST|PUT|HEAD|DELETE) (/\S+) HTTP/1\.1\r\n")


class Forwarder:
    """Passes bytes on, and counts them."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self.requests: Counter[str] = Counter()
        self.sent = self.received = 0

    def reset(self) -> None:
        self.requests.clear()
        self.sent = self.received = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        await asyncio.gather(self._pass(reader, back, out=True), self._pass(there, writer, out=False))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, out: bool) -> None:
        try:
            while data := await source.read(65_536):
                if out:
                    self.sent += len(data)
                    self.requests.update(path.decode().rsplit("/", 1)[-1] for path in REQUEST.findall(data))
                else:
                    self.received += len(data)
                sink.write(data)
        finally:
            sink.close()


async def main(seconds: float, poll_ms: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with await EmbeddedSupabase.start(folder / "supabase") as supabase:
            counted = Forwarder(supabase.endpoint.url)
            server = await asyncio.start_server(counted.accept, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with connect_store(supabase.endpoint.url, supabase.endpoint.key) as store:
                settings = {"SUPABASE_URL": url, "WORKER_POLL_MS": poll_ms}
                async with running(folder / "worker", supabase.endpoint, store, OPENS, settings) as worker:
                    await worker.state("connected")
                    await asyncio.sleep(SETTLE_SECONDS)
                    counted.reset()
                    await asyncio.sleep(seconds)
                    report(counted, seconds)


def report(counted: Forwarder, seconds: float) -> None:
    total, a_month = counted.requests.total(), MONTH_SECONDS / seconds
    print(f"{total * 60 / seconds:.1f} requests a minute: {dict(counted.requests)} in {seconds:.0f} s")
    print(f"sent {counted.sent / total:.0f} bytes a request, received {counted.received / total:.0f}")
    sent, received = counted.sent * a_month / 1e6, counted.received * a_month / 1e6
    print(f"a month: {total * a_month / 1e6:.2f} million requests, {sent:.0f} MB sent, {received:.0f} MB received")


if __name__ == "__main__":
    seconds, poll_ms, *_ = [*sys.argv[1:], *("300", "2000")[len(sys.argv) - 1 :]]
    asyncio.run(main(float(seconds), poll_ms))

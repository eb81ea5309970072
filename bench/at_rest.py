"""What a worker asks of Supabase while nothing happens: `python -m bench.at_rest [SECONDS] [WORKER_POLL_MS]`.

A worker with a linked account runs against the embedded Supabase through a forwarder that counts requests and bytes,
with headers, both ways. TLS, which adds some 60 bytes a request, is not in it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from bench.forwarder import Forwarder
from testkit.embedded import EmbeddedSupabase
from tests.integration.test_supervisor import OPENS, running
from worker.store import connect_store

SETTLE_SECONDS = 45.0  # housekeeping begins half a minute after the start
MONTH_SECONDS = 30 * 86_400.0


async def main(seconds: float, poll_ms: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            await EmbeddedSupabase.start(folder / "supabase") as supabase,
            Forwarder(supabase.endpoint.url) as counted,
            connect_store(supabase.endpoint.url, supabase.endpoint.key) as store,
            running(
                folder / "worker", supabase.endpoint, store, OPENS,
                {"SUPABASE_URL": counted.url, "WORKER_POLL_MS": poll_ms},
            ) as worker,
        ):  # fmt: skip
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

"""A live message that had to wait here and comes again after a reconnect is not too old: its first arrival counts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from testkit.inside import inside
from worker.store.embedded import Endpoint

pytestmark = pytest.mark.anyio

LIVE_SECONDS = 5


@pytest.mark.parametrize("end", ["the connection", "the sidecar"])
async def test_a_message_that_waited_behind_the_backlog_survives_the_end_of(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr("worker.session.discovery.SPACING_SECONDS", 0.05)
    live_only = {"worker_catch_up_s": 0, "worker_live_window_s": LIVE_SECONDS}
    async with inside(tmp_path, embedded, session, settings=live_only) as it:
        await it.link()
        last = await it.database.last_event()
        # The backlog's end is never told: live messages wait for a minute.
        await it.phone.fault("preview_more", extra=1)
        await it.phone.fault("no_offline_end")
        await it.phone.fault("close")
        await it.told("connect", last)
        await it.phone.wait_for("connected")
        sent = await it.phone.send("Ana", it.market.id, "came live, and waits here")
        assert not sent.queued

        async def too_old_by_now() -> bool:
            return time.time() > sent.t + LIVE_SECONDS + 2

        await it.until("it to be older than the live window", too_old_by_now)
        assert sent.id not in [row["wa_msg_id"] for row in await it.database.messages()]
        if end == "the sidecar":
            assert it.sidecar_pid is not None
            os.kill(it.sidecar_pid, signal.SIGKILL)
        else:
            await it.phone.fault("close")

        assert (await it.row(sent))["text"] == "came live, and waits here"

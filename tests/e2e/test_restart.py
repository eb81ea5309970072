"""A worker is replaceable: everything that it knows is in Supabase."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.processes import alive
from testkit.worker import Worker
from tests.e2e.town import found_town

pytestmark = pytest.mark.anyio

LEASE_SECONDS = 3  # how long a killed worker's lease stands in the next one's way


async def test_a_killed_worker_goes_on_without_a_qr_in_an_empty_working_directory(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    settings = {"WORKER_LEASE_S": str(LEASE_SECONDS), "WORKER_CATCH_UP_S": "3600"}
    async with found_town(tmp_path, supabase, session="restart", settings=settings) as town:
        before = await town.stored("Ana", town.market, "before the kill")
        last = await town.database.last_event()
        state = await town.phone.state()

        town.worker.child.kill()
        await town.phone.wait_for("disconnected")
        while_away = await town.phone.send("Ana", town.market.id, "while nobody was there")
        assert while_away.queued
        chosen = {**supabase.worker_env, "WORKER_SESSION": "restart", **settings}
        empty = tmp_path / "elsewhere"
        async with Worker.start(empty, phone=town.phone, settings=chosen, name="second") as second:
            await town.phone.wait_for("logins", count=state["logins"] + 1)
            row = await town.database.wait_message(while_away.id, tell=second.child.tail)
            after = await town.phone.send("Ana", town.market.id, "after the kill")
            await town.database.wait_message(after.id, tell=second.child.tail)

        assert row["text"] == "while nobody was there"
        assert row["sender"] == before["sender"]
        events = [event["event"] for event in await town.database.events() if event["id"] > last]
        assert "qr_generated" not in events
        assert [item["kind"] for item in await town.phone.log()].count("registration") == 1


async def test_a_worker_that_is_told_to_stop_ends_with_code_0_and_leaves_no_process(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with found_town(tmp_path, supabase, session="stopped") as town:
        below = town.worker.processes()
        assert below, "the sidecar at least"

        code = await town.worker.child.stop()

        assert code == 0
        assert [pid for pid in below if alive(pid)] == []
        assert await town.database.status() == "disconnected"

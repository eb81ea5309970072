"""The sidecar that starts before the lease is held: it is the one that connects, and does nothing until then."""

from __future__ import annotations

import json
from pathlib import Path

import anyio

from testkit.processes import descendants
from tests.integration.test_supervisor import forward, free_port, running
from worker.settings import Settings
from worker.sidecar import sidecar_ahead
from worker.store import Store
from worker.store.embedded import Endpoint


def noting(told: Path) -> str:
    """A sidecar that connects, and writes down its start and every call."""
    return f"""
import {{ appendFileSync }} from 'node:fs'
const note = (what) => appendFileSync({json.dumps(str(told))}, what + '\\n')
note('started')
for (const method of Object.keys(answers)) on[method] = () => note(method)
const noted = on.connect
on.connect = () => {{ noted(); open() }}
"""


async def test_the_sidecar_starts_beside_the_calls_to_supabase_and_is_told_nothing_before_they_are_answered(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    port, told = free_port(), tmp_path / "told"
    settings = {"SUPABASE_URL": f"http://127.0.0.1:{port}", "WORKER_BOOT_WAIT_S": "60"}
    async with running(tmp_path / "one", embedded, store, noting(told), settings) as worker:
        await worker.until("it to wait for Supabase", lambda: "; waiting for it" in worker.log.read_text())
        await worker.until("a sidecar", told.exists)
        assert told.read_text() == "started\n"
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(forward, port, int(embedded.url.rsplit(":", 1)[1]))
            await worker.state("connected")
            assert told.read_text().count("started") == 1, "it is the one that connects"
            task_group.cancel_scope.cancel()


async def test_a_worker_that_waits_for_the_lease_ends_the_sidecar_that_it_started(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    settings, told = {"WORKER_SESSION": "standby", "WORKER_LEASE_S": "300"}, tmp_path / "told"
    async with running(tmp_path / "one", embedded, store, "on.connect = open", settings) as first:
        await first.state("connected")
        async with running(tmp_path / "two", embedded, store, noting(told), settings) as second:
            await second.until("it to wait", lambda: "serves this session; waiting" in second.log.read_text())
            await second.until("no sidecar", lambda: not descendants(second.process.pid))
            assert not told.exists() or told.read_text() == "started\n"
            first.process.terminate()
            assert await first.ends() == 0
            await second.state("connected")
            assert told.read_text().count("connect\n") == 1


async def test_it_has_ended_when_it_was_used_and_when_nobody_took_it() -> None:
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    async with sidecar_ahead(settings) as ahead:
        assert ahead.ready
        async with ahead.taken() as used:
            assert used.returncode is None
        assert used.returncode == 0
    assert not ahead.ready
    async with sidecar_ahead(settings) as unused:
        assert unused._sidecar
        process = unused._sidecar
    assert process.returncode == 0


async def test_one_that_cannot_be_started_is_no_error() -> None:
    settings = Settings(_env_file=None, worker_node="/nonexistent")  # type: ignore[call-arg, arg-type]
    async with sidecar_ahead(settings) as ahead:
        assert not ahead.ready

"""A host's process: what it leaves behind on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from tests.unit.doubles import BOUND
from worker import host as module
from worker.host import Host
from worker.settings import Settings
from worker.store import HostPollAnswer


async def test_a_host_removes_the_holder_files_of_hosts_that_were_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holder-0123abcd.lock").write_text("{}")
    chosen = {"worker_http_host": "127.0.0.1", "worker_http_port": 0, "worker_data_dir": tmp_path}
    host = Host(Settings(_env_file=None, **chosen), capacity=1)  # type: ignore[arg-type, call-arg]

    async def nothing(*given: object) -> None:
        pass

    async def stops(*given: object) -> HostPollAnswer:
        host.stop()
        return HostPollAnswer(updates={})

    @asynccontextmanager
    async def supabase(*given: object) -> AsyncIterator[tuple[str, str, str]]:
        yield "http://127.0.0.1:1", "", "nowhere"

    @asynccontextmanager
    async def store(*given: object, sessions: int) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(
            check=nothing,
            schema_version=nothing,
            host_poll=stops,
            host_leave=nothing,
            bucket=SimpleNamespace(ensure=nothing),
            key=SimpleNamespace(run=nothing),
        )

    monkeypatch.setattr(module, "open_supabase", supabase)
    monkeypatch.setattr(module, "connect_store", store)
    with anyio.fail_after(BOUND):
        await host.run()
    assert [path async for path in anyio.Path(tmp_path).iterdir()] == []

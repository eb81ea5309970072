"""A worker that cannot work says why in one line and ends with a code that is not 0."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.processes import free_port
from testkit.worker import Worker

pytestmark = pytest.mark.anyio

END_SECONDS = 30.0


async def refusal(folder: Path, settings: dict[str, str]) -> tuple[int, list[str]]:
    """Exit code and log of a worker with these settings."""
    worker = Worker.start(folder, settings=settings)
    try:
        code = await worker.child.wait(END_SECONDS)
    finally:
        worker.child.kill()
    return code, [line for line in worker.child.text().splitlines() if line.strip()]


def complaint(lines: list[str]) -> str:
    """The one line in which the reason is told: the last; nothing before it is an error or a traceback."""
    assert lines, "it ended without a word"
    assert not [line for line in lines if "Traceback" in line]
    assert not [line for line in lines[:-1] if '"level": "error"' in line or '"level":"error"' in line], lines
    return lines[-1]


async def test_a_wrong_service_key_is_named(tmp_path: Path, supabase: EmbeddedSupabase) -> None:
    settings = {"SUPABASE_URL": supabase.url, "SUPABASE_SERVICE_KEY": "sb_secret_this_is_not_the_key_at_all"}
    code, lines = await refusal(tmp_path, settings)
    assert code != 0
    assert "SUPABASE_SERVICE_KEY" in complaint(lines)
    assert "this_is_not_the_key" not in "\n".join(lines)


async def test_an_unreachable_supabase_is_named(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    settings = {"SUPABASE_URL": url, "SUPABASE_SERVICE_KEY": "sb_secret_whatever", "WORKER_BOOT_WAIT_S": "1"}
    code, lines = await refusal(tmp_path, settings)
    assert code == 4, "systemd tries this one again, a wrong setting not"
    assert "SUPABASE_URL" in complaint(lines)
    assert url in complaint(lines)


async def test_a_taken_port_is_named(tmp_path: Path, supabase: EmbeddedSupabase) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, lines = await refusal(
            tmp_path, {**supabase.worker_env, "WORKER_HTTP_PORT": port, "WORKER_SESSION": "port"}
        )
    assert code != 0
    assert "WORKER_HTTP_PORT" in complaint(lines)
    assert port in complaint(lines)


async def test_a_missing_node_is_named(tmp_path: Path, supabase: EmbeddedSupabase) -> None:
    code, lines = await refusal(tmp_path, {**supabase.worker_env, "WORKER_NODE": "/nonexistent"})
    assert code == 2
    assert "WORKER_NODE" in complaint(lines)


async def test_an_older_node_is_named_with_its_version(tmp_path: Path, supabase: EmbeddedSupabase) -> None:
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v20.11.1\n")
    old.chmod(0o755)
    code, lines = await refusal(tmp_path, {**supabase.worker_env, "WORKER_NODE": str(old)})
    assert code == 2
    assert "WORKER_NODE" in complaint(lines)
    assert "v20.11.1" in complaint(lines)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("WORKER_HTTP_PORT", "http", id="no number"),
        pytest.param("LOG_LEVEL", "loud", id="no such level"),
        pytest.param("SUPABASE_SERVICE_KEY", "sb_secret_alone", id="a key without its address"),
        pytest.param("SUPABASE_URL", "http://127.0.0.1:1", id="an address without its key"),
    ],
)
async def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path, name: str, value: str) -> None:
    code, lines = await refusal(tmp_path, {name: value})
    assert code == 2
    assert len(lines) == 1
    assert name in lines[0]

"""`wa-worker demo`: it ends well, and Ctrl-C leaves nothing behind (what it notices: unit/test_demo_check.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.processes import PYTHON, Child, alive, descendants
from testkit.waiting import until
from testkit.worker import environment

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

DEMO_SECONDS = 120.0


def demo(folder: Path) -> Child:
    command: list[str | Path] = [PYTHON, "-m", "worker", "demo", "--folder", str(folder / "run")]
    return Child.start("demo", command, log=folder / "demo.log", env=environment({}))


async def test_the_demo_ends_with_code_0(tmp_path: Path) -> None:
    running = demo(tmp_path)
    try:
        code = await running.wait(DEMO_SECONDS)
    finally:
        running.kill()

    assert code == 0, running.tail()
    assert "DIFFERS" not in running.text()
    assert "All as the scenario promises" in running.text()


async def test_ctrl_c_ends_the_demo_and_leaves_no_process_behind(tmp_path: Path) -> None:
    running = demo(tmp_path)
    try:

        async def linking() -> bool:
            return "wa_sessions.status = connecting" in running.text()

        await until("the QR on the screen", linking, seconds=60, tell=running.tail)
        below = descendants(running.pid)
        assert len(below) >= 4, "phone, worker, sidecar, Supabase"

        running.interrupt()

        assert await running.wait(30) == 130, running.tail()
        assert [pid for pid in below if alive(pid)] == []
    finally:
        running.kill()

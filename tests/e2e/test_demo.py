"""`python -m demo` itself: it ends well, it notices a difference, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from demo.scenario import SEEDS
from tests.support.processes import PYTHON, Child, alive, descendants
from tests.support.waiting import until
from tests.support.worker import environment

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

DEMO_SECONDS = 120.0


def demo(folder: Path, *options: str) -> Child:
    command: list[str | Path] = [PYTHON, "-m", "demo", "--folder", str(folder / "run"), *options]
    return Child.start("demo", command, log=folder / "demo.log", env=environment({}))


async def test_the_demo_ends_with_code_0_and_a_difference_is_named_with_code_1(tmp_path: Path) -> None:
    """Both in one run each, side by side, because each needs a Supabase of its own."""
    seeds = tmp_path / "seeds"
    shutil.copytree(SEEDS, seeds)
    scenario = json.loads((seeds / "scenario.json").read_text())
    scenario["expected"]["messages"][0]["text"] = "something that nobody wrote"
    (seeds / "scenario.json").write_text(json.dumps(scenario))
    good, wrong = demo(tmp_path / "good"), demo(tmp_path / "wrong", "--seeds", str(seeds))
    try:
        good_code, wrong_code = await good.wait(DEMO_SECONDS), await wrong.wait(DEMO_SECONDS)
    finally:
        good.kill()
        wrong.kill()

    assert good_code == 0, good.tail()
    assert "DIFFERS" not in good.text()
    assert wrong_code == 1, wrong.tail()
    assert "DIFFERS  message greeting: text is" in wrong.text()


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

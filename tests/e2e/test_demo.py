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


async def test_what_is_typed_at_the_prompt_is_stored_also_after_the_worker_was_killed(tmp_path: Path) -> None:
    playing = Child.start(
        "play",
        [PYTHON, "-m", "worker", "demo", "--play", "--folder", str(tmp_path / "run")],
        log=tmp_path / "play.log",
        env=environment({}),
        hold_stdin=True,
    )

    async def types(line: str, answer: str) -> None:
        before = playing.text().count(answer)
        assert playing.process.stdin
        playing.process.stdin.write(f"{line}\n".encode())
        playing.process.stdin.flush()

        async def answered() -> bool:
            return playing.text().count(answer) > before

        await until(f"{answer!r} after {line!r}", answered, seconds=90, tell=playing.tail)

    try:

        async def greeted() -> bool:
            return "/kill" in playing.text()

        await until("the prompt", greeted, seconds=DEMO_SECONDS, tell=playing.tail)
        assert "Web console (this link works once): http://127.0.0.1:" in playing.text()
        await types("two crates", "then acknowledged: text two crates")
        await types("/picture the road", "then acknowledged: image the road")
        await types("/to family", "Ana speaks in Family.")
        await types("not for you", "without a row of its own")
        await types("/kill", "The worker is dead.")
        await types("/to market", "Ana speaks in Saturday market.")
        await types("three crates", "no worker runs: it waits")
        await types("/start", "then acknowledged: text three crates")
        below = descendants(playing.pid)
        await types("/quit", "logs and data are kept")
        assert await playing.wait(60) == 0, playing.tail()
        assert [pid for pid in below if alive(pid)] == []
    finally:
        playing.kill()

"""The benchmark's own order: it leaves no process behind, and what fails takes no other figure along."""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import bench.__main__ as benchmark
from bench import sides
from bench.sides import Program, Side
from testkit.waiting import until


class Phone:
    """A virtual phone that nobody ever connects to."""

    socket_url = root_key = "none"

    async def realism(self, **_: Any) -> None: ...

    async def post(self, *_: Any) -> None: ...

    async def wait_for(self, state: str, **_: Any) -> None:
        raise AssertionError(f"never {state}")


class Lasting(Program):
    """A program that only a signal ends."""

    name = "lasting"
    command = ("-e", "setInterval(() => {}, 1000)")
    linking: subprocess.Popen[bytes] | None = None  # of the last one that tried to link

    async def make_groups(self) -> None: ...

    async def link(self) -> None:
        Lasting.linking = self.child
        await asyncio.Event().wait()


class Refused(Lasting):
    async def link(self) -> None:
        Lasting.linking = self.child
        raise AssertionError("no QR")


async def one_side(_: AsyncExitStack, kind: type[Side], folder: Path) -> Side:
    phone: Any = Phone()
    return kind(folder, phone, None, [])


@pytest.fixture(autouse=True)
def without_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "_side", one_side)
    monkeypatch.setattr(Lasting, "linking", None)


async def test_a_side_that_cannot_be_linked_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no QR"):
        async with sides.all_sides(tmp_path, [Refused]):
            pytest.fail("it was not linked")
    assert Lasting.linking is not None
    assert Lasting.linking.poll() is not None


async def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    async def run() -> None:
        async with sides.all_sides(tmp_path, [Lasting]):
            pytest.fail("it was not linked")

    async def linking() -> bool:
        return Lasting.linking is not None

    running = asyncio.create_task(run())
    await until("the side that is being linked", linking, seconds=30)
    running.cancel()  # what asyncio.run does on Ctrl-C
    with pytest.raises(asyncio.CancelledError):
        await running
    assert Lasting.linking is not None
    assert Lasting.linking.poll() is not None


async def test_a_side_that_does_not_connect_is_noted_and_killed_and_the_next_one_begins(tmp_path: Path) -> None:
    stack = AsyncExitStack()
    both = [await one_side(stack, Lasting, tmp_path) for _ in range(2)]
    plan = benchmark.Plan(
        messages=1, windowed=1, rounds=1, distances_ms=(0,), latency_seconds=1, kill_messages=1, restarts=1,
        sizes=(), ends=time.monotonic() + 60,
    )  # fmt: skip
    results: list[benchmark.Result] = []
    await benchmark.live(plan, both, results)
    assert [one["failed"] for one in results] == ["AssertionError: never connected"] * 2
    for side in both:
        assert isinstance(side, Program)
        assert side.child.poll() is not None


def test_a_run_that_is_interrupted_keeps_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = {"side": "lasting", "what": "live", "load": 0.0, "failed": "it was slow"}
    written: list[tuple[Any, ...]] = []

    async def run(_plan: Any, _folder: Path, results: list[benchmark.Result]) -> None:
        results.append(figure)
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", run)
    monkeypatch.setattr(benchmark, "write", lambda *what: written.append(what))
    monkeypatch.setattr("sys.argv", ["bench", "--quick"])
    with pytest.raises(KeyboardInterrupt):
        benchmark.main()
    ((_, about, results, _),) = written
    assert results == [figure]
    assert about["whole"] is False

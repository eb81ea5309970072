"""Thousands of messages wait at the login: all of them stored once, in few commits, within bounded memory.

`BACKLOG_MESSAGES=10000 pytest tests/e2e/test_backlog.py -s` for the figures with a long backlog.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.phone import PhoneError
from testkit.processes import resident_bytes
from testkit.waiting import until
from testkit.worker import Worker
from tests.e2e.town import Town, found_town

COUNT = int(os.environ.get("BACKLOG_MESSAGES", "2000"))

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120 + COUNT // 20)]

SECONDS = 60.0 + COUNT / 25  # 25 messages/s would be a failure; seen on two busy cores: hundreds
PART = 500  # messages asked of the virtual phone in one call
MIB = 1024 * 1024
LOG_BYTES = 24 * MIB  # the sidecar's bound of its log is 16 MiB; one open section may be above it
MOST_BYTES = (
    400 * MIB
)  # of either process at any moment, however long the backlog; most of it is Node's and Baileys' own
MESSAGES_PER_COMMIT = 10  # at least, on average
SAMPLE_SECONDS = 0.2


async def wait_for_an_empty_queue(town: Town, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            await town.phone.wait_for("queue_empty", seconds=30)
            return
        except PhoneError:
            assert time.monotonic() < deadline, f"the offline queue is not empty after {seconds:.0f} s"


def sidecar_of(worker: Worker) -> int | None:
    """Its process id, once it runs."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in worker.processes()}
    return next((pid for pid, command in commands.items() if b"sidecar-baileys" in command), None)


async def test_a_long_backlog_is_taken_in_once_in_few_commits_and_bounded_memory(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    settings = {"WORKER_CATCH_UP_S": "86400", "LOG_LEVEL": "trace"}
    async with found_town(tmp_path, supabase, session="backlog", settings=settings) as town:
        await town.stored("Ana", town.market, "before")
        await town.worker.child.stop()
        await town.phone.wait_for("disconnected")
        texts: list[str] = []
        for start in range(0, COUNT, PART):
            some = min(PART, COUNT - start)
            burst = await town.phone.burst(
                ["Ana", "Ben", "Chika", "Dora"], [town.market.id, town.crew.id], some, text_prefix=f"b{start}"
            )
            texts += [item["text"] for item in burst["items"]]
        assert len(await town.phone.offline()) >= COUNT

        chosen = {**supabase.worker_env, "WORKER_SESSION": "backlog", **settings}
        began = time.monotonic()
        async with Worker.start(tmp_path / "second", phone=town.phone, settings=chosen, name="second") as second:
            await second.ready()

            async def begun() -> int | None:
                return sidecar_of(second)

            sidecar = await until("a sidecar", begun, seconds=30, tell=second.child.tail)
            first = {"worker": resident_bytes(second.child.pid), "sidecar": resident_bytes(sidecar)}
            most = dict(first)
            async with anyio.create_task_group() as tasks:

                async def sample() -> None:
                    while True:
                        most["worker"] = max(most["worker"], resident_bytes(second.child.pid))
                        most["sidecar"] = max(most["sidecar"], resident_bytes(sidecar))
                        await anyio.sleep(SAMPLE_SECONDS)

                tasks.start_soon(sample)
                await wait_for_an_empty_queue(town, SECONDS)
                took = time.monotonic() - began
                commits = int((await town.database.session_row() or {})["seq"])
                live = await town.phone.send("Ana", town.market.id, "and live again")
                await town.database.wait_message(live.id, tell=second.child.tail)
                log_bytes = await until("the sidecar's figures", lambda: figures(second), seconds=30)
                tasks.cancel_scope.cancel()

            stored = Counter(row["text"] for row in await town.database.messages())
            assert stored == Counter([*texts, "before", "and live again"])
            print(
                f"\n{COUNT} messages from the offline queue in {took:.1f} s ({COUNT / took:.0f}/s, start included): "
                f"{commits} commits, log at most {log_bytes / MIB:.2f} MiB, "
                + ", ".join(f"{name} {first[name] / MIB:.0f} → {most[name] / MIB:.0f} MiB" for name in most)
            )
            assert commits * MESSAGES_PER_COMMIT <= COUNT
            assert log_bytes <= LOG_BYTES
            assert max(most.values()) <= MOST_BYTES


async def test_a_backlog_in_windows_is_asked_for_until_its_end_and_live_messages_follow(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    settings = {"WORKER_CATCH_UP_S": "86400"}
    async with found_town(tmp_path, supabase, session="windows", settings=settings) as town:
        await town.stored("Ana", town.market, "before")
        await town.worker.child.stop()
        await town.phone.wait_for("disconnected")
        await town.phone.realism(windows=True, window=20)
        burst = await town.phone.burst(["Ana", "Ben"], [town.market.id], 250, text_prefix="w")
        chosen = {**supabase.worker_env, "WORKER_SESSION": "windows", **settings}
        async with Worker.start(tmp_path / "second", phone=town.phone, settings=chosen, name="second") as second:
            await second.ready()
            await wait_for_an_empty_queue(town, 60)
            live = await town.phone.send("Ana", town.market.id, "and live again")
            await town.database.wait_message(live.id, tell=second.child.tail)
            stored = Counter(row["text"] for row in await town.database.messages())
            assert stored == Counter([*(item["text"] for item in burst["items"]), "before", "and live again"])


async def figures(worker: Worker) -> int | None:
    """The largest size that the sidecar's log had, once it has told it after the backlog."""
    told = [line for line in worker.log_lines() if line["msg"] == "the sidecar's figures"]
    seen = [line for line in told if int(line.get("stanzas_in") or 0) >= COUNT]
    return max(int(line["log_bytes_max"]) for line in seen) if seen else None

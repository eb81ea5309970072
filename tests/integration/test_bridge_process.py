"""The sidecar as a process, against small children that misbehave in every way that a child can."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from loguru import logger

from worker.bridge.peer import Peer, make_peer
from worker.bridge.process import MALLOC, Sidecar, check_node, make_environment, run_sidecar
from worker.bridge.stderr import SuppressedLines
from worker.errors import CallTimeout, SettingsError, SidecarGone

BOUND = 15.0
ECHO = """
    for line in sys.stdin:
        call = json.loads(line)
        print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": {"pending": 0}}), flush=True)
"""


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message).rstrip()), format="{level}|{message}|{extra}", level=0)
    yield lines
    logger.remove(sink)


@asynccontextmanager
async def child(code: str) -> AsyncIterator[Sidecar]:
    """A Python child that runs `code` in the sidecar's place."""
    script = "import sys, json, os, time, signal\n" + textwrap.dedent(code)
    with anyio.fail_after(BOUND):
        async with run_sidecar([sys.executable, "-c", script], {"PATH": os.environ["PATH"]}) as sidecar:
            yield sidecar


@asynccontextmanager
async def linked(sidecar: Sidecar) -> AsyncIterator[Peer]:
    with make_peer(sidecar.stdout, sidecar.stdin, {}) as peer:
        yield peer


async def end_of(peer: Peer) -> str:
    """What ended the link."""
    with pytest.raises(SidecarGone) as gone:
        await peer.run()
    return str(gone.value)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def running(pid: int) -> bool:
    """Whether it lives; a zombie that nobody has buried does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False


async def test_a_child_that_behaves_answers_and_leaves_when_its_stdin_ends() -> None:
    async with child(ECHO) as sidecar, linked(sidecar) as peer:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(end_of, peer)
            assert await peer.close(logout=False, drain_seconds=0) == 0
            await sidecar.stop()
        assert sidecar.returncode == 0, "no signal was needed"


@pytest.mark.parametrize(
    ("code", "says", "because"),
    [
        ('print("console.log was here", flush=True); sys.stdin.read()', "not JSON", "garbage on stdout"),
        ('os.write(1, b"\\xff\\xfe\\n"); sys.stdin.read()', "not JSON", "bytes that are no text"),
        ("sys.exit(7)", "closed its end", "it ends by itself"),
        ("os.abort()", "closed its end", "it crashes"),
        ('sys.stdout.write("{\\"jsonrpc\\""); sys.stdout.flush(); os._exit(1)', "cut off", "it dies in mid-line"),
    ],
)
async def test_a_child_that_breaks_the_wire_ends_the_link(code: str, says: str, because: str) -> None:
    async with child(code) as sidecar, linked(sidecar) as peer:
        assert says in await end_of(peer), because
    assert not alive(sidecar.pid)


async def test_a_line_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.bridge import framing

    code = """
        try:
            while True:
                os.write(1, b"x" * 65536)
        except BrokenPipeError:
            pass
    """
    async with child(code) as sidecar:
        lines = framing.read_documents(sidecar.stdout, limit=1_000_000)
        with pytest.raises(SidecarGone, match="more than 1000000 bytes"):
            await anext(lines)


async def test_a_silent_child_is_a_time_out_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.bridge import peer as peer_module

    monkeypatch.setattr(peer_module, "PING_SECONDS", 0.2)
    async with (
        child("sys.stdin.read()") as sidecar,
        linked(sidecar) as peer,
        anyio.create_task_group() as task_group,
    ):
        task_group.start_soon(end_of, peer)
        with pytest.raises(CallTimeout):
            await peer.ping()
        await sidecar.stop()


async def test_a_child_that_does_not_read_blocks_nobody_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.bridge import peer as peer_module

    monkeypatch.setattr(peer_module, "MEDIA_REFRESH_SECONDS", 0.3)
    async with child("time.sleep(60)") as sidecar, linked(sidecar) as peer:
        with pytest.raises(CallTimeout):
            await peer.media_refresh({}, {"text": "x" * 2_000_000})
    assert not alive(sidecar.pid)


async def test_a_child_that_dies_with_unread_input_leaves_no_error_behind() -> None:
    """Only an interpreter like Debian 12's 3.11.2 can fail it: later ones do not report the future."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    try:
        for _ in range(3):
            async with child("time.sleep(60)") as sidecar:
                with anyio.move_on_after(0.1):
                    await sidecar.stdin.send(b"x" * 1_000_000)
                sidecar.signal_group(signal.SIGKILL)
        del sidecar
        gc.collect()
        for _ in range(10):  # what was collected reports in the loop's next rounds
            await anyio.lowlevel.checkpoint()
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert not reported


async def test_a_child_that_ignores_the_end_of_stdin_gets_sigterm() -> None:
    code = """
        def leave(*_):
            os._exit(42)
        signal.signal(signal.SIGTERM, leave)
        print("{}", flush=True)
        while True:
            time.sleep(1)
    """
    async with child(code) as sidecar:
        await sidecar.stdout.receive()
        await sidecar.stop()
    assert sidecar.returncode == 42


async def test_a_child_that_ignores_sigterm_is_killed_within_bounds() -> None:
    code = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("{}", flush=True)
        while True:
            time.sleep(1)
    """
    async with child(code) as sidecar:
        await sidecar.stdout.receive()
        with anyio.fail_after(BOUND):
            await sidecar.stop()
    assert sidecar.returncode == -signal.SIGKILL


async def test_grandchildren_do_not_outlive_the_child() -> None:
    code = """
        import subprocess
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(json.dumps({"pid": grandchild.pid}), flush=True)
        sys.stdin.read()
    """
    async with child(code) as sidecar:
        pid = json.loads(await sidecar.stdout.receive())["pid"]
        assert alive(pid)
    with anyio.fail_after(BOUND):
        while running(pid):
            await anyio.lowlevel.checkpoint()


async def test_a_cancelled_block_still_ends_the_child() -> None:
    code = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("{}", flush=True)
        while True:
            time.sleep(1)
    """
    with anyio.CancelScope() as scope:
        async with child(code) as sidecar:
            await sidecar.stdout.receive()
            scope.cancel()
            await anyio.sleep_forever()
    assert not alive(sidecar.pid)


async def test_a_child_that_writes_as_it_leaves_is_not_blocked_by_a_full_pipe() -> None:
    code = """
        sys.stdin.read()
        os.write(1, b"x" * 1_000_000)
    """
    async with child(code) as sidecar:
        await sidecar.stop()
        assert sidecar.returncode == 0


async def test_a_flood_of_stderr_is_survived_counted_and_cut(logged: list[str]) -> None:
    code = """
        for n in range(20_000):
            sys.stderr.write(json.dumps({"level": "info", "msg": f"line {n}"}) + "\\n")
        sys.stderr.write("y" * 3_000_000 + "\\n")
        sys.stderr.flush()
        print("{}", flush=True)
        sys.stdin.read()
    """
    async with child(code) as sidecar:
        assert await sidecar.stdout.receive() == b"{}\n"
    assert 100 < len(logged) < 10_000
    told = [line for line in logged if "lines were suppressed" in line]
    assert len(told) <= 2, "a sum, not a line for each gap"
    assert "times" in told[0]
    assert max(map(len, logged)) < 5000


def test_what_floods_the_log_is_summed_up_once_a_minute_by_its_texts(logged: list[str]) -> None:
    now = [0.0]
    left_out = SuppressedLines(lambda: now[0])
    for n in range(500):
        left_out.count(b'{"level":"debug","msg":"sent ack"}')
        left_out.count(b'{"level":"debug","msg":"odd %d"}' % n)
        left_out.tell()
    assert logged == []
    now[0] = 61.0
    left_out.tell()
    assert len(logged) == 1
    assert "1000 lines were suppressed in 61 s (500 times 'sent ack', 301 times 'others'" in logged[0]
    left_out.tell(now=True)
    assert len(logged) == 1, "nothing more was left out"


async def test_the_log_of_the_child_is_said_again_without_what_it_must_not_say(logged: list[str]) -> None:
    code = """
        def say(**fields):
            sys.stderr.write(json.dumps(fields) + "\\n")
        say(level="warn", msg="hello", count=3, text="the-secret-text", content={"conversation": "the-secret-text"})
        say(level="nonsense", msg="odd level")
        sys.stderr.write("the-secret-text printed by a library\\n")
        sys.stderr.write("FATAL ERROR: Reached heap limit Allocation failed\\n")
        sys.stderr.write("no newline at the end")
    """
    async with child(code):
        pass
    text = "\n".join(logged)
    assert "WARNING|hello|" in text
    assert "'count': 3" in text
    assert "DEBUG|odd level|" in text
    assert "FATAL ERROR: Reached heap limit" in text
    assert "37 bytes to stderr that are not a log line" in text or "bytes to stderr" in text
    assert "the-secret-text" not in text


async def test_a_program_that_is_not_there_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(SidecarGone, match="could not be started"):
        async with run_sidecar([tmp_path / "nothing"], {}):
            pass


def test_the_child_sees_an_allow_list_of_our_environment() -> None:
    ours = {
        "PATH": "/bin", "HOME": "/h", "SUPABASE_SERVICE_KEY": "k", "WORKER_STATE_KEY": "k", "AWS_SECRET": "k",
        "WA_ROOT_KEY": "k",
    }  # fmt: skip
    given = make_environment("info", ours)
    assert given == {"PATH": "/bin", "HOME": "/h", "LOG_LEVEL": "info", **MALLOC}


def test_the_level_is_said_in_pinos_words() -> None:
    assert make_environment("warning", {})["LOG_LEVEL"] == "warn"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo v20.11.1", "v20.11.1, which is too old"),
        ("echo hello", "does not answer like Node"),
        ("exit 3", "does not answer like Node"),
    ],
)
def test_another_node_is_named_with_what_to_do(tmp_path: Path, script: str, says: str) -> None:
    node = tmp_path / "node"
    node.write_text(f"#!/bin/sh\n{script}\n")
    node.chmod(0o755)
    with pytest.raises(SettingsError, match="WORKER_NODE") as wrong:
        check_node(node)
    assert says in str(wrong.value)
    assert "22" in str(wrong.value)


def test_a_missing_node_is_named() -> None:
    with pytest.raises(SettingsError, match="WORKER_NODE: no Node runs at"):
        check_node(Path("/nonexistent"))


async def test_the_signal_that_ended_a_child_is_known() -> None:
    async with child("os.kill(os.getpid(), signal.SIGSEGV)") as sidecar:
        with pytest.raises(anyio.EndOfStream):
            await sidecar.stdout.receive()
        await sidecar.stop()
        assert sidecar.returncode == -signal.SIGSEGV


async def test_the_mark_of_a_child_outlives_it_however_it_ended() -> None:
    digest = "ab" * 32
    write = f"os.pwrite(int(os.environ['WA_MARK_FD']), bytes.fromhex('{digest}'), 0)"
    for code, ended, forced in (
        (f"{write}; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, False),
        (f"{write}; sys.exit(3)", 3, False),
        (f"{write}; print('{{}}', flush=True); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"
         "\nwhile True: time.sleep(60)", -signal.SIGKILL, True),
        ("sys.exit(3)", 3, False),
    ):  # fmt: skip
        async with child(code) as sidecar:
            with contextlib.suppress(anyio.EndOfStream):
                await sidecar.stdout.receive()
            assert sidecar.mark.read() == (digest if "pwrite" in code else None)
        assert sidecar.mark.read() == (digest if "pwrite" in code else None)
        assert (sidecar.returncode, sidecar.forced) == (ended, forced)

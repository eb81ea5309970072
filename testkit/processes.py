"""Child processes of tests and of the demo: each in its own process group, logged to a file, always ended.

Does not know what the processes do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import anyio
import anyio.to_thread

from testkit.waiting import until
from worker.settings import default_node

ROOT = Path(__file__).resolve().parents[1]
PYTHON = Path(sys.executable)
NODE = default_node()

STOP_SECONDS = 15.0  # the worker's own shutdown (drain, close, release the lease) ends well before
TAIL_LINES = 40
TICKS = os.sysconf("SC_CLK_TCK")


class Child:
    """One process whose stderr goes to `log`, and its stdout too unless it is read as a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log: Path) -> None:
        self.process = process
        self.name = name
        self.log = log

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        pipe_stdout: bool = False,
        hold_stdin: bool = False,
        stdin: int = subprocess.DEVNULL,
        terminal: int | None = None,
    ) -> Child:
        """Start `command`; `hold_stdin` keeps its stdin open for as long as we live, so that it can see us end.

        `terminal`, the far end of a pseudo-terminal, replaces `log` and stdin.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=dict(env) if env is not None else None,
                stdin=subprocess.PIPE if hold_stdin else stdin if terminal is None else terminal,
                stdout=subprocess.PIPE if pipe_stdout else sink if terminal is None else terminal,
                stderr=sink if terminal is None else terminal,
                start_new_session=True,  # Ctrl-C in a terminal reaches only us; we end the others in order
            )
        return cls(process, name, log)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    async def read_line(self, seconds: float = 30.0) -> str:
        """The next line of a piped stdout; empty at its end."""
        pipe = self.process.stdout
        assert pipe is not None, "start it with pipe_stdout=True"
        with anyio.fail_after(seconds):
            line = await anyio.to_thread.run_sync(pipe.readline, abandon_on_cancel=True)
        return line.decode()

    async def wait(self, seconds: float) -> int:
        """Its exit code."""

        async def code() -> tuple[int] | None:
            found = self.process.poll()
            return None if found is None else (found,)

        return (await until(f"{self.name} to end", code, seconds=seconds, tell=self.tail))[0]

    async def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, then SIGKILL to the rest of its group after `seconds`; not cancellable."""
        with anyio.CancelScope(shield=True):
            if self.running:
                self.process.terminate()
                with contextlib.suppress(AssertionError):
                    await self.wait(seconds)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL to the whole group, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            _close(pipe)
        return code

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self.process.send_signal(signal.SIGINT)

    def text(self) -> str:
        """Everything in its log."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """The last lines of its log, for a failure's text."""
        lines = self.text().splitlines()[-TAIL_LINES:]
        return "\n".join([f"--- {self.name}, end of {self.log}", *lines])


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def descendants(pid: int) -> set[int]:
    """The ids of all processes below `pid`, from /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    edge = {pid}
    while edge:
        edge = {child for child, parent in parents.items() if parent in edge} - found
        found |= edge
    return found


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of these processes so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes; shared pages count proportionally (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def resident_bytes(pid: int) -> int:
    """The process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

"""The sidecar's process: starts it with a clean environment, and always ends it.

Owns the child, its process group and its stderr. Knows nothing about the protocol.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from worker.bridge.mark import DESCRIPTOR, Mark
from worker.bridge.stderr import relay_stderr
from worker.errors import SettingsError, SidecarGone
from worker.log_limits import LineBudget

PINO_LEVELS = {"warning": "warn"}

NODE_MAJOR_MIN = (
    22  # Node 20 lacks what the sidecar and the embedded Supabase need (docs/supabase.md, "The embedded Supabase")
)
NODE_ASK_SECONDS = 30.0  # `node --version` takes 40 ms; a cold disk or a busy machine takes seconds
STDIN_GRACE_SECONDS = 2.0  # a healthy sidecar exits within 100 ms of the end of its stdin
TERM_GRACE_SECONDS = 1.0  # only a hung sidecar gets here; the whole stop has ten seconds
KILL_GRACE_SECONDS = 2.0  # for the kernel; longer means uninterruptible sleep

# Young generation of 2 MB: without the limit it grows with every burst and stays large, for no gain in speed
# (docs/performance.md, "Memory"). --expose-gc lets the sidecar return memory when idle.
NODE_FLAGS = ("--max-semi-space-size=2", "--expose-gc")
# For glibc (bytes): one heap for all threads, since only one is busy; free memory at its end returns to the system.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}

# The sidecar sees only these of our environment variables: never the service key or the state key.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")


def make_environment(
    log_level: str, environment: Mapping[str, str] | None = None, *, proxy: str | None = None
) -> dict[str, str]:
    """The sidecar's environment: an allow-list of ours, its log level, and the proxy for its socket."""
    ours = os.environ if environment is None else environment
    kept = {name: value for name, value in ours.items() if name in ENVIRONMENT}
    way = {"HTTPS_PROXY": proxy} if proxy else {}
    return {**kept, **way, **MALLOC, "LOG_LEVEL": PINO_LEVELS.get(log_level, log_level)}


def check_node(node: Path) -> None:
    """Make sure that `node` is there and new enough.

    Raises:
        SettingsError: it is missing or too old; the text says what to do.
    """
    remedy = f"set it to a Node {NODE_MAJOR_MIN} or newer, or leave it out after `make setup`"
    try:
        asked = subprocess.run(  # blocks for 40 ms, at start, before anything else runs
            [node, "--version"],
            env=make_environment("info"),
            capture_output=True,
            text=True,
            timeout=NODE_ASK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        late = f"WORKER_NODE: {node} did not answer within {NODE_ASK_SECONDS:g} s"
        raise SettingsError(f"{late}. Unless this machine is very busy, {remedy}") from None
    except OSError as error:
        raise SettingsError(f"WORKER_NODE: no Node runs at {node} ({error.strerror}); {remedy}") from None
    version = re.match(r"v(\d+)\.", asked.stdout)
    if asked.returncode or not version:
        raise SettingsError(f"WORKER_NODE: {node} does not answer like Node; {remedy}")
    if int(version[1]) < NODE_MAJOR_MIN:
        raise SettingsError(f"WORKER_NODE: {node} is Node {asked.stdout.strip()}, which is too old; {remedy}")


class Sidecar:
    """A running sidecar: its two pipes and its end.

    Attributes:
        mark: the stanza that it is decrypting; readable until `run_sidecar` exits.
        forced: it did not exit when its stdin ended, so we signalled it.
    """

    def __init__(self, process: Process, mark: Mark) -> None:
        self._process = process
        self.mark = mark
        self.forced = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> ByteSendStream:
        assert self._process.stdin
        return self._process.stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        assert self._process.stdout
        return self._process.stdout

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the child and everything it started (its process group)."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def stop(self) -> None:
        """Shut down in steps: close stdin, wait, SIGTERM to the group, wait, SIGKILL. Bounded, never cancelled."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(_drain, self.stdout)  # a child blocked on a full pipe would not exit
                await self._descend()
                task_group.cancel_scope.cancel()

    async def _descend(self) -> None:
        with suppress(anyio.BrokenResourceError, OSError):
            await self.stdin.aclose()
        if not await self._ended_within(STDIN_GRACE_SECONDS):
            self.forced = True
            self.signal_group(signal.SIGTERM)
            if not await self._ended_within(TERM_GRACE_SECONDS):
                self.signal_group(signal.SIGKILL)
                await self._ended_within(KILL_GRACE_SECONDS)
        self.signal_group(signal.SIGKILL)  # grandchildren that outlived it

    async def _ended_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._process.wait()
        return self._process.returncode is not None


@asynccontextmanager
async def run_sidecar(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    folder: Path | None = None,
    lines: LineBudget | None = None,
) -> AsyncIterator[Sidecar]:
    """Run the child for the length of the block. `lines`: the budget for its log lines.

    Raises:
        SidecarGone: it could not be started.
    """
    with Mark() as mark:
        process = await _start(command, environment, folder, mark)
        sidecar = Sidecar(process, mark)
        assert process.stderr
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(relay_stderr, process.stderr, lines)
            try:
                yield sidecar
            finally:
                await sidecar.stop()
                task_group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True), anyio.move_on_after(KILL_GRACE_SECONDS):
                    await process.aclose()
                    await _collect_end_of_stdin(process)


async def _start(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path | None, mark: Mark
) -> Process:
    try:
        return await anyio.open_process(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**environment, DESCRIPTOR: str(mark.descriptor)},
            pass_fds=(mark.descriptor,),
            start_new_session=True,  # the worker handles Ctrl-C, not the child
        )
    except OSError as refused:
        raise SidecarGone(f"the sidecar could not be started: {refused.strerror}") from refused


async def _collect_end_of_stdin(process: Process) -> None:
    # A child that dies with unread input leaves a BrokenPipeError in a future. CPython 3.11.2 (Debian 12) reports it as
    # "never retrieved" at garbage collection; later versions do not. anyio has no public way to retrieve it.
    writer = getattr(process.stdin, "_stream", None)
    if isinstance(writer, asyncio.StreamWriter):
        with suppress(OSError):
            await writer.wait_closed()


async def _drain(stream: ByteReceiveStream) -> None:
    # RuntimeError: the peer is still reading the stream, so there is nothing to drain.
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, RuntimeError):
        while True:
            await stream.receive()


def kill_at_once(pid: int) -> None:
    """SIGKILL the child and its group. For a second Ctrl-C."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)

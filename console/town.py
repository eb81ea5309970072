"""The demo town: a virtual phone to try the worker without a spare number. At most one per console.

It is a process (`python -m demo.town`) with its own database, worker and folder, shown as a session with a unique name:
reads and actions under that name use its database. It ends when stopped, after an hour without a viewer, or with the
console, and leaves nothing behind.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectSendStream
from loguru import logger

from console.database import Address, Database
from console.rules.situations import Situation, judge
from worker.errors import SettingsError, unwrapped
from worker.installation import DATA
from worker.store.embedded import read_endpoint

DESERTED_SECONDS = 3600.0  # without a viewer
ORDER_SECONDS = 60.0  # sending a picture on a busy machine
LOOK_SECONDS = 5.0  # pages look every second
ORDERS_MAX = 8  # at once
STOP_SECONDS = 10.0  # for killing what it started and removing its folder
FORMER = 20  # names of towns that are gone
LINE_BYTES_MAX = 1_000_000
SHOWN_CHARS = 200

NAME = re.compile(r"town-[0-9a-f]{8}")

State = Literal["starting", "running", "over"]
WORKER_SITUATIONS = {"dead": "killed", "starting": "taking_over"}
Row = dict[str, Any]


class TownRefused(Exception):
    """The town refused an order, or did not answer; the text is a key of the catalogue's `refused`."""


class Town:
    """One town, from its first process to its last file.

    Attributes:
        steps: of its start, so far; the last one is under way.
        worker: `starting`, `running` or `dead`. The town knows at once, its database only when the lease ends.
        failed: why it did not start.
        folder: made at the start, removed at the end.
    """

    def __init__(self) -> None:
        self.session = f"town-{secrets.token_hex(4)}"
        self.folder: Path | None = None
        self.database = Database(self._find)
        self.state: State = "starting"
        self.steps: list[str] = []
        self.worker = "starting"
        self.failed = ""
        self.seen_at = time.monotonic()
        self._scope = anyio.CancelScope()
        self._process: Process | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, MemoryObjectSendStream[Row]] = {}
        self._limit = anyio.CapacityLimiter(ORDERS_MAX)
        self._writing = anyio.Lock()
        self._gone = anyio.Event()

    def see(self) -> None:
        """Somebody looks."""
        self.seen_at = time.monotonic()

    def judge(self, view: Mapping[str, Any] | None) -> Situation:
        """The situation of its session, also while the worker is killed and the database does not know it yet."""
        name = WORKER_SITUATIONS.get(self.worker)
        return Situation(name=name) if name else judge(view)

    async def run(self) -> None:
        """Run until `stop`, an hour without a viewer, or its own end. Its errors never end the console."""
        try:
            with self._scope, unwrapped():
                await self._live()
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.state = "over"
            with anyio.CancelScope(shield=True):
                try:
                    await self._end()
                except Exception as error:
                    logger.warning("the demo town could not be cleaned up: {}", error)
                finally:
                    self._gone.set()

    async def stop(self) -> None:
        """Stop the town. Returns when nothing of it is left."""
        self._scope.cancel()
        await self._gone.wait()

    async def ask(self, do: str, **more: object) -> Row:
        """Send an order. Returns the answer.

        Raises:
            TownRefused: the town refused, or did not answer.
        """
        number = next(self._numbers)
        tell, answer = anyio.create_memory_object_stream[Row](1)
        try:
            with tell, answer, anyio.fail_after(LOOK_SECONDS if do == "look" else ORDER_SECONDS):
                async with self._limit:
                    if self.state != "running" or self._process is None or self._process.stdin is None:
                        raise TownRefused("away")
                    self._answers[number] = tell
                    async with self._writing:
                        await self._process.stdin.send(json.dumps({"id": number, "do": do, **more}).encode() + b"\n")
                    found = await answer.receive()
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise TownRefused("away") from error
        finally:
            self._answers.pop(number, None)
        if "no" in found:
            raise TownRefused(str(found["no"]))
        return found.get("ok") or {}

    async def _live(self) -> None:
        self.folder = folder = Path(tempfile.mkdtemp(prefix="wa-town-"))
        with (folder / "town.log").open("wb") as log:
            self._process = process = await anyio.open_process(
                [sys.executable, "-m", "demo.town", str(folder), self.session],
                stdin=subprocess.PIPE,  # it exits when we do
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=_environment(),
                start_new_session=True,  # we handle Ctrl-C and end it
            )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_deserted)
            await self._listen(process)
            tasks.cancel_scope.cancel()
        if not self.failed:
            with anyio.move_on_after(STOP_SECONDS):
                await process.wait()
            self._fail(f"its process ended with code {process.returncode}{_last_line(folder / 'town.log')}")

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with suppress(anyio.IncompleteRead, anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                line = await lines.receive_until(b"\n", LINE_BYTES_MAX)
                with suppress(ValueError):  # something else printed a line
                    self._hear(json.loads(line))

    def _hear(self, line: Mapping[str, Any]) -> None:
        match line:
            case {"say": str(step)}:
                if step not in self.steps:
                    self.steps.append(step)
            case {"worker": str(state)}:
                self.worker = state
            case {"ready": True}:
                self.state = "running"
            case {"failed": str(why)}:
                self._fail(why)
            case {"id": int(number)} if tell := self._answers.get(number):
                with suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                    tell.send_nowait(dict(line))

    def _fail(self, why: str) -> None:
        if self.state == "starting":
            self.failed = why
            logger.warning("the town with the virtual phone did not start: {}", why)
        else:
            logger.warning("the town with the virtual phone ended: {}", why)

    async def _until_deserted(self) -> None:
        while True:
            left = self.seen_at + DESERTED_SECONDS - time.monotonic()
            if left <= 0:
                break
            await anyio.sleep(left)
        logger.info("nobody has looked at the town with the virtual phone for an hour: it ends")
        self._scope.cancel()

    async def _end(self) -> None:
        """SIGTERM, then SIGKILL after STOP_SECONDS. Then remove the folder, once everything it started has ended."""
        for tell in self._answers.values():
            tell.close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with anyio.move_on_after(STOP_SECONDS):
                await self._process.wait()
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.aclose()
        folder = self.folder
        if folder is None:
            return
        with anyio.move_on_after(STOP_SECONDS):
            while folder.exists():  # after a SIGKILL, its children are still ending
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
                await anyio.sleep(0.05)

    async def _find(self) -> Address:
        found = None if self.state == "over" or self.folder is None else read_endpoint(self.folder / "data")
        if found is None:
            raise SettingsError("the town's database is not there")
        return found.url, found.key


class Towns:
    """The console's town, if there is one."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._former: deque[str] = deque(maxlen=FORMER)
        self.last: Town | None = None

    @property
    def present(self) -> Town | None:
        """The town that is starting or running."""
        return self.last if self.last and self.last.state != "over" else None

    def of(self, session: str) -> Town | None:
        """The current town, if it has this name."""
        return self.present if self.present and self.present.session == session else None

    def is_gone(self, session: str) -> bool:
        """Whether a town with this name has ended in this console."""
        return session in self._former and self.of(session) is None

    async def start(self) -> None:
        """Start a town, unless there is one."""
        if self.present is None:
            former, self.last = self.last, Town()  # before any await, since another start may come meanwhile
            self._former.append(self.last.session)
            self._tasks.start_soon(self.last.run)
            await _forget(former)

    async def stop(self) -> None:
        if self.present:
            await self.present.stop()

    async def close(self) -> None:
        """End the town, if there is one, and close the last one's clients."""
        await self.stop()
        await _forget(self.last)


async def _forget(town: Town | None) -> None:
    """Close the clients of an ended town. Only now, because its open pages may have been reading when it ended."""
    if town:
        await town.database.close()


def is_town_name(session: str) -> bool:
    """Whether a session has a town's name, of this console or of one that ended."""
    return NAME.fullmatch(session) is not None


def is_installed() -> bool:
    """Whether the virtual phone is installed."""
    there = importlib.util.find_spec("demo") and importlib.util.find_spec("testkit")
    return bool(there) and (DATA / "simulator" / "index.js").is_file()


def _last_line(log: Path) -> str:
    """What a process wrote last, such as its exception; empty if it wrote nothing or has removed its folder."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((f": {line[:SHOWN_CHARS]}" for line in reversed(lines) if line.strip()), "")


def _environment() -> dict[str, str]:
    """The town's environment, without the console's settings, which contain secrets and belong to other accounts."""
    from testkit.worker import environment

    return environment({})

"""The town with a virtual phone that somebody without a spare number plays with: at most one beside a console.

It is a process (`python -m demo.town`) with a database, a worker and a folder of its own, and is shown as a session
whose name nobody else has: what is read or done under that name is read and done in its database. It ends when it is
stopped, when nobody has looked for an hour, and with the console; then nothing of it is left.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
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
from worker.errors import SettingsError, unwrapped
from worker.installation import DATA
from worker.store.embedded import read_endpoint

DESERTED_SECONDS = 3600.0  # without a viewer
ORDER_SECONDS = 60.0  # a picture, on a busy machine
LOOK_SECONDS = 5.0  # pages ask for it each second
ORDERS_MAX = 8  # at once
STOP_SECONDS = 10.0  # it kills what it started, and removes its folder
FORMER = 20  # names of towns that are gone
LINE_BYTES_MAX = 1_000_000

State = Literal["starting", "running", "over"]
Row = dict[str, Any]


class TownRefused(Exception):
    """An order that the town cannot follow; the text is its own."""


class Town:
    """One town, from its first process to its last file. `step` says what is being started; `failed` why it ended."""

    def __init__(self) -> None:
        self.session = f"town-{secrets.token_hex(4)}"
        self.folder = Path(tempfile.mkdtemp(prefix="wa-town-"))
        self.database = Database(self._find)
        self.state: State = "starting"
        self.step = "packages"
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

    async def run(self) -> None:
        """Until `stop`, until nobody looks any more, or until it ends by itself. No error of its ends the console."""
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
                    logger.warning("what the town with the virtual phone left behind: {}", error)
                finally:
                    self._gone.set()

    async def stop(self) -> None:
        """Returns when nothing of it is left."""
        self._scope.cancel()
        await self._gone.wait()

    async def ask(self, do: str, **more: object) -> Row:
        """The answer to an order.

        Raises:
            TownRefused: it cannot be followed, or there was no answer.
        """
        number = next(self._numbers)
        tell, answer = anyio.create_memory_object_stream[Row](1)
        try:
            with tell, answer, anyio.fail_after(LOOK_SECONDS if do == "look" else ORDER_SECONDS):
                async with self._limit:
                    if self.state != "running" or self._process is None or self._process.stdin is None:
                        raise TownRefused("it is not there")
                    self._answers[number] = tell
                    async with self._writing:
                        await self._process.stdin.send(json.dumps({"id": number, "do": do, **more}).encode() + b"\n")
                    found = await answer.receive()
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise TownRefused("it does not answer") from error
        finally:
            self._answers.pop(number, None)
        if "no" in found:
            raise TownRefused(str(found["no"]))
        return found.get("ok") or {}

    async def _live(self) -> None:
        with (self.folder / "town.log").open("wb") as log:
            self._process = await anyio.open_process(
                [sys.executable, "-m", "demo.town", str(self.folder), self.session],
                stdin=subprocess.PIPE,  # it ends with us
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us, who end it
            )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_deserted)
            await self._listen(self._process)
            tasks.cancel_scope.cancel()

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with suppress(anyio.IncompleteRead, anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                line = await lines.receive_until(b"\n", LINE_BYTES_MAX)
                with suppress(ValueError):  # something in it printed what is no answer
                    self._hear(json.loads(line))

    def _hear(self, line: Mapping[str, Any]) -> None:
        match line:
            case {"say": str(step)}:
                self.step = step
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
        """SIGTERM, and SIGKILL after a while; then nothing that it started is left, and its folder goes."""
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
        with anyio.move_on_after(STOP_SECONDS):
            while self.folder.exists():  # if it was killed, what it started still dies
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(self.folder, ignore_errors=True))
                await anyio.sleep(0.05)

    async def _find(self) -> Address:
        found = None if self.state == "over" else read_endpoint(self.folder / "data")
        if found is None:
            raise SettingsError("the town's database is not there")
        return found.url, found.key


class Towns:
    """The town beside a console, if there is one."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._former: deque[str] = deque(maxlen=FORMER)
        self.last: Town | None = None

    @property
    def present(self) -> Town | None:
        """The one that is being started or runs."""
        return self.last if self.last and self.last.state != "over" else None

    def of(self, session: str) -> Town | None:
        """The present town, if that is its name."""
        return self.present if self.present and self.present.session == session else None

    def is_gone(self, session: str) -> bool:
        """Whether a town of this name is over."""
        return session in self._former and self.of(session) is None

    async def start(self) -> None:
        """Start one, unless there is one."""
        if self.present is None:
            former, self.last = self.last, Town()  # before anything is awaited: another start may come meanwhile
            self._former.append(self.last.session)
            self._tasks.start_soon(self.last.run)
            await _forget(former)

    async def stop(self) -> None:
        if self.present:
            await self.present.stop()

    async def close(self) -> None:
        """End the town, if there is one, and what was kept of the last."""
        await self.stop()
        await _forget(self.last)


async def _forget(town: Town | None) -> None:
    """Close the clients of a town that is over: only now, since its open pages may have been reading when it ended."""
    if town:
        await town.database.close()


def is_installed() -> bool:
    """Whether this installation has a virtual phone."""
    there = importlib.util.find_spec("demo") and importlib.util.find_spec("testkit")
    return bool(there) and (DATA / "simulator" / "index.js").is_file()


def _environment() -> dict[str, str]:
    """Nothing of the console's own settings: they are secrets, and mean other accounts."""
    from testkit.worker import environment

    return environment({})

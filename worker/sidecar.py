"""Starts the sidecar of a session, and the first one of a named session ahead of its lease.

Node and Baileys take 0.4 s of a processor to load, as long as the worker's own modules and its first calls to Supabase
together. So the first sidecar starts beside them. It waits for its first command: before the lease is held it reads no
state and opens no socket. Imported before everything else that a worker needs, so this imports little itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from worker.bridge.process import NODE_FLAGS, Sidecar, make_environment, run_sidecar
from worker.errors import SidecarGone, unwrapped
from worker.installation import sidecar_folder
from worker.log_limits import LineBudget
from worker.outbound import proxy_for
from worker.settings import Settings

WHATSAPP = "wss://web.whatsapp.com/ws/chat"


def start_sidecar(settings: Settings, lines: LineBudget) -> AbstractAsyncContextManager[Sidecar]:
    """A block with a sidecar of this session; see `run_sidecar`."""
    folder = sidecar_folder()
    proxy = proxy_for(settings.wa_socket_url or WHATSAPP, own=settings.proxy)
    command: list[str | Path] = [settings.worker_node, *NODE_FLAGS, folder / "index.js"]
    return run_sidecar(command, make_environment(settings.log_level, proxy=proxy), folder, lines)


class SidecarAhead:
    """A sidecar that will be needed soon. The task `run` owns it; it is used once (`taken`) or ended unused (`end`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sidecar: Sidecar | None = None
        self._unneeded = anyio.Event()
        self._gone = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Hold it until it is no longer needed. One that cannot be started is no error: the next one tells why."""
        try:
            async with start_sidecar(self._settings, LineBudget()) as self._sidecar:
                task_status.started()
                await self._unneeded.wait()
        except SidecarGone:
            task_status.started()
        finally:
            self._sidecar = None
            self._gone.set()

    @property
    def ready(self) -> bool:
        """Whether it can be taken. It may have died since, as any sidecar may."""
        return self._sidecar is not None and not self._unneeded.is_set()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[Sidecar]:
        """Use it. It has ended when the block is left, in whatever way."""
        assert self._sidecar is not None
        try:
            yield self._sidecar
        finally:
            self.end()
            with anyio.CancelScope(shield=True):  # the end of a sidecar is bounded
                await self._gone.wait()

    def end(self) -> None:
        """Have it ended."""
        self._unneeded.set()


@asynccontextmanager
async def sidecar_ahead(settings: Settings) -> AsyncIterator[SidecarAhead]:
    """A sidecar while the block runs, if it is taken or not."""
    ahead = SidecarAhead(settings)
    with unwrapped():
        async with anyio.create_task_group() as task_group:
            await task_group.start(ahead.run)
            yield ahead
            task_group.cancel_scope.cancel()

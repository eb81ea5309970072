"""The worker as a soak starts it: the product, and from outside one more page that counts what could leak."""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import sys
import threading
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from worker.session import connection
from worker.web import app
from worker.web.health import Health

PARENT_LOOK_SECONDS = 0.5
PATIENCE_MS = 10_000  # with a backlog whose end is not told; 60 s in the product


def add_page() -> None:
    make_app = app.make_app

    def with_page(health: Health) -> Starlette:
        async def figures(_: Request) -> JSONResponse:
            session = health.session
            pid, restarts = session.sidecar_pid, session.sidecar_restarts
            heap = session.figures.get("heap_bytes", 0)  # as of the last ping
            counts = {"heap": heap, "tasks": len(asyncio.all_tasks()), "threads": threading.active_count()}
            return JSONResponse({**counts, "sidecar_pid": pid, "restarts": restarts})

        made = make_app(health)
        made.router.routes.append(Route("/soak", figures))
        return made

    app.make_app = with_page


def follow_parent() -> None:
    """End when whoever started us has gone: a soak that is killed leaves no worker behind."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


if __name__ == "__main__":
    follow_parent()
    add_page()
    connection.OFFLINE_HOLD_MS = PATIENCE_MS
    sys.argv[0] = "wa-worker"
    runpy.run_module("worker", run_name="__main__")

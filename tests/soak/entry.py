"""The worker as a soak starts it: the product, and from outside one more page that counts what could leak."""

from __future__ import annotations

import asyncio
import runpy
import sys
import threading

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from worker.web import app
from worker.web.health import Health


def add_page() -> None:
    make_app = app.make_app

    def with_page(health: Health) -> Starlette:
        async def figures(_: Request) -> JSONResponse:
            pid, restarts = health.sidecar_pid, health.sidecar_restarts
            counts = {"tasks": len(asyncio.all_tasks()), "threads": threading.active_count()}
            return JSONResponse({**counts, "sidecar_pid": pid, "restarts": restarts})

        made = make_app(health)
        made.router.routes.append(Route("/soak", figures))
        return made

    app.make_app = with_page


if __name__ == "__main__":
    add_page()
    sys.argv[0] = "wa-worker"
    runpy.run_module("worker", run_name="__main__")

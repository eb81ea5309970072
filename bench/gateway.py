"""A minimal HTTP server before a PostgreSQL, as far as the worker uses one: `python -m bench.gateway DSN PORT`.

Calls functions by name, as PostgREST does, and takes objects without keeping them, as a storage server that costs
nothing would. For measurements alone: it checks no key.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import psycopg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

CONNECTIONS = 4  # PostgREST has ten by default; this worker never uses more at once
ARGUMENTS = "select unnest(proargnames), unnest(proargtypes)::regtype::text from pg_proc where oid = %s::regproc"


class Gateway:
    """`call` answers a function's JSON; a connection is used by one call at a time."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._idle: asyncio.LifoQueue[psycopg.AsyncConnection[Any]] = asyncio.LifoQueue()
        self._types: dict[str, dict[str, str]] = {}

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(await psycopg.AsyncConnection.connect(self._dsn, autocommit=True))

    async def call(self, request: Request) -> Response:
        name = f"public.{request.path_params['name']}"
        given = json.loads(await request.body() or b"{}")
        connection = await self._idle.get()
        try:
            if name not in self._types:
                self._types[name] = dict(await (await connection.execute(ARGUMENTS, (name,))).fetchall())
            types = self._types[name]
            holes = ", ".join(f"{key} => %s::{types[key]}" for key in given)
            values = [
                json.dumps(value) if types[key] == "jsonb" and value is not None else value
                for key, value in given.items()
            ]
            answer = await connection.execute(f"select {name}({holes})::text", values, prepare=True)
            row = await answer.fetchone()
            assert row is not None
            return Response(row[0] or "null", media_type="application/json")
        except psycopg.Error as error:
            state = error.sqlstate or "PGRST000"
            body = {"code": state, "message": error.diag.message_primary, "details": None, "hint": None}
            return Response(json.dumps(body), 409 if state == "PT409" else 400, media_type="application/json")
        finally:
            self._idle.put_nowait(connection)


async def take(request: Request) -> Response:
    """An object: read, and forgotten."""
    async for _ in request.stream():
        pass
    path = request.path_params["path"]
    return Response(json.dumps({"Key": path, "Id": path, "name": path, "id": path}), media_type="application/json")


def main(dsn: str, port: int) -> None:
    gateway = Gateway(dsn)
    routes = [
        Route("/rest/v1/rpc/{name}", gateway.call, methods=["POST"]),
        Route("/storage/v1/{path:path}", take, methods=["GET", "HEAD", "POST", "PUT", "DELETE"]),
    ]
    app = Starlette(routes=routes)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False))

    async def serve() -> None:
        await gateway.open()
        await server.serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

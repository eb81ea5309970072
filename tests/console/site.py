"""A console on a free port, in the test's own process, and a browser without a screen that talks to it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
from pydantic import SecretStr

from console import serve
from console.access.guard import Guard
from console.app import open_console
from worker.commands.runtime import find
from worker.errors import unwrapped
from worker.settings import Settings
from worker.store.embedded import Endpoint

TOKEN = "a-token-for-tests-only"  # noqa: S105 - of a console that lives for one test
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
CALL_SECONDS = 60.0


@dataclass(kw_only=True)
class Site:
    """One console, and one visitor with cookies."""

    app: Guard
    address: str
    session: str
    http: httpx.AsyncClient
    said: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"/s/{self.session}"

    async def log_in(self, who: str = "") -> httpx.Response:
        return await self.send("/login", {"token": TOKEN, "who": who})

    async def send(self, path: str, form: dict[str, str], **headers: str) -> httpx.Response:
        """A form as a browser sends it from one of our pages."""
        return await self.http.post(path, data=form, headers={"origin": self.address, **headers})

    async def csrf(self) -> str:
        found = CSRF.search(await self.read(f"{self.base}/link"))
        assert found
        return found[1]

    async def act(self, path: str, **form: str) -> httpx.Response:
        """Press a button of a page."""
        return await self.send(path, {"csrf": await self.csrf(), **form})

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={"accept": "text/html", **headers})

    async def read(self, path: str) -> str:
        """A page that is there."""
        answer = await self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:500])
        return answer.text


@asynccontextmanager
async def served(
    embedded: Endpoint | None, session: str, *, beside: bool = False, **settings: Any
) -> AsyncIterator[Site]:
    """A console of this session. `settings` are those of the console, by their field's name.

    Without a database it looks for one in the folder of its settings, as the command does.
    `beside`: as if a worker had started it.
    """
    chosen = Settings(
        _env_file=None,  # type: ignore[call-arg]
        supabase_url=embedded.url if embedded else None,
        supabase_service_key=SecretStr(embedded.key) if embedded else None,
        worker_session=session,
        **{"worker_console_port": 0, "worker_console_token": TOKEN, **settings},
    )
    listener = serve.bind(chosen)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    opened = serve.address_of(chosen, listener)
    said: list[str] = []

    async def locate() -> tuple[str, str]:
        return (embedded.url, embedded.key) if embedded else await find(chosen)

    client = httpx.AsyncClient(base_url=address, timeout=CALL_SECONDS, trust_env=False)
    with listener, unwrapped():
        async with (
            open_console(chosen, locate, said.append, opened, beside=beside) as app,
            client as http,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(serve.serve, app, listener)
            yield Site(app=app, address=address, session=session, http=http, said=said)
            tasks.cancel_scope.cancel()

"""The console beside `wa-worker up`: its link stands under the QR code, and it ends with the worker."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.waiting import until
from testkit.worker import Worker

LINK = re.compile(r"\(this link works once\): (http://127\.0\.0\.1:\d+)(/login/link\?code=\S+)")


async def test_up_names_a_link_that_opens_the_console(supabase: EmbeddedSupabase, tmp_path: Path, session: str) -> None:
    settings = {**supabase.worker_env, "WORKER_SESSION": session, "WORKER_CONSOLE_PORT": "0"}
    async with await VirtualPhone.start(tmp_path) as phone:
        async with Worker.start(tmp_path / "worker", phone=phone, settings=settings, command="up") as worker:

            async def named() -> re.Match[str] | None:
                return LINK.search(worker.child.text())

            link = await until("the link under the code", named, seconds=60, tell=worker.child.tail)
            async with httpx.AsyncClient(base_url=link[1], follow_redirects=True, trust_env=False) as http:

                async def opened() -> httpx.Response | None:
                    try:
                        return await http.get(link[2])
                    except httpx.TransportError:
                        return None

                page = await until("the console behind the link", opened, seconds=60, tell=worker.child.tail)
                assert str(page.url) == f"{link[1]}/s/{session}/link"
        async with httpx.AsyncClient(trust_env=False) as http:

            async def refused() -> bool:
                try:
                    await http.get(f"{link[1]}/login")
                except httpx.ConnectError:
                    return True
                return False

            await until("nobody on its port", refused, seconds=30)

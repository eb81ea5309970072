"""examples/web-app in a real browser, as a user who signed up: the code, the groups, the feed, a picture, search."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.processes import ROOT
from testkit.waiting import until
from tests.console.browser import SEEN_MS, chromium, read_qr
from tests.console.rows import connected, ids, recent, show, store_file, with_file
from tests.integration.database import GROUP, at, table, writer
from tests.integration.test_users_page import PASSWORD, join, signed_up
from worker.store import HeldSession, connect_store

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
CODE = "2@" + "Ab3/" * 55 + ",key,key,key"  # as long as WhatsApp's


def load_server() -> Any:
    """examples/web-app/serve.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("serve", ROOT / "examples" / "web-app" / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SERVE = load_server()


@contextmanager
def served(supabase: EmbeddedSupabase) -> Iterator[str]:
    """The page and the database from one origin, as its README says."""
    endpoint = {"url": supabase.url, "publishable_key": supabase.publishable_key}
    with SERVE.make_server(endpoint, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
async def supabase(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedSupabase]:
    async with await EmbeddedSupabase.start(tmp_path_factory.mktemp("example"), users=True) as running:
        yield running


async def test_whoever_serves_the_example_owns_the_sessions_and_the_second_time_too(
    supabase: EmbeddedSupabase,
) -> None:
    key, session = supabase.service_key, f"t-{uuid4().hex[:12]}"
    endpoint = {"url": supabase.url, "publishable_key": supabase.publishable_key, "key": key}
    SERVE.ask(f"{supabase.url}/rest/v1/wa_sessions", key, [{"id": session}])
    counts = {SERVE.let_in(endpoint, f"{session}@example.com", PASSWORD) for _ in range(2)}
    assert counts == {len(SERVE.ask(f"{supabase.url}/rest/v1/wa_sessions?select=id", key))}
    members = SERVE.ask(f"{supabase.url}/rest/v1/session_members?select=role&session_id=eq.{session}", key)
    assert members == [{"role": "owner"}]


async def test_the_example_shows_code_groups_feed_and_search_to_a_signed_in_user(
    supabase: EmbeddedSupabase, session: str
) -> None:
    async with (
        connect_store(supabase.url, supabase.service_key) as store,
        signed_up(supabase) as user,
        chromium() as browser,
    ):
        await store.bucket.ensure()
        held = await writer(store, session)
        await store.lease_acquire(session, "worker-1", 3600)  # the worker runs as long as the test takes
        await join(store, session, user, "owner")
        soon = {"qr": CODE, "expires_at": datetime.now(UTC) + timedelta(minutes=10)}
        await show(store, held, status="connecting", state="waiting_for_scan", say="Scan the QR code.", **soon)
        ben = {"sender": "ben@lid", "sender_alt": None, "push_name": "Ben"}
        album = {"chat_id": GROUP, "target_sender": "ana@lid", "target_id": "A", "author": "ana@lid", "at": at(0)}
        await held.commit(
            messages=[
                recent("T", 300),
                recent("A", 200, kind="album", text=None),
                recent("H", 100, text=HOSTILE, **ben),
            ]
        )
        for place in (1, 2):
            picture = {**with_file(f"P{place}", "image", age_seconds=200 - place), "text": f"picture {place}"}
            await held.commit(
                messages=[picture], changes=[album | {"kind": "album", "change_id": f"P{place}", "payload": {}}]
            )
            content = (ROOT / "seeds" / "media" / ("hills.jpg", "oranges.jpg")[place - 1]).read_bytes()
            await store_file(store, held, content, "image/jpeg", "jpg")
        await held.commit(messages=[with_file("D", "document", "price list.pdf", age_seconds=90)])
        await store_file(store, held, (ROOT / "seeds" / "media" / "list.pdf").read_bytes(), "application/pdf", "pdf")
        reaction = album | {"kind": "reaction", "target_id": "T", "author": "ben@lid", "change_id": "R"}
        await held.commit(changes=[reaction | {"payload": {"emoji": "🎉"}}])
        await store.host_poll("worker-1", 0, [HeldSession(session=session, fence=held.fence, monitored=None, media=0)])

        context = await browser.new_context()
        page = await context.new_page()
        page.set_default_timeout(SEEN_MS)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))

        async def see(words: str) -> None:
            await page.get_by_text(words).first.wait_for(state="visible")

        with served(supabase) as address:
            await page.goto(address)
            await page.fill("#email", user.email)
            await page.fill("#password", PASSWORD)
            await page.click("#login button")
            await page.wait_for_selector("#qr img")

            async def code() -> str | None:
                return await read_qr(browser, await page.screenshot())

            assert await until("a code that can be read from the page", code, seconds=60) == CODE
            await connected(store, held)
            await page.wait_for_selector("#qr img", state="detached")

            await see("text of T")
            await see(HOSTILE)
            await see("🎉 Ben")
            number = await ids(store, session)
            pictures = page.locator(f"[data-message='{number['A']}'] img")
            assert await pictures.count() == 2
            assert await page.locator(f"[data-message='{number['P1']}']").count() == 0, "it stands in its album"
            for place in range(2):
                handle = await pictures.nth(place).element_handle()
                await page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=handle)

            async with page.expect_download() as saved:
                await page.get_by_role("link", name="price list.pdf").click()
            assert (await saved.value).suggested_filename == "price list.pdf"

            await page.fill("#words", "picture")
            await page.press("#words", "Enter")
            await page.locator("#found mark").nth(1).wait_for()
            assert await page.locator("#found li").count() == 2

            of_t = album | {"target_id": "T"}
            edit = of_t | {"kind": "edit", "change_id": "E", "payload": {"text": "T was edited"}}
            await held.commit(messages=[recent("N", 0, text="just now", **ben)], changes=[edit])
            await see("just now")
            await see("T was edited")

            await page.get_by_role("listitem").filter(has_text="Family").get_by_role("checkbox").uncheck()

            async def switched_off() -> bool:
                found: Any = await table(store, "groups").select("monitor").eq("wa_group_id", GROUP).execute()
                return not any(row["monitor"] for row in found.data)

            await until("groups.monitor", switched_off, seconds=60)

            await page.get_by_role("button", name="Sign out").click()
            await page.wait_for_selector("#login", state="visible")
            await context.close()
        assert faults == []

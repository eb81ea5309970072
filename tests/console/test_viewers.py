"""Open pages: however many look, the database is read once for all of them."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from console import context
from console.connections import CONNECTIONS_MAX
from console.live import POLL_SECONDS, SLOWEST_SECONDS, WINDOW, LiveFeed, new_between, pause
from console.messages import Page
from console.pages import events
from console.viewer import Viewer
from testkit.waiting import until
from tests.console.rows import connected, ids, recent, show
from tests.console.site import TOKEN, Site, served
from tests.integration.database import table, writer
from worker.store import Store
from worker.store.console import Console
from worker.store.embedded import Endpoint

VIEWERS = 10
SEEN_SECONDS = 60.0


async def look(site: Site, words: str, seen: anyio.Event) -> None:
    """An open feed, until these words come."""
    async with site.http.stream("GET", f"{site.base}/events?after=0") as stream:
        async for line in stream.aiter_lines():
            if words in line:
                seen.set()
                return


async def test_ten_viewers_share_each_read(
    embedded: Endpoint, store: Store, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await writer(store, session)
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        async def counting(*args: Any) -> Any:
            counted[name] += 1
            return await real(*args)

        monkeypatch.setattr(owner, name, counting)

    count(Console, "change_cursor")
    count(LiveFeed, "_look")
    count(LiveFeed, "_poll")
    render = Viewer.render

    def rendering(viewer: Viewer, template: str, values: Any) -> str:
        counted[template] += 1
        return render(viewer, template, values)

    monkeypatch.setattr(Viewer, "render", rendering)
    async with served(embedded, session) as site:
        await site.log_in()
        events = [anyio.Event() for _ in range(VIEWERS)]
        async with anyio.create_task_group() as tasks:
            for seen in events:
                tasks.start_soon(look, site, "for all of you", seen)

            async def all_there() -> bool:
                return site.app.console.live(session).viewers == VIEWERS

            await until("ten open streams", all_there, seconds=SEEN_SECONDS)
            await held.commit(messages=[recent("a", text="for all of you")])

            async def all_told() -> bool:
                return all(seen.is_set() for seen in events)

            await until("the message in each of them", all_told, seconds=SEEN_SECONDS)
        assert counted["_poll"] == 1
        assert 1 <= counted["change_cursor"] <= counted["_look"]
        assert 1 <= counted["bubble.html"] <= counted["_look"], "drawn once, too, for each that was read"


async def test_a_page_is_told_nothing_older_than_itself(embedded: Endpoint, store: Store, session: str) -> None:
    """A page that is loaded just after the phone was linked: the last reading, still with the code, is not for it."""
    held = await writer(store, session)
    code = {"qr": "2@code", "expires_at": datetime.now(UTC) + timedelta(minutes=5)}
    await show(store, held, status="connecting", state="waiting_for_scan", say="Scan.", **code)
    async with served(embedded, session) as site, anyio.create_task_group() as tasks:
        await site.log_in()
        live = site.app.console.live(session)
        first = live.snapshots()
        snapshot = await anext(first)
        assert snapshot
        assert snapshot.situation.qr
        await connected(store, held)
        async with aclosing(live.snapshots()) as second:
            snapshot = await anext(second)
        assert snapshot
        assert snapshot.situation.linked
        await first.aclose()
        tasks.cancel_scope.cancel()


async def test_the_newest_messages_follow_what_comes_and_what_goes(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent(f"a{n}", 1000 - n) for n in range(WINDOW + 10)])
    async with served(embedded, session) as site, anyio.create_task_group() as tasks:
        await site.log_in()
        async with aclosing(site.app.console.live(session).snapshots()) as snapshots:

            async def named(*expected: str) -> bool:
                snapshot = await anext(snapshots)
                return snapshot is not None and tuple(row["wa_msg_id"] for row in snapshot.page.rows) == expected

            wanted = [f"a{n}" for n in range(10, WINDOW + 10)]
            assert await named(*wanted)
            await held.commit(messages=[recent("b", 5), recent("late", 90_000)])
            wanted = [*wanted[2:], "b", "late"]
            await until("what came", partial(named, *wanted), seconds=SEEN_SECONDS)
            gone = (await ids(store, session))["a20"]
            await table(store, "messages").delete().eq("id", gone).execute()
            wanted.remove("a20")
            await until("what went", partial(named, *wanted), seconds=SEEN_SECONDS)
            await held.commit(messages=[recent("c", 4)])
            await until("all of them", partial(named, *wanted, "c"), seconds=SEEN_SECONDS)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("took", "seconds"),
    [
        (0.0, POLL_SECONDS),
        (0.025, POLL_SECONDS),  # a fortieth of the time
        (0.1, 4.0),
        (3.0, SLOWEST_SECONDS),  # the database is busy; pages are to move all the same
    ],
)
def test_a_slow_database_is_read_less_often(took: float, seconds: float) -> None:
    assert pause(took) == pytest.approx(seconds)


def test_a_flood_is_read_less_often_too() -> None:
    before, after = Page(rows=[{"id": n} for n in range(60)]), Page(rows=[{"id": n} for n in range(30, 90)])
    assert new_between(before, after) == 30
    assert new_between(after, after) == 0
    assert pause(0.01, 29) == POLL_SECONDS
    assert pause(0.01, 30) == SLOWEST_SECONDS


async def test_the_stream_ends_with_the_login(embedded: Endpoint, store: Store, session: str) -> None:
    """Also behind a proxy that asks for a password of its own, which the browser sends along."""
    held = await writer(store, session)
    await connected(store, held)
    async with served(embedded, session) as site:
        await site.log_in()
        csrf = await site.csrf()
        headers = {"authorization": "Basic b2xnYTp4"}
        with anyio.fail_after(SEEN_SECONDS):
            async with site.http.stream("GET", f"{site.base}/events?after=0", headers=headers) as stream:
                lines = stream.aiter_lines()
                async for line in lines:
                    if line == "event: situation":
                        break
                await site.send("/logout", {"csrf": csrf})
                rest = [line async for line in lines]
    assert "event: over" in rest


async def test_a_proxy_is_asked_again_from_time_to_time(
    embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PROXIED_SECONDS", 0.0)
    async with served(embedded, session) as site:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with anyio.fail_after(SEEN_SECONDS):
            answer = await site.http.get(f"{site.base}/events", headers=headers)
    assert answer.text == "retry: 2000\n\n", "it ends, and the browser comes again"


async def test_streams_leave_room_for_pages(
    embedded: Endpoint, store: Store, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STREAMS_MAX", 2)
    async with served(embedded, session) as site, anyio.create_task_group() as tasks:
        await site.log_in()
        for _ in range(2):
            tasks.start_soon(look, site, "never said", anyio.Event())

        async def all_there() -> bool:
            return site.app.console.live(session).viewers == 2

        await until("two open streams", all_there, seconds=SEEN_SECONDS)
        assert (await site.get(f"{site.base}/events")).status_code == 503
        assert await site.read(f"{site.base}/feed")
        tasks.cancel_scope.cancel()


async def test_sessions_that_nobody_looks_at_take_no_place(
    embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "FEEDS_MAX", 3)
    async with served(embedded, session) as site:
        await site.log_in()
        for number in range(10):
            assert site.app.console.live(f"{session}-{number}")
        assert len(site.app.console.feeds) <= 3


async def test_silent_connections_keep_nobody_out(embedded: Endpoint, store: Store, session: str) -> None:
    """Those of strangers: empty ones, half a request, a form that does not come, an answered request."""
    async with served(embedded, session) as site, AsyncExitStack() as stack:
        await site.log_in()
        host = site.address.removeprefix("http://")
        name, _, port = host.partition(":")
        form = f"POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: {site.address}\r\nContent-Length: 9\r\n\r\na".encode()
        sent = (b"", form[:30], form, f"GET /login HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        seen = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look, site, "for all of you", seen)

            async def there() -> bool:
                return site.app.console.live(session).viewers == 1

            await until("an open stream", there, seconds=SEEN_SECONDS)
            for number in range(CONNECTIONS_MAX + 50):
                connection = await stack.enter_async_context(await anyio.connect_tcp(name, int(port)))
                await connection.send(sent[number % len(sent)])
            assert await site.read(f"{site.base}/groups")
            held = await writer(store, session)
            await held.commit(messages=[recent("a", text="for all of you")])
            with anyio.fail_after(SEEN_SECONDS):
                await seen.wait()

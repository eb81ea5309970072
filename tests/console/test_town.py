"""The town with a virtual phone: offered, played with, and gone without a trace however it ends."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from console import town as towns
from console.context import PageContext
from console.database import Database
from console.rules.situations import Situation
from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.processes import alive, descendants
from testkit.waiting import until
from testkit.worker import Worker
from tests.console.rows import connected
from tests.console.site import Site, served
from tests.console.test_access import audited
from tests.console.test_up import LINK
from tests.integration.database import writer
from worker.errors import SettingsError, StoreUnavailable
from worker.store import Store
from worker.store.embedded import Endpoint

BUILT_SECONDS = 150.0
SEEN_SECONDS = 90.0
COUNT = re.compile(r'data-group="(\w+)".*?data-count="sent">(\d+)<.*?"receipted">(\d+)<.*?"stored">(\d+)<', re.DOTALL)

pytestmark = pytest.mark.timeout(300)


async def built(site: Site) -> str:
    """The base of a town's pages, once it is there."""
    await site.act(f"{site.base}/town")

    async def ready() -> str | None:
        answer = await site.get(f"{site.base}/town")
        return str(answer.headers["location"]).removesuffix("/link") if answer.status_code == 303 else None

    return await until("the town", ready, seconds=BUILT_SECONDS)


async def seen(site: Site, path: str, words: str) -> str:
    """The page once these words stand on it."""

    async def there() -> str | None:
        page = await site.read(path)
        return page if words in page else None

    return await until(f"{words!r} on {path}", there, seconds=SEEN_SECONDS)


async def counts(site: Site, base: str) -> dict[str, tuple[int, int, int]]:
    """For each group of the town: sent, acknowledged, stored."""
    page = await site.read(f"{base}/phone?part=1")
    return {key: (int(sent), int(receipted), int(stored)) for key, sent, receipted, stored in COUNT.findall(page)}


async def test_a_town_is_played_with_and_nothing_of_it_is_left(embedded: Endpoint, store: Store, session: str) -> None:
    before = descendants(os.getpid())
    async with served(embedded, session) as site:
        await site.log_in("Olga")
        assert "Try it with the virtual phone" in await site.read(f"{site.base}/link")
        base = await built(site)
        town = site.app.console.towns.present
        assert town
        below = descendants(os.getpid()) - before
        assert len(below) >= 4, "the town, its phone, its database, its worker"

        for name in ("link", "groups", "feed", "search", "health", "phone"):
            assert "For play only" in await site.read(f"{base}/{name}"), name
        assert "For play only" not in await site.read(f"{site.base}/link")
        assert "<svg" in await site.read(f"{base}/link"), "entered with the first code"
        await site.act(f"{base}/phone/link")
        await seen(site, f"{base}/link", "Connected as")
        page = await seen(site, f"{base}/groups", "Saturday market")
        switch = re.search(r'groups/(\d+)"><bdi>Saturday market', page)
        assert switch
        await site.act(f"{base}/groups/{switch[1]}/switch", monitor="true")

        async def stored() -> bool:
            """The worker looks at the switches from time to time."""
            await site.act(f"{base}/phone/send", who="ana market", text="Two crates")
            return (await counts(site, base))["market"][2] > 0

        async def acknowledged() -> tuple[int, int, int] | None:
            market = (await counts(site, base))["market"]
            return market if market[0] == market[1] else None

        await until("a message in the town's database", stored, seconds=SEEN_SECONDS)
        sent, _, kept = await until("all that was sent, acknowledged", acknowledged, seconds=SEEN_SECONDS)
        early = sent - kept  # sent before the worker had seen the switch
        await site.act(f"{base}/phone/send", who="ana family", text="for us alone")
        await site.act(f"{base}/phone/send", who="ben market", text="The road", picture="true")
        await site.act(f"{base}/phone/worker", do="kill")
        assert "The worker was killed" in await site.read(f"{base}/link"), "though its lease has not ended"
        assert "Messages are not received now" in await site.read(f"{base}/health")
        last = await site.act(f"{base}/phone/send", who="ana market", text="while nobody listens")
        assert last.headers["location"] == f"{base}/phone?who=ana+market"
        found = await counts(site, base)
        assert found["market"][0] > found["market"][1], "it waits"
        number = found["market"][0] + found["family"][0] - 1
        await site.act(f"{base}/phone/change", of=str(number), what="edit", text="while nobody listened")
        await site.act(f"{base}/phone/change", of=str(number), what="reaction")
        page = await site.read(f"{base}/phone")
        waiting = page.count("waiting at WhatsApp") + page.count("stored, not acknowledged yet")
        assert waiting >= 3, "these, and what the worker had not acknowledged when it was killed"
        assert f"Waited for a worker: {waiting}. Came so far: 0." in page
        await site.act(f"{base}/phone/worker", do="start")
        assert "starting again" in await site.read(f"{base}/link")

        async def complete() -> bool:
            found = await counts(site, base)
            sent, receipted, kept = found["market"]
            return sent == receipted == kept + early and found["family"] == (1, 1, 0)

        assert town.folder
        log = town.folder / "worker" / "worker.log"
        await until("all that waited, stored", complete, seconds=SEEN_SECONDS, tell=lambda: log.read_text()[-5000:])
        page = await seen(site, f"{base}/feed", "while nobody listened")
        await seen(site, f"{base}/feed", "👍")
        assert "for us alone" not in page
        page = await seen(site, f"{base}/phone", f"Nothing was lost. Waited for a worker: {waiting};")
        assert "stored: the message has the new text" in page
        assert "stored: the message has the reaction" in page
        await site.act(f"{base}/phone/change", of=str(number), what="delete")
        await seen(site, f"{base}/feed", "Deleted for everyone")
        await seen(site, f"{base}/phone", "stored: the message is marked as deleted")
        await site.act(f"{base}/phone/change", of=str(number - 2), what="edit", text="for us two")
        await seen(site, f"{base}/phone", "acknowledged, not stored: its message is not stored either")

        await site.act(f"{site.base}/town/stop")
        assert [pid for pid in below if alive(pid)] == []
        assert not town.folder.exists()
        for name in ("feed", "phone", "groups/1"):
            led = await site.get(f"{base}/{name}")
            assert led.headers["location"] == f"{site.base}/link?did=town_over"
        for path in ("events", "phone?part=1"):
            assert (await site.get(f"{base}/{path}", accept="*/*")).status_code == 404
    assert [entry["action"] for entry in await audited(store, session)] == ["town_start", "town_stop"]
    assert await store.console.groups(session) == [], "none of it came into the owner's database"


async def test_each_refusal_says_what_is_wrong(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        base = await built(site)

        async def refused(order: str, **form: str) -> str:
            answer = await site.act(f"{base}/phone/{order}", **form)
            why = re.search(r"refused=(\w+)", answer.headers["location"])
            page = await site.read(answer.headers["location"])
            assert ("alert" in page) == bool(why)
            return why[1] if why else ""

        ana = {"who": "ana market", "text": "Two crates"}
        assert await refused("send", **ana) == "unlinked"
        assert await refused("worker", do="start") == "running"
        assert await refused("link") == ""
        await seen(site, f"{base}/link", "Connected as")
        assert await refused("link") == "linked"
        assert await refused("send", **ana | {"text": " "}) == "empty"
        assert await refused("send", **ana | {"text": "x" * 4001}) == "long"
        assert await refused("send", **ana | {"who": "nobody nowhere"}) == "unknown"
        assert await refused("send", **ana) == ""
        assert await refused("send", **ana, picture="true") == ""
        assert await refused("change", of="7", what="delete") == "no_message"
        assert await refused("change", of="0", what="dance") == "unknown"
        assert await refused("change", of="0", what="edit") == "empty"
        assert await refused("change", of="1", what="edit", text="Three") == "not_text"
        assert await refused("change", of="0", what="delete") == ""
        assert await refused("change", of="0", what="reaction") == "deleted"
        assert await refused("worker", do="kill") == ""
        assert await refused("worker", do="kill") == "dead"
        assert site.app.console.towns.present, "none of it has ended the town"


async def test_pages_of_a_town_of_an_earlier_console_lead_to_this_one(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        led = await site.get("/s/town-0123abcd/feed")
        assert led.headers["location"] == f"{site.base}/link?did=town_over"
        assert "That town is gone" in await site.read(led.headers["location"])


async def test_a_start_shows_its_steps_and_leads_on(
    embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    words = f"""echo '{{"say": "database"}}'; until [ -e {go} ]; do sleep 0.1; done; {READY}; {HANGS}"""
    with script(monkeypatch, tmp_path, words):
        async with served(embedded, session) as site:
            await site.log_in()
            await site.act(f"{site.base}/town")
            page = await seen(site, f"{site.base}/town", "✓")
            assert "npm" not in page, "they are installed"
            assert re.search(r'aria-current="step">Make an empty database', page)
            assert "data-go" not in await site.read(f"{site.base}/town?part=1")
            go.touch()
            await seen(site, f"{site.base}/town?part=1", "data-go")
            assert "Go to the town" in await site.read(f"{site.base}/link")


async def test_a_town_that_is_ready_while_its_page_is_made_is_entered(
    embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The page read that it was starting, and then asked the database for a moment."""
    go = tmp_path / "go"
    words = f"until [ -e {go} ]; do sleep 0.1; done; {READY}; {HANGS}"
    situation = PageContext.situation

    async def slowly(context: PageContext) -> Situation:
        go.touch()
        with anyio.fail_after(SEEN_SECONDS):
            while site.app.console.towns.present.state == "starting":  # type: ignore[union-attr]  # noqa: ASYNC110
                await anyio.sleep(0.05)
        return await situation(context)

    with script(monkeypatch, tmp_path, words):
        async with served(embedded, session) as site:
            await site.log_in()
            await site.act(f"{site.base}/town")
            monkeypatch.setattr(PageContext, "situation", slowly)
            answer = await site.get(f"{site.base}/town")
            assert answer.status_code == 303, answer.text
            assert answer.headers["location"].startswith("/s/town-")


async def test_there_is_one_town_at_a_time(embedded: Endpoint, store: Store, session: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        await site.act(f"{site.base}/town")
        first = site.app.console.towns.present
        await site.act(f"{site.base}/town")
        assert first
        assert [entry["action"] for entry in await audited(store, session)] == ["town_start"]
        assert site.app.console.towns.present is first
        await site.act(f"{site.base}/town/stop")
        assert first.folder
        assert not first.folder.exists(), "also while it is being built"
        await site.act(f"{site.base}/town")
        assert site.app.console.towns.present not in (None, first)


async def test_a_town_that_nobody_looks_at_ends(
    embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(towns, "DESERTED_SECONDS", 0.0)
    async with served(embedded, session) as site:
        await site.log_in()
        await site.act(f"{site.base}/town")
        town = site.app.console.towns.last
        assert town

        async def gone() -> bool:
            return site.app.console.towns.present is None and not (town.folder and town.folder.exists())

        await until("the end of the town", gone, seconds=SEEN_SECONDS)
        assert "There is no town now" in await site.read(f"{site.base}/town")


async def test_none_is_offered_to_whoever_has_linked_an_account(embedded: Endpoint, store: Store, session: str) -> None:
    await connected(store, await writer(store, session))
    async with served(embedded, session) as site:
        await site.log_in()
        assert "virtual phone" not in await site.read(f"{site.base}/link")
        assert (await site.act(f"{site.base}/town")).status_code == 404
        assert site.app.console.towns.present is None
    assert await audited(store, session) == []


@contextmanager
def script(monkeypatch: pytest.MonkeyPatch, folder: Path, words: str) -> Iterator[Path]:
    """Towns are this shell script instead. Yields where their folders are; at the end there is none."""
    program = folder / "town.sh"
    program.write_text(f"#!/bin/sh\n{words}\n")
    program.chmod(0o700)
    places = folder / "places"
    places.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(program))
        patch.setattr(tempfile, "tempdir", str(places))
        yield places
    assert list(places.iterdir()) == []


READY = """echo '{"ready": true}'"""
HANGS = "while read order; do :; done"


async def runs(town: towns.Town) -> None:
    async def ready() -> bool:
        return town.state == "running"

    await until("a town that runs", ready, seconds=SEEN_SECONDS, tell=lambda: f"{town.state} {town.failed}")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (f"head -c {towns.LINE_BYTES_MAX + 10} /dev/zero; {HANGS}", "DelimiterNotFound: "),
        ("exit", "its process ended with code 0"),
        ("kill -9 $$", "its process ended with code -9"),
        ("echo what a pity >&2; exit 3", "its process ended with code 3: what a pity"),
        (None, "FileNotFoundError: "),
    ],
)
async def test_what_ends_a_town_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str | None, why: str
) -> None:
    with script(monkeypatch, tmp_path, words or ""):
        if words is None:
            (tmp_path / "town.sh").unlink()
        town = towns.Town()
        await town.run()
    assert town.state == "over"
    assert town.failed.startswith(why)


async def test_a_town_without_room_says_so_and_is_tried_again(
    embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(full))  # as a disk without room: no folder can be made
        async with served(embedded, session) as site:
            await site.log_in()
            await site.act(f"{site.base}/town")
            page = await seen(site, f"{site.base}/town", "The town could not start")
            assert "No such file or directory" in page
            assert "Try again" in page
            full.mkdir()
            await site.act(f"{site.base}/town")
            await seen(site, f"{site.base}/town", "The town is starting")


async def test_a_line_that_is_no_answer_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = rf"echo a warning; printf '\377\n'; echo '[]'; {READY}; {HANGS}"
    with script(monkeypatch, tmp_path, words):
        async with anyio.create_task_group() as tasks:
            town = towns.Town()
            tasks.start_soon(town.run)
            await runs(town)
            await town.stop()
    assert town.failed == ""


async def test_a_town_that_dies_as_it_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = os.killpg

    def gone(group: int, number: int) -> None:
        real(group, number)
        raise ProcessLookupError

    monkeypatch.setattr(os, "killpg", gone)
    monkeypatch.setattr(towns, "STOP_SECONDS", 0.5)
    with script(monkeypatch, tmp_path, f"trap '' TERM; {READY}; while :; do read line || sleep 1; done"):
        async with anyio.create_task_group() as tasks:
            town = towns.Town()
            tasks.start_soon(town.run)
            await runs(town)
            await town.stop()


async def test_the_clients_of_a_town_that_is_gone_are_asked_by_nobody(embedded: Endpoint, session: str) -> None:
    places = [(embedded.url, embedded.key)]

    async def locate() -> tuple[str, str]:
        if not places:
            raise SettingsError("gone")
        return places[0]

    database = Database(locate)
    assert await database.ask(lambda store: store.console.groups(session)) == []
    places.clear()
    await database.close()
    with pytest.raises(StoreUnavailable, match="gone"):
        await database.ask(lambda store: store.console.groups(session))


async def test_looks_at_a_town_that_hangs_do_not_pile_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(towns, "LOOK_SECONDS", 0.1)
    with script(monkeypatch, tmp_path, f"{READY}; {HANGS}"):
        async with anyio.create_task_group() as tasks:
            town = towns.Town()
            tasks.start_soon(town.run)
            await runs(town)
            waiting = 0

            async def send() -> None:
                nonlocal waiting
                waiting += 1
                with pytest.raises(towns.TownRefused, match="away"):
                    await town.ask("send")

            for _ in range(towns.ORDERS_MAX + 1):
                tasks.start_soon(send)

            async def all_wait() -> bool:
                return waiting > towns.ORDERS_MAX

            await until("as many orders as there may be", all_wait, seconds=SEEN_SECONDS)
            with anyio.fail_after(SEEN_SECONDS / 2), pytest.raises(towns.TownRefused, match="away"):
                await town.ask("look")
            await town.stop()


async def test_the_page_of_a_town_that_hangs_says_so(
    embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(towns, "LOOK_SECONDS", 0.1)
    with script(monkeypatch, tmp_path, f"{READY}; {HANGS}"):
        async with served(embedded, session) as site:
            await site.log_in()
            await site.act(f"{site.base}/town")
            town = site.app.console.towns.present
            assert town
            await runs(town)
            answer = await site.get(f"/s/{town.session}/phone")
            assert answer.status_code == 503
            assert "The town did not answer" in answer.text


async def test_two_starts_at_once_make_one_town(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    close = Database.close

    async def slowly(database: Database) -> None:
        await anyio.wait_all_tasks_blocked()
        await close(database)

    monkeypatch.setattr(Database, "close", slowly)
    with script(monkeypatch, tmp_path, f"{READY}; {HANGS}") as places:
        async with anyio.create_task_group() as tasks:
            beside = towns.Towns(tasks)
            await beside.start()
            await beside.stop()
            async with anyio.create_task_group() as starts:
                starts.start_soon(beside.start)
                starts.start_soon(beside.start)
            assert len(list(places.iterdir())) == 1
            await beside.close()
            tasks.cancel_scope.cancel()


async def test_what_a_town_is_asked_as_it_ends_is_not_done_in_the_owners_database(
    embedded: Endpoint, store: Store, session: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with script(monkeypatch, tmp_path, f"{READY}; {HANGS}"):
        async with served(embedded, session) as site:
            await site.log_in()
            csrf = await site.csrf()
            await site.act(f"{site.base}/town")
            town = site.app.console.towns.present
            assert town
            await runs(town)
            town.seen_at = 0.0
            form = f"csrf={csrf}".encode()

            async def body() -> AsyncIterator[bytes]:
                async def begun() -> bool:
                    return town.seen_at > 0

                await until("a request that is being read", begun, seconds=SEEN_SECONDS)
                await site.app.console.towns.stop()
                yield form

            headers = {
                "origin": site.address,
                "content-type": "application/x-www-form-urlencoded",
                "content-length": str(len(form)),
            }
            answer = await site.http.post(f"/s/{town.session}/link/refresh", content=body(), headers=headers)
            assert answer.status_code == 503
            assert await audited(store, town.session) == []


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def ctrl_c(worker: Worker, town: int) -> None:
    worker.child.interrupt()


def kill_everything_that_could_tidy_up(worker: Worker, town: int) -> None:
    """kill -9 of `up` and of the town's own process: the console alone is left, until its stdin ends."""
    os.kill(town, signal.SIGKILL)
    worker.child.process.kill()


def kill_the_console(worker: Worker, town: int) -> None:
    (console,) = [pid for pid in worker.processes() if b"--beside" in command(pid)]
    os.kill(console, signal.SIGKILL)


@pytest.mark.parametrize("end", [ctrl_c, kill_the_console, kill_everything_that_could_tidy_up])
async def test_a_town_ends_with_its_console(
    supabase: EmbeddedSupabase, tmp_path: Path, session: str, end: Callable[[Worker, int], None]
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    settings = {**supabase.worker_env, "WORKER_SESSION": session, "WORKER_CONSOLE_PORT": "0", "TMPDIR": str(temporary)}
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        Worker.start(tmp_path / "worker", phone=phone, settings=settings, command="up") as worker,
    ):

        async def named() -> re.Match[str] | None:
            return LINK.search(worker.child.text())

        link = await until("the link under the code", named, seconds=SEEN_SECONDS, tell=worker.child.tail)
        async with httpx.AsyncClient(base_url=link[1], timeout=60, trust_env=False) as http:
            site = Site(app=None, address=link[1], session=session, http=http)  # type: ignore[arg-type]

            async def opened() -> bool:
                try:
                    return (await http.get(link[2])).status_code == 303
                except httpx.TransportError:
                    return False

            await until("the console behind the link", opened, seconds=SEEN_SECONDS, tell=worker.child.tail)
            await built(site)
        (folder,) = temporary.glob("wa-town-*")
        below = worker.processes()
        (town,) = [pid for pid in below if b"demo.town" in command(pid)]
        theirs = {town, *descendants(town)}
        assert len(theirs) >= 4
        end(worker, town)

        async def gone() -> bool:
            return not folder.exists() and not any(alive(pid) for pid in theirs)

        await until("the end of the town", gone, seconds=SEEN_SECONDS, tell=worker.child.tail)

"""The console in a real browser: linked, a group switched on, a message seen; and what must not happen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.phone import Media, VirtualPhone
from testkit.waiting import until
from testkit.worker import Worker
from tests.console.browser import chromium, read_qr, window
from tests.console.rows import connected, dropped, ids, recent, show, store_file, vote, with_file
from tests.console.site import TOKEN, served
from tests.console.test_pages import HOSTILE, list_members
from tests.integration.database import GROUP, table, writer
from worker.ingest.parts import Item
from worker.store import GroupChange, Store
from worker.store.embedded import Endpoint

SEEDS = Path(__file__).resolve().parents[2] / "seeds" / "media"
PAGES = (
    *("link", "groups", "groups/{group}", "groups/{group}?span=month", "groups/{group}/gallery"),
    *("groups/{group}/members", "coverage"),
    *("feed", "messages/{message}", "search?q=a", "health", "health?span=month", "link/disconnect"),
)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Any]:
    async with chromium() as running:
        yield running


async def test_from_the_code_on_the_page_to_a_message_on_the_page(
    browser: Any, supabase: EmbeddedSupabase, tmp_path: Path, session: str
) -> None:
    """The phone reads the code from a screenshot; everything else is clicked and seen in the browser."""
    settings = {**supabase.worker_env, "WORKER_SESSION": session}
    async with await VirtualPhone.start(tmp_path) as phone:
        market = await phone.group("Market", ("Ana", "Ben"), "lid")
        async with (
            Worker.start(tmp_path / "worker", phone=phone, settings=settings) as worker,
            served(supabase.endpoint, session) as site,
            window(browser, site) as seen,
        ):
            await worker.ready()
            await seen.log_in()
            await seen.open("link")
            await seen.page.wait_for_selector("svg.qr")

            async def code() -> str | None:
                return await read_qr(browser, await seen.page.screenshot())

            await phone.scan(await until("a code that can be read from the page", code, seconds=60))
            await seen.see("Connected as")
            assert await seen.page.locator("svg.qr").count() == 0, "no code though linked"

            await seen.page.get_by_role("link", name="Choose groups").click()
            row = seen.page.get_by_role("row").filter(has_text="Market")

            async def listed() -> bool:
                await seen.page.reload()
                return bool(await row.count())

            await until("the group on the page", listed, seconds=60)
            switch = row.get_by_role("switch")
            await switch.click()
            await seen.page.wait_for_selector("[role=switch][aria-checked=true]")
            await seen.open("feed")
            await seen.see("Nothing stored yet")

            async def arrived() -> bool:
                await phone.send("Ana", market.id, "Are you *there*?")
                return bool(await seen.page.locator("article strong").count())

            await until("a message on the page that was open", arrived, seconds=60)
            await seen.see("Are you there?")
            voice = Media(
                kind="voice", data=(SEEDS / "voice.ogg").read_bytes(), mime="audio/ogg; codecs=opus", seconds=3
            )
            await phone.send("Ben", market.id, media=voice)
            await seen.page.wait_for_selector("audio")
            assert await seen.page.evaluate("async () => { await document.querySelector('audio').play(); return true }")


@pytest.mark.timeout(300)
async def test_a_town_is_played_with_by_somebody_without_a_phone(
    browser: Any, embedded: Endpoint, session: str
) -> None:
    """Offered, built, linked, written to, its worker killed, and nothing lost: all by clicks."""
    async with served(embedded, session) as site, window(browser, site) as seen:

        async def click(name: str, role: str = "button") -> None:
            await seen.page.get_by_role(role, name=name).first.click()

        async def send(text: str) -> None:
            await seen.page.get_by_label("Text, or the picture").fill(text)
            await click("Send")

        await seen.log_in()
        await seen.open("link")
        await click("Try it with the virtual phone")
        await seen.see("Make an empty database")
        assert await seen.serious() == []
        await seen.page.wait_for_url("**/s/town-*/link", timeout=120_000)
        assert await seen.page.locator("svg.qr").count(), "entered when the worker shows its code"
        assert await seen.serious() == []
        await click("Scan it with the virtual phone")
        await seen.see("Connected as")
        await click("Choose groups", "link")
        row = seen.page.get_by_role("row").filter(has_text="Saturday market")

        await row.get_by_role("switch").click()
        await seen.see("1 of 3 stored")
        await click("Messages", "link")

        async def arrived() -> bool:
            await send("Two *crates*")
            return bool(await seen.page.locator("article strong").count())

        await until("a message on the page", arrived, seconds=60)
        await click("Virtual phone", "link")
        assert await seen.serious() == []
        start = seen.page.get_by_role("button", name="Start it again")
        assert await start.count() == 0, "it runs"
        await click("Kill it")
        await seen.see("What is sent waits")
        assert await seen.page.locator("#pill").inner_text() == "Worker killed", "though its lease has not ended"
        assert await seen.page.get_by_role("button", name="Kill it").count() == 0
        await send("while nobody listens")
        await seen.page.get_by_role("cell", name="waiting").first.wait_for()
        assert await seen.serious() == []
        await start.click()
        await seen.see("Nothing was lost. Waited for a worker: 1; stored: 1.")
        assert await seen.page.get_by_role("cell", name="waiting").count() == 0
        await seen.page.locator("#pill", has_text="Connected").wait_for()
        counts = seen.page.locator("[data-group=market] [data-count]")

        async def acknowledged() -> bool:
            sent, receipted, stored = [int(text) for text in await counts.all_text_contents()]
            return sent == receipted and stored > 1

        await until("a receipt for everything, which comes after it is stored", acknowledged, seconds=60)
        await click("Stop and forget it")
        await seen.see("The town is gone")
        assert site.app.console.towns.present is None
        await seen.page.go_back()
        await seen.see("That town is gone")
        await seen.page.wait_for_url(f"**{site.base}/link?*")


@pytest.mark.timeout(300)
async def test_a_town_on_a_phone_and_in_two_browsers(browser: Any, embedded: Endpoint, session: str) -> None:
    small = {"viewport": {"width": 375, "height": 720}}
    async with (
        served(embedded, session) as site,
        window(browser, site, **small) as phone,
        window(browser, site) as other,
    ):

        async def fits(what: str) -> None:
            wide = await phone.page.evaluate("() => document.documentElement.scrollWidth - 375")
            assert wide <= 0, what
            await phone.page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
            assert await phone.page.locator(".top .tag").is_visible(), f"{what}: no mark in sight that this is a town"

        for seen in (phone, other):
            await seen.log_in()
            await seen.open("town")
        await phone.page.get_by_role("button", name="Try it with the virtual phone").click()
        await other.open("link")
        await other.page.get_by_role("link", name="The town is starting").click()
        for seen in (phone, other):
            await seen.page.wait_for_selector("svg.qr", timeout=120_000)
        scan, new = [
            await phone.page.get_by_role("button", name=name).bounding_box() for name in ("Scan it", "New code")
        ]
        assert new["y"] > scan["y"] + scan["height"], "one button touches the other"
        await phone.page.get_by_role("link", name="Virtual phone").click()
        await phone.see("This phone is not linked yet")
        await fits("not linked")
        await other.page.get_by_role("button", name="Scan it").click()
        await other.see("Connected as")
        await other.page.get_by_role("link", name="Choose groups").click()
        await other.page.get_by_role("row").filter(has_text="Loading crew").get_by_role("switch").click()
        await other.page.wait_for_selector("[role=switch][aria-checked=true]")
        await phone.page.reload()
        await phone.page.select_option("#who", label="Ben in Loading crew")
        await phone.page.fill("#text", "x" * 200)
        await phone.page.get_by_role("button", name="Send", exact=True).click()
        await phone.page.get_by_role("cell", name="stored, then acknowledged").wait_for()
        assert await phone.page.locator("#who").input_value() == "ben crew", "who wrote last"
        await fits("virtual phone")
        await phone.page.get_by_role("link", name="Messages").click()
        last = await phone.page.locator("article").last.bounding_box()
        form = await phone.page.locator(".compose").bounding_box()
        assert form["y"] > last["y"] + last["height"], "the form touches the last message"
        await fits("messages")

        await other.page.get_by_role("link", name="Virtual phone").click()
        await other.page.get_by_role("button", name="Kill it").click()
        await phone.page.locator("#pill", has_text="Worker killed").wait_for()
        await phone.page.get_by_role("button", name="Send as a picture").click()
        await phone.page.wait_for_load_state()
        await other.see("Waited for a worker: 1.")
        await other.page.get_by_role("button", name="Stop and forget it").click()
        await other.see("The town is gone")
        await phone.see("That town is gone")
        await phone.page.wait_for_url(f"**{site.base}/link?*")


async def test_a_part_that_is_read_anew_waits_for_its_last_reading(
    browser: Any, embedded: Endpoint, session: str
) -> None:
    page = '<div data-refresh="/part"></div><script src="/static/console.js" defer></script>'
    held: list[Any] = []
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.page.clock.install()
        await seen.page.route("**/whole", lambda route: route.fulfill(body=page, content_type="text/html"))
        await seen.page.route("**/part", lambda route: held.append(route))
        await seen.page.goto(f"{site.address}/whole")

        async def asked() -> bool:
            await seen.page.clock.run_for(1000)
            return bool(held)

        await until("the first reading", asked, seconds=60)
        await seen.page.clock.run_for(3000)
        assert len(held) == 1
        await held.pop().fulfill(body="<p>Here it is</p>")
        await seen.see("Here it is")
        await until("the next reading", asked, seconds=60)


async def test_what_strangers_write_never_runs(browser: Any, embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    card = {"contacts": [{"name": HOSTILE, "phones": [{"number": HOSTILE}]}]}
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    await held.commit(
        messages=[
            recent("text", text=HOSTILE, push_name=HOSTILE),
            recent("poll", kind="poll", text=f"{HOSTILE}\n{HOSTILE}"),
            recent("card", kind="contact", text=HOSTILE, content=card),
            with_file("drawing", "document", f"{HOSTILE}.svg"),
        ]
    )
    await store_file(store, held, drawing, "image/svg+xml", "svg")
    await store.upsert_groups(session, held.fence, [GroupChange(wa_group_id=GROUP, name=HOSTILE)], complete=False)
    await connected(store, held, HOSTILE)
    await list_members(store, held, 2)
    known = await ids(store, session)
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        for path in PAGES:
            await seen.open(path.format(group=group, message=known["text"]))
            await seen.page.wait_for_load_state("load")
        await seen.open("feed")
        await held.commit(messages=[recent("later", 0, text=f"live {HOSTILE}", push_name=HOSTILE)])
        await seen.see("live <img")
        async with seen.page.expect_download() as download:
            await seen.page.locator("a.file").click()
        assert (await download.value).suggested_filename.endswith(".svg")
        assert await seen.page.evaluate("() => document.querySelectorAll('img[src=x], article script').length") == 0


async def test_changes_show_in_an_open_page(browser: Any, embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await connected(store, held)
    await held.commit(messages=[recent("a", text="first words")])
    message = (await ids(store, session))["a"]
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("feed")
        await seen.see("first words")
        await table(store, "messages").update({"text": "better words"}).eq("id", message).execute()
        await seen.see("better words")
        assert await seen.page.locator("article").count() == 1
        await show(store, held, status="disconnected", state="reconnecting", say="The connection was lost.")
        await seen.see("Reconnecting")
        await store.lease_release(session, "worker-1", held.fence)
        await seen.see("No worker is running")
        assert await seen.page.locator(".banner").count() == 1


async def test_votes_count_on_a_page_that_is_open(browser: Any, embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await connected(store, held)
    await held.commit(messages=[recent("poll", kind="poll", text="When?\nFriday\nSaturday")])
    poll = (await ids(store, session))["poll"]
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("feed")
        await seen.see("No votes that could be decrypted yet")
        await held.commit(messages=[vote(poll, "ben", "Friday", age_seconds=0)])
        await seen.see("People who voted: 1")
        await seen.see("Voted for Friday")
        assert await seen.page.locator(f"#m{poll} .number").all_text_contents() == ["1", "0"]


async def test_pictures_are_opened_walked_through_and_closed_by_keys(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    """An album of two, and a picture that the browser cannot show."""
    held = await writer(store, session)
    await connected(store, held)
    await held.commit(messages=[recent("album", 90, kind="album", text=None)])
    hills = (SEEDS / "hills.jpg").read_bytes()
    for name, age, content in (("one", 80, hills), ("two", 70, hills + b" "), ("broken", 60, b"no picture")):
        await held.commit(messages=[with_file(name, "image", None, age) | {"text": f"caption of {name}"}])
        await store_file(store, held, content, "image/jpeg", "jpg")
    known = await ids(store, session)
    for name in ("one", "two"):
        await table(store, "messages").update({"album_id": known["album"]}).eq("id", known[name]).execute()
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("feed")
        first, second = (seen.page.locator(f"#m{known['album']} .album a.picture").nth(n) for n in (0, 1))
        await first.wait_for()
        await seen.page.wait_for_load_state("domcontentloaded")
        await first.press("Enter")
        viewer = seen.page.get_by_role("dialog", name="Picture")
        await viewer.get_by_text("caption of one").wait_for()
        assert await viewer.get_by_role("button", name="Previous").is_disabled()
        await seen.page.keyboard.press("ArrowLeft")  # there is none
        await seen.page.keyboard.press("ArrowRight")
        await viewer.get_by_text("caption of two").wait_for()
        assert (await viewer.get_by_role("img").get_attribute("src") or "").endswith(f"/messages/{known['two']}/file")
        await viewer.get_by_role("button", name="Next").click()
        await viewer.get_by_text("The picture could not be loaded").wait_for()
        assert await seen.serious() == []
        assert await viewer.get_by_role("button", name="Next").is_disabled()
        await seen.page.keyboard.press("ArrowLeft")
        await viewer.get_by_role("img").wait_for()
        await seen.page.keyboard.press("Escape")
        await viewer.wait_for(state="hidden")
        assert await second.evaluate("(link) => link === document.activeElement"), "where the viewer was left"

        await seen.open(f"groups/{group}/gallery")
        await seen.page.get_by_role("link", name="Open the picture").first.click()
        await viewer.get_by_text("1 / 3").wait_for()
        await viewer.get_by_role("link", name="Go to the message").click()
        await seen.page.wait_for_url(f"**/messages/{known['broken']}")


async def test_what_was_given_up_or_refused_is_tried_again_by_a_click(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await connected(store, held)
    listed = Item("message", recent("listed", text="kept although refused")).as_base64("22P05", "no", "waiting")
    await held.commit(messages=[with_file("f", "image")], refused=[listed])
    (job,) = (await store.media_claim("tests", 10, 60.0, session)).jobs
    await store.media_abandon(job.id, "tests", "failed", "MEDIA_FAILED", "no answer")
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("health")
        await seen.page.get_by_role("button", name="Try again", exact=True).click()
        await seen.see("These files will be tried again")
        await seen.see("0 running, 1 due, 0 waiting")
        await seen.page.get_by_role("button", name="Take back").click()
        await seen.see("Taken back: it is stored now")
        await seen.open("feed")
        await seen.see("kept although refused")


async def test_a_chart_is_also_a_table_in_the_viewer_s_time(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await connected(store, held)
    await held.commit(messages=[recent("a", 7200), recent("b", 7200)])
    far = {"timezone_id": "Pacific/Kiritimati"}
    async with served(embedded, session) as site, window(browser, site, **far) as seen:
        await seen.log_in()
        await seen.open("health")
        await seen.page.get_by_role("img", name="Messages: 2 in all").wait_for()
        chart = seen.page.locator("#activity")
        await chart.get_by_text("As a table").click()
        row = chart.locator("tbody tr")
        assert await row.locator("td").all_text_contents() == ["2"]
        shown, utc = await row.locator("time").evaluate("(time) => [time.textContent, time.title]")
        assert shown != utc.removesuffix(" UTC")
        assert utc.endswith(" UTC")
        await chart.get_by_role("link", name="30 days").click()
        await seen.page.get_by_role("img", name="at most 2 in 6 hours").wait_for()


async def test_a_database_that_is_away_is_said_once_and_waited_for(
    browser: Any, store: Store, tmp_path: Path, session: str
) -> None:
    """One banner, whatever fails behind it; pages come back by themselves."""
    async with (
        await EmbeddedSupabase.start(tmp_path / "own") as own,
        served(own.endpoint, session) as site,
        window(browser, site) as seen,
    ):
        await seen.log_in()
        await seen.open("feed")
        await seen.see("Nothing stored yet")
        await own.child.stop()
        await seen.see("The database does not answer")
        assert await seen.page.locator(".banner").count() == 1
        await seen.open("groups")
        await seen.see("this page returns by itself")
        async with await EmbeddedSupabase.start(tmp_path / "own"):
            await seen.see("No groups yet")
            assert await seen.page.locator(".banner.bad").count() == 0


async def test_a_folder_without_a_database_says_what_to_start_and_goes_on(
    browser: Any, tmp_path: Path, session: str
) -> None:
    async with served(None, session, worker_data_dir=tmp_path) as site, window(browser, site) as seen:
        await seen.log_in()
        for path in ("feed", "link"):
            await seen.open(path)
            await seen.page.get_by_role("heading", name="No database is running").wait_for()
            await seen.see("wa-worker up")
            assert await seen.page.locator(".banner").count() == 1
        async with await EmbeddedSupabase.start(tmp_path):
            await seen.see("No worker has ever served this account")
            assert await seen.page.locator(".banner").count() == 0


async def test_a_database_that_has_not_started_yet_is_no_error(browser: Any, tmp_path: Path, session: str) -> None:
    """What somebody sees who opens the link that `wa-worker up` prints before the database is there."""
    async with (
        served(None, session, beside=True, worker_data_dir=tmp_path) as site,
        window(browser, site) as seen,
    ):
        await seen.page.goto(f"{site.address}/login")
        await seen.page.fill("#token", TOKEN)
        await seen.page.click("form[action='/login'] button")
        await seen.page.get_by_role("heading", name="The database is starting").wait_for()
        assert await seen.page.locator(".bad").count() == 0
        assert await seen.serious() == []
        async with await EmbeddedSupabase.start(tmp_path):
            await seen.page.wait_for_url(f"**{site.base}/link")


async def test_wrong_tokens_are_refused_on_the_page(browser: Any, embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site, window(browser, site) as seen:
        for _ in range(5):
            await seen.page.goto(f"{site.address}/login")
            await seen.page.fill("#token", "guessed-by-somebody")
            await seen.page.click("form[action='/login'] button")
            await seen.see("This is not the token")
        await seen.page.fill("#token", "guessed-by-somebody")
        await seen.page.click("form[action='/login'] button")
        await seen.see("Too many attempts")


async def test_a_link_on_another_site_opens_the_page(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    """Browsers leave a strict cookie out of such a request; who is logged in is not to log in again."""
    await writer(store, session)
    async with served(embedded, session) as site:
        context = await browser.new_context()
        page = await context.new_page()
        other = site.address.replace("127.0.0.1", "localhost")
        await page.goto(f"{other}/login")
        await page.evaluate("(url) => { location.href = url }", site.app.console.link())
        await page.wait_for_url(f"{site.address}{site.base}/link")
        await page.goto(f"{other}/login")
        await page.evaluate("(url) => { location.href = url }", f"{site.address}{site.base}/groups?q=x")
        await page.get_by_text("Logged in as").wait_for()
        assert page.url == f"{site.address}{site.base}/groups?q=x"
        await page.click("form[action='/logout'] button")
        await page.wait_for_url(f"{site.address}/login")
        await page.goto(f"{other}/login")
        await page.evaluate("(url) => { location.href = url }", f"{site.address}{site.base}/groups")
        await page.wait_for_url(f"{site.address}/login")
        await context.close()


async def test_a_read_only_console_offers_nothing_to_change(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await connected(store, held)
    async with served(embedded, session, worker_console_read_only=True) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("groups")
        assert await seen.page.get_by_role("switch").first.is_disabled()
        assert await seen.page.get_by_role("button", name="Fetch the list now").count() == 0
        await seen.open("link")
        await seen.see("Connected as")
        assert await seen.page.get_by_role("link", name="Unlink this account").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_serious(
    browser: Any, embedded: Endpoint, store: Store, session: str, theme: str
) -> None:
    held = await writer(store, session)
    people = [recent(f"p{n}", 90, sender=f"{n}@lid", push_name=f"Person {n}", text="a *b* `c`\n> d") for n in range(20)]
    poll = recent("poll", kind="poll", text="When?\nFriday\nSaturday")
    await held.commit(messages=[*people, poll, with_file("f", "image")], discards={"too_old": 3}, dropped=[dropped()])
    await store_file(store, held, (SEEDS / "hills.jpg").read_bytes(), "image/jpeg", "jpg")
    await connected(store, held)
    await list_members(store, held, 20, gone=2)
    known = await ids(store, session)
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    async with served(embedded, session) as site, window(browser, site, color_scheme=theme) as seen:
        await seen.page.goto(f"{site.address}/login")
        assert await seen.serious() == [], "login"
        await seen.log_in()
        for path in PAGES:
            await seen.open(path.format(group=group, message=known["f"]))
            await seen.page.evaluate(
                "() => { for (const each of document.querySelectorAll('details')) each.open = true }"
            )
            assert await seen.serious() == [], path
        for path in ("/sessions", "/nothing-here"):
            await seen.page.goto(f"{site.address}{path}")
            assert await seen.serious() == [], path


async def test_on_a_phone_nothing_is_wider_than_the_screen(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    name = "Ein sehr langer Name " * 10
    words = "x" * 400 + " שלום עולם mixed مرحبا " + "https://example.org/" + "y" * 300
    listed = Item("message", recent("listed")).as_base64("22P05", "unsupported Unicode escape sequence", "waiting")
    discards = {"too_old": 3, "reaction_unmatched": 3}
    poll = recent("poll", kind="poll", text=f"When?\n{words}")
    long = [recent("long", text=words, push_name=name[:250]), poll]
    await held.commit(messages=long, discards=discards, refused=[listed])
    await held.commit(messages=[vote((await ids(store, session))["poll"], "ben", words)])
    await store.upsert_groups(session, held.fence, [GroupChange(wa_group_id=GROUP, name=name[:250])], complete=False)
    await connected(store, held, name[:250])
    await list_members(store, held, 20, gone=2)
    known = await ids(store, session)
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    small = {"viewport": {"width": 360, "height": 720}}
    async with served(embedded, session) as site, window(browser, site, **small) as seen:
        await seen.log_in()
        for path in PAGES:
            await seen.open(path.format(group=group, message=known["long"]))
            wide = await seen.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, path


async def test_one_of_a_thousand_members_is_found(browser: Any, embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await connected(store, held)
    await held.commit(messages=[recent("a", sender="p900@lid", push_name="Zenobia")])
    await list_members(store, held, 1024)
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open(f"groups/{group}")
        await seen.page.get_by_role("link", name="All members").click()
        rows = seen.page.locator(".people tbody tr:visible")
        await seen.see("1,024 in the group.")
        assert await rows.count() == 1024
        await seen.page.get_by_label("Find a person").fill("zeno")
        await seen.page.wait_for_function(
            "() => document.querySelectorAll('.people tbody tr:not([hidden])').length === 1"
        )
        assert "Zenobia" in (await rows.first.text_content() or "")


async def test_older_messages_come_on_scrolling_up(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent(f"m{n}", 1000 - 5 * n, text=f"number {n} of all") for n in range(120)])
    await connected(store, held)
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("feed")
        await seen.see("number 119 of all")

        async def scrolled() -> bool:
            await seen.page.evaluate("() => window.scrollTo(0, 1)")
            return bool(await seen.page.get_by_text("number 0 of all").count())

        await until("the first message on the page", scrolled, seconds=60)
        assert await seen.page.locator("article").count() == 120


async def test_newer_messages_come_on_scrolling_down(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent(f"m{n}", 1000 - 5 * n, text=f"number {n} of all") for n in range(160)])
    await connected(store, held)
    known = await ids(store, session)
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open(f"messages/{known['m10']}")
        await seen.see("number 10 of all")

        async def scrolled() -> bool:
            await seen.page.evaluate("() => window.scrollTo(0, document.documentElement.scrollHeight)")
            return bool(await seen.page.get_by_text("number 159 of all").count())

        await until("the last message on the page", scrolled, seconds=60)
        assert await seen.page.locator("article").count() == 160
        assert await seen.page.get_by_role("link", name="Newer messages").count() == 0


async def test_a_picture_stays_in_its_album_when_many_messages_follow(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    """The album is then older than what the server watches, but its pictures are not yet."""
    held = await writer(store, session)
    await connected(store, held)
    pictures = [f"p{n}" for n in range(30)]
    album = [recent("album", 900, kind="album", text=None), *(recent(name, 890, kind="image") for name in pictures)]
    await held.commit(messages=album)
    known = await ids(store, session)
    parts = [known[name] for name in pictures]
    await table(store, "messages").update({"album_id": known["album"]}).in_("id", parts).execute()
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("feed")
        for batch in range(3):
            await held.commit(messages=[recent(f"{batch}-{n}", 800 - 100 * batch - n) for n in range(15)])
            await seen.see(f"text of {batch}-14")
        await table(store, "messages").update({"text": "a new caption"}).eq("id", parts[-1]).execute()
        await held.commit(messages=[recent("last", 1)])
        await seen.see("text of last")
        assert await seen.page.locator(f"#m{parts[-1]}").count() == 1
        assert await seen.page.locator("article").count() == 47


async def test_a_picture_of_an_album_and_the_start_of_a_long_text_are_in_sight(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await connected(store, held)
    album = [recent("album", 900, kind="album", text=None)]
    album += [recent(f"p{n}", 890, kind="image", text=f"picture {n}") for n in range(30)]
    long = recent("long", 800, text="The beginning. " + "and so on " * 6_000)
    await held.commit(messages=[*album, long, *(recent(f"m{n}", 700 - n) for n in range(20))])
    known = await ids(store, session)
    parts = [known[f"p{n}"] for n in range(30)]
    await table(store, "messages").update({"album_id": known["album"]}).in_("id", parts).execute()
    small = {"viewport": {"width": 360, "height": 640}}
    for size in (small, {}):
        async with served(embedded, session) as site, window(browser, site, **size) as seen:
            await seen.log_in()
            for name, words in (("p29", "picture 29"), ("p0", "picture 0"), ("long", "The beginning")):
                await seen.open(f"messages/{known[name]}")
                await seen.see(words)
                at = "(text) => { const { top } = text.getBoundingClientRect(); return top > 50 && top < innerHeight }"
                assert await seen.page.locator(".marked .text", has_text=words).first.evaluate(at), name
                columns = "(album) => new Set([...album.children].map((part) => part.offsetLeft)).size"
                assert await seen.page.locator(".album").evaluate(columns) > 1, "pictures side by side"


async def test_a_day_begins_when_it_began_for_the_viewer(browser: Any, embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site, window(browser, site, timezone_id="Europe/Berlin") as seen:
        await seen.log_in()
        await seen.open("feed")
        await seen.page.wait_for_load_state("load")
        for day, minutes in (("2026-07-01", "-120"), ("2026-12-01", "-60")):
            await seen.page.get_by_label("From this day").fill(day)
            assert await seen.page.locator("[name=offset]").input_value() == minutes


async def test_the_search_is_asked_and_walked_by_keys(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    words = [f"the fox number {n} jumps" if n % 30 == 0 else f"number {n}" for n in range(120)]
    await held.commit(messages=[recent(f"m{n}", 1000 - 5 * n, text=text) for n, text in enumerate(words)])
    await store.prune(session, stanza_seconds=3600)
    await connected(store, held)
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("feed")
        await seen.see("number 119")
        await seen.press("/")
        await seen.page.wait_for_selector("#words:focus")
        await seen.page.keyboard.type("jumps FO")
        await seen.press("Enter")
        await seen.see("number 90 jumps")
        assert await seen.page.locator("a.result").count() == 4
        assert await seen.page.locator("mark").first.text_content() == "fox"
        await seen.press("Escape")
        await seen.page.evaluate("() => document.activeElement.blur()")
        await seen.press("j", "j", "Enter")
        await seen.page.wait_for_selector("article.marked")
        assert "number 60 jumps" in (await seen.page.locator("article.marked").text_content() or "")
        await seen.see("number 61")

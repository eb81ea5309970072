"""What holds for every page, in a real browser: wide and on a phone, light and dark, English and German, large text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.console.browser import chromium, read_qr, window
from tests.console.rows import connected, dropped, ids, recent, show, store_file, vote, with_file
from tests.console.site import served
from tests.console.test_browser import PAGES, SEEDS
from tests.console.test_pages import list_members
from tests.integration.database import GROUP, table, writer
from worker.ingest.parts import Item
from worker.store import GroupChange, Store
from worker.store.embedded import Endpoint

LONG = "Nachbarschaftshilfe und Wochenmarktgemeinschaft Oberwiesenthal-Unterfranken "
MIXED = "x" * 300 + " שלום עולם mixed مرحبا " + "https://example.org/" + "y" * 300
DAY = 86_400

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 720}
# 200 % zoom of a window 1,280 wide leaves 640.
VIEWS: Mapping[str, Mapping[str, Any]] = {
    "wide, light": {"viewport": WIDE, "color_scheme": "light"},
    "phone, dark, German": {"viewport": PHONE, "color_scheme": "dark", "locale": "de-DE"},
    "zoomed": {"viewport": {"width": 640, "height": 400}},
    "large text": {"viewport": WIDE, "locale": "de-DE"},
}

FAULTS = r"""async () => {
  const found = []
  const seen = (each) => each.checkVisibility({ visibilityProperty: true }) && !each.closest('.unseen, .skip')
  const told = (each) => `${each.localName} "${(each.textContent || each.name || each.id).trim().slice(0, 40)}"`

  const sideways = document.documentElement.scrollWidth - innerWidth
  if (sideways > 0) found.push(`${sideways} px wider than the window`)

  const levels = [...document.querySelectorAll('h1, h2, h3')].map((each) => Number(each.localName[1]))
  if (levels.filter((level) => level === 1).length !== 1) found.push('not one h1')
  if (levels.some((level, place) => level > (levels[place - 1] ?? 0) + 1)) found.push(`headings skip: ${levels}`)
  const name = document.querySelector('h1').textContent.trim()
  if (!document.title.includes(name)) found.push(`the title does not say ${name}`)

  const all = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary')]
  for (const each of all.filter(seen)) {
    const { width, height } = each.getBoundingClientRect()
    const inText = each.localName === 'a' && each.closest('p:not(.back), .text, .do')
    if (Math.min(width, height) < 23.9 && !inText) found.push(`${told(each)} is ${width} x ${height}`)
    if (each.localName === 'button' && each.scrollWidth > each.clientWidth + 1) found.push(`${told(each)} is cut`)
    if (each.disabled) continue
    each.focus()
    const { outlineStyle, outlineWidth } = getComputedStyle(each)
    if (outlineStyle === 'none' || outlineWidth === '0px') found.push(`the focus of ${told(each)} is not seen`)
  }
  for (const each of document.querySelectorAll('.list')) {
    const cells = [...each.querySelectorAll('tbody td:not(:first-child)')]
    const labelled = cells.every((cell) => cell.dataset.label || !cell.textContent.trim() || cell.querySelector('form'))
    if (seen(each) && !seen(each.tHead) && !labelled) found.push('a table without its headers')
  }
  return [...new Set(found)]
}"""

# One line before the first message of each day, and no other.
DATED = """() => {
  let day = ''
  return [...document.querySelectorAll('#feed > article')].every((article) => {
    const above = article.previousElementSibling?.matches('.day') ?? false
    const at = new Date(article.querySelector('.at time').dateTime).toDateString()
    const isFirst = at !== day
    day = at
    return isFirst === above
  })
}"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Any]:
    async with chromium() as running:
        yield running


async def fill(store: Store, session: str) -> list[str]:
    """A bit of everything, with long and mixed names; the pages that show it."""
    held = await writer(store, session)
    listed = Item("message", recent("listed")).as_base64("22P05", "unsupported Unicode escape sequence", "waiting")
    people = [
        recent(f"p{place}", DAY * place + 90, sender=f"p{place}@lid", push_name=name, text=MIXED)
        for place, name in enumerate(("Yael יעל", "محمد", LONG, "Ben"))
    ]
    poll = recent("poll", kind="poll", text=f"When?\n{MIXED}")
    discards = {"too_old": 3, "reaction_unmatched": 12_345}
    await held.commit(messages=[*people, poll], discards=discards, dropped=[dropped()], refused=[listed])
    await held.commit(messages=[vote((await ids(store, session))["poll"], "ben", MIXED), with_file("bad", "image")])
    (job,) = (await store.media_claim("tests", 10, 60.0, session)).jobs
    await store.media_abandon(job.id, "tests", "failed", "MEDIA_FAILED", "no answer from mmg.whatsapp.net")
    for name, kind, mime in (("hills.jpg", "image", "image/jpeg"), ("voice.ogg", "voice", "audio/ogg")):
        await held.commit(messages=[with_file(name, kind)])
        await store_file(store, held, (SEEDS / name).read_bytes(), mime, name.rpartition(".")[2])
    await store.upsert_groups(session, held.fence, [GroupChange(wa_group_id=GROUP, name=LONG)], complete=False)
    await list_members(store, held, 20, gone=2)
    await connected(store, held, LONG)
    known = await ids(store, session)
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    pages = [path.format(group=group, message=known["p2"]) for path in PAGES]
    return [f"/s/{session}/{path}" for path in (*pages, f"feed?group={group}", "search?q=zzz")] + [
        *("/sessions", "/nothing-here", "/s/nobody/link", "/s/nobody/groups", "/s/nobody/feed", "/s/nobody/health")
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("view", VIEWS)
async def test_no_page_is_too_wide_or_hides_what_it_offers(
    browser: Any, embedded: Endpoint, store: Store, session: str, view: str
) -> None:
    pages = await fill(store, session)
    found: dict[str, list[str]] = {}
    async with served(embedded, session) as site, window(browser, site, **VIEWS[view]) as seen:
        for path in ("/login", *pages):
            await seen.page.goto(f"{site.address}{path}")
            await seen.press("Tab")  # as by somebody who uses the keyboard: then the focus is to be seen
            if view == "large text":
                await seen.page.evaluate("() => { document.documentElement.style.fontSize = '200%' }")
            await seen.page.evaluate(
                "() => document.querySelectorAll('details').forEach((each) => { each.open = true })"
            )
            found[path] = await seen.page.evaluate(FAULTS) + list(await seen.serious())
            if path == "/login":
                await seen.log_in()
    assert {path: faults for path, faults in found.items() if faults} == {}


async def test_no_two_pages_have_one_title(browser: Any, embedded: Endpoint, store: Store, session: str) -> None:
    pages = [path for path in await fill(store, session) if "span=" not in path and "nobody" not in path]
    titles: dict[str, str] = {}
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        for path in pages:
            await seen.page.goto(f"{site.address}{path}")
            titles[path] = await seen.page.title()
    assert len(set(titles.values())) == len(titles), titles


async def test_each_day_has_its_date_above_it_wherever_messages_come_in(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await connected(store, held)
    await held.commit(messages=[recent(f"m{n}", 9 * DAY - n * 6_000, text=f"number {n} of all") for n in range(120)])
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    far = {"timezone_id": "Pacific/Kiritimati", "locale": "de-DE"}

    async def is_dated(seen: Any) -> bool:
        return bool(await seen.page.evaluate(DATED))

    async with served(embedded, session) as site, window(browser, site, **far) as seen:
        await seen.log_in()
        await seen.open(f"feed?group={group}")
        await seen.see("number 119 of all")
        assert await is_dated(seen)
        while await seen.page.locator("article").count() < 120:
            await seen.page.evaluate("() => window.scrollTo(0, 1)")
            await seen.page.wait_for_timeout(50)
        assert await is_dated(seen)
        assert await seen.page.locator(".day").count() > 7
        await held.commit(messages=[recent("now", 0, text="just now")])
        await seen.see("just now")
        await seen.page.get_by_text("Heute", exact=True).wait_for()
        assert await is_dated(seen)
        await seen.page.locator("#came", has_text="Neue Nachrichten: 1").wait_for(state="attached")


async def test_the_focus_stays_when_a_part_is_drawn_anew(
    browser: Any, embedded: Endpoint, store: Store, session: str
) -> None:
    """And a voice note goes on while a reaction to it comes."""
    held = await writer(store, session)
    await held.commit(messages=[recent("a", 300), with_file("voice", "voice")])
    await store_file(store, held, (SEEDS / "voice.ogg").read_bytes(), "audio/ogg", "ogg")
    await connected(store, held)
    known = await ids(store, session)
    focused = "() => document.activeElement.closest('article')?.id + ' ' + document.activeElement.localName"
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("feed")
        await seen.press("j", "k")
        assert await seen.page.evaluate(focused) == f"m{known['a']} article"
        outline = "() => getComputedStyle(document.activeElement).outlineStyle"
        assert await seen.page.evaluate(outline) != "none", "where j and k have led"
        await table(store, "messages").update({"text": "other words"}).eq("id", known["a"]).execute()
        await seen.see("other words")
        assert await seen.page.evaluate(focused) == f"m{known['a']} article"
        await seen.page.locator("audio").evaluate("async (audio) => { audio.loop = true; await audio.play() }")
        await table(store, "messages").update({"text": "said in words"}).eq("id", known["voice"]).execute()
        await seen.see("said in words")
        assert not await seen.page.locator("audio").evaluate("(audio) => audio.paused")

        await show(store, held, status="disconnected", state="idle", say="Nobody scanned it.")
        await seen.open("link")
        await seen.page.get_by_role("button", name="New code").focus()
        await show(store, held, status="connecting", state="connecting", say="Connecting.")
        await seen.see("Connecting to WhatsApp")
        assert await seen.page.evaluate("() => document.activeElement.localName") == "h2"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_code_is_read_and_a_switch_seen_in_forced_colours(
    browser: Any, embedded: Endpoint, store: Store, session: str, scheme: str
) -> None:
    held = await writer(store, session)
    code = {"qr": "2@this,code,links,nothing" * 8, "expires_at": datetime.now(UTC) + timedelta(seconds=58)}
    await show(store, held, status="connecting", state="waiting_for_scan", say="Scan it.", **code)
    wishes = {"forced_colors": "active", "color_scheme": scheme, "viewport": PHONE}
    async with served(embedded, session) as site, window(browser, site, **wishes) as seen:
        await seen.log_in()
        await seen.open("link")
        await seen.page.wait_for_selector("svg.qr")
        assert await read_qr(browser, await seen.page.screenshot(full_page=True)) == code["qr"]
        await seen.open("groups")
        knob = "([knob]) => [knob, knob.parentElement].map((each) => getComputedStyle(each).backgroundColor)"
        inner, outer = await seen.page.locator(".knob").evaluate_all(knob)
        assert inner != outer


async def test_a_list_without_a_match_says_so(browser: Any, embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await connected(store, held)
    async with served(embedded, session) as site, window(browser, site) as seen:
        await seen.log_in()
        await seen.open("groups")
        await seen.page.get_by_label("Find a group").fill("zzz")
        await seen.page.get_by_role("status").get_by_text("No group has this name.").wait_for()
        await seen.page.get_by_label("Find a group").fill("fam")
        await seen.page.get_by_text("No group has this name.").wait_for(state="hidden")

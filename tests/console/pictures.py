"""`make screenshots`: the pictures of docs/console.md. People and messages are invented; the code links nothing."""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio

from testkit.embedded import EmbeddedSupabase
from tests.console.browser import ROOT, Window, chromium
from tests.console.rows import connected, dropped, ids, recent, show, store_file, vote, with_file
from tests.console.site import Site, served
from tests.integration.database import GROUP, OTHER_GROUP, Writer, switch, table, writer
from worker.store import GroupChange, Store, connect_store

DOCS = ROOT / "docs"
SEEDS = ROOT / "seeds" / "media"
SESSION = "default"
WIDE, PHONE = {"width": 1100, "height": 760}, {"width": 390, "height": 760}
TALK = (
    ("Ana", "Good morning! All stalls are up 🍊"),
    ("Ben", "*Twelve crates* came, _two_ are ~late~ lost.\n> Are these the oranges we ordered?\nYes."),
    ("Chika", "See https://example.org/market for the plan"),
    ("Dana", "مرحبا، see you at 9"),
)
FILES = (("hills.jpg", "image", "image/jpeg"), ("voice.ogg", "voice", "audio/ogg"))


async def fill(store: Store) -> Writer:
    """A group with a talk of a morning, one with a message, and one that is not stored."""
    held = await writer(store, SESSION)
    names = {GROUP: "Saturday market", OTHER_GROUP: "Loading crew", "1203632@g.us": "Family"}
    groups = [GroupChange(wa_group_id=group, name=name) for group, name in names.items()]
    await store.upsert_groups(SESSION, held.fence, groups, complete=False)
    await switch(store, SESSION, OTHER_GROUP, True)
    await spread(store, held)
    talk = [
        recent(f"t{place}", 600 - 40 * place, sender=f"{name.lower()}@lid", sender_alt=None, push_name=name, text=text)
        for place, (name, text) in enumerate(TALK)
    ]
    target = {"chat_id": GROUP, "target_sender": "ben@lid", "target_id": "t1", "at": talk[-1]["ts"], "kind": "reaction"}
    likes = [
        {**target, "author": f"{name.lower()}@lid", "change_id": f"r{name}", "payload": {"emoji": emoji}}
        for name, emoji in (("Ana", "👍"), ("Dana", "😂"))
    ]
    poll = recent("p", 60, kind="poll", push_name="Ana", text="When do we load?\nFriday\nSaturday")
    crew = recent("c", 200, chat_id=OTHER_GROUP, push_name="Emeka", sender="Emeka@lid", text="The van is full.")
    await held.commit(messages=[*talk, crew], changes=likes, discards={"unmonitored": 214, "too_old": 3})
    for place, (name, kind, mime) in enumerate(FILES):
        await held.commit(messages=[with_file(f"f{place}", kind, None, 100 - place)])
        await store_file(store, held, (SEEDS / name).read_bytes(), mime, name.rpartition(".")[2])
    await held.commit(messages=[poll])
    poll_id = (await ids(store, SESSION))["p"]
    choices = {"ben": ["Friday"], "chika": ["Saturday"], "dana": ["Friday"], "emeka": ["Friday", "Saturday"]}
    await held.commit(messages=[vote(poll_id, who, *chosen) for who, chosen in choices.items()])
    return held


async def spread(store: Store, held: Writer) -> None:
    """Thirty days of messages, more by day than by night, with a hole and two lost connections."""
    chance = random.Random(7)  # noqa: S311 - the same picture each time
    past = [
        recent(
            f"x{group}-{hours}-{n}", hours * 3600 - 50 * chance.randrange(60), chat_id=group, text="…", push_name="Ana"
        )
        for group, often in ((GROUP, 4), (OTHER_GROUP, 2))
        for hours in range(30 * 24, 0, -1)
        for n in range(chance.randrange(often) if 5 < (datetime.now(UTC).hour - hours) % 24 < 21 else 0)
    ]
    for first in range(0, len(past), 200):
        await held.commit(messages=past[first : first + 200])
    audits = [("connect", 20), ("disconnect", 9), ("reconnect", 9), ("reconnect", 8.9), ("connect", 8.9)]
    for event, age in audits:
        at = (datetime.now(UTC) - timedelta(hours=age)).isoformat()
        await table(store, "audit_log").insert({"session_id": SESSION, "event": event, "at": at}).execute()
    for group, age in ((GROUP, 26), (OTHER_GROUP, 24.5)):
        until = (datetime.now(UTC) - timedelta(days=age)).isoformat()
        gaps = table(store, "coverage_gaps").update({"to_at": until})
        await gaps.eq("session_id", SESSION).eq("chat_id", group).is_("to_at", "null").execute()
    held_back = dropped(6 * 86_400, "waited_too_long", 12)
    await held.commit(dropped=[held_back | {"to_at": (datetime.now(UTC) - timedelta(days=5)).isoformat()}])
    await served_until_now(store)


async def served_until_now(store: Store) -> None:
    """Connected, and all that came is stored."""
    mark = {"status": "connected", "complete_to": datetime.now(UTC).isoformat()}
    session = (await table(store, "wa_sessions").select("epoch").eq("id", SESSION).execute()).data[0]
    mark["complete_epoch"] = session["epoch"]
    await table(store, "wa_sessions").update(mark).eq("id", SESSION).execute()


PICTURES_LOADED = """() => Promise.all([...document.images].filter((each) => each.src).map((each) => {
  each.loading = 'eager' // below what the window shows, too
  return each.decode()
}))"""


@asynccontextmanager
async def opened(browser: Any, site: Site, size: dict[str, int], theme: str) -> AsyncIterator[Window]:
    context = await browser.new_context(viewport=size, color_scheme=theme, locale="en-GB", timezone_id="Europe/Berlin")
    seen = Window(await context.new_page(), site)
    await seen.log_in()
    yield seen
    await context.close()


async def take(seen: Window, path: str, name: str, height: int | None = None) -> None:
    """`height`: of the picture, if the window's is not enough."""
    await seen.open(path)
    await seen.page.wait_for_load_state("load")
    await seen.page.evaluate("() => document.fonts.ready")
    await seen.page.evaluate(PICTURES_LOADED)
    clip: dict[str, Any] = {"clip": {"x": 0, "y": 0, "width": WIDE["width"], "height": height}} if height else {}
    await seen.page.screenshot(path=DOCS / f"console-{name}.png", full_page=bool(height), **clip)
    print(f"docs/console-{name}.png")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            await EmbeddedSupabase.start(Path(folder) / "data") as supabase,
            connect_store(supabase.url, supabase.service_key) as store,
            served(supabase.endpoint, SESSION) as site,
            chromium() as browser,
        ):
            await store.bucket.ensure()
            held = await fill(store)
            code = {"qr": "2@this,code,links,nothing" * 8, "expires_at": datetime.now(UTC) + timedelta(seconds=58)}
            await show(store, held, status="connecting", state="waiting_for_scan", say="Scan the QR code.", **code)
            async with opened(browser, site, WIDE, "light") as seen:
                await take(seen, "link", "link")
                await connected(store, held)
                await served_until_now(store)
                market = next(group.id for group in await store.console.groups(SESSION) if group.wa_group_id == GROUP)
                await take(seen, "groups", "groups")
                await take(seen, f"groups/{market}?span=month", "group", 1230)
                await take(seen, "coverage", "coverage")
                await take(seen, "feed", "feed")
                await take(seen, "health", "health", 1180)
            async with opened(browser, site, PHONE, "dark") as seen:
                await take(seen, "feed", "phone")


if __name__ == "__main__":
    anyio.run(main)

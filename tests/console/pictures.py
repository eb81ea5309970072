"""`make screenshots`: the pictures of docs/console.md. People and messages are invented; the code links nothing."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio

from testkit.embedded import EmbeddedSupabase
from tests.console.browser import ROOT, Window, chromium
from tests.console.rows import connected, recent, show, store_file, with_file
from tests.console.site import Site, served
from tests.integration.database import GROUP, OTHER_GROUP, Writer, switch, writer
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
    talk = [
        recent(f"t{place}", 600 - 40 * place, sender=f"{name.lower()}@lid", sender_alt=None, push_name=name, text=text)
        for place, (name, text) in enumerate(TALK)
    ]
    target = {"chat_id": GROUP, "target_sender": "ben@lid", "target_id": "t1", "at": talk[-1]["ts"], "kind": "reaction"}
    likes = [
        {**target, "author": f"{name.lower()}@lid", "change_id": f"r{name}", "payload": {"emoji": emoji}}
        for name, emoji in (("Ana", "👍"), ("Dana", "😂"))
    ]
    poll = recent("p", 300, kind="poll", push_name="Ana", text="When do we load?\nFriday\nSaturday")
    crew = recent("c", 200, chat_id=OTHER_GROUP, push_name="Emeka", sender="Emeka@lid", text="The van is full.")
    await held.commit(messages=[*talk, poll, crew], changes=likes, discards={"unmonitored": 214, "too_old": 3})
    for place, (name, kind, mime) in enumerate(FILES):
        await held.commit(messages=[with_file(f"f{place}", kind, None, 100 - place)])
        await store_file(store, held, (SEEDS / name).read_bytes(), mime, name.rpartition(".")[2])
    return held


@asynccontextmanager
async def opened(browser: Any, site: Site, size: dict[str, int], theme: str) -> AsyncIterator[Window]:
    context = await browser.new_context(viewport=size, color_scheme=theme, locale="en-GB", timezone_id="Europe/Berlin")
    seen = Window(await context.new_page(), site)
    await seen.log_in()
    yield seen
    await context.close()


async def take(seen: Window, path: str, name: str) -> None:
    await seen.open(path)
    await seen.page.wait_for_load_state("load")
    await seen.page.evaluate("() => document.fonts.ready")
    await seen.page.screenshot(path=DOCS / f"console-{name}.png")
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
                await take(seen, "groups", "groups")
                await take(seen, "feed", "feed")
                await take(seen, "health", "health")
            async with opened(browser, site, PHONE, "dark") as seen:
                await take(seen, "feed", "phone")


if __name__ == "__main__":
    anyio.run(main)

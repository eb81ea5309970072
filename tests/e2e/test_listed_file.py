"""A message that no gateway lets pass: its file is fetched while it is listed, and is there when it is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.phone import Media
from testkit.waiting import until
from tests.chaos.proxy import FaultProxy, Rule
from tests.e2e.town import SEEDS, found_town
from worker.store import connect_store

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

CAPTION = "http://localhost:3100"


async def test_a_message_that_is_taken_back_has_the_file_that_whatsapp_no_longer_has(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with FaultProxy(supabase.url, "listed") as proxy:
        settings = {"SUPABASE_URL": proxy.url}
        async with found_town(tmp_path, supabase, session="listed", settings=settings) as town:
            tell = town.worker.child.tail
            rule = proxy.arm(Rule(kind="gateway", status=403, item_mark=CAPTION))
            photo = Media(kind="image", data=(SEEDS / "hills.jpg").read_bytes(), mime="image/jpeg", caption=CAPTION)
            sent = await town.phone.send("Ana", town.market.id, media=photo)

            async def fetched() -> int | None:
                rows = await town.database.rows("wa_refused_stanzas", session_id="listed", wa_msg_id=sent.id)
                return rows[0]["media_id"] if rows else None

            media_id = await until("the file of the listed message", fetched, seconds=120, tell=tell)
            rule.ends = 0.0
            downloads = (await town.phone.media_requests())["count"]
            (item,) = await town.database.rows("wa_refused_stanzas", session_id="listed", wa_msg_id=sent.id)
            async with connect_store(supabase.url, supabase.service_key) as store:
                assert await store.retry_refused("listed", item["id"]) is None
            row = await town.database.wait_media(sent.id, tell=tell)
            assert (row["media_id"], row["text"], row["media_status"]) == (media_id, CAPTION, "stored")
            assert (await town.phone.media_requests())["count"] == downloads, "nothing was fetched twice"

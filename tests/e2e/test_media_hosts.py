"""Files come from the hosts that WhatsApp names, one after the other, and from nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.phone import Sent
from tests.e2e.town import Town, found_town, photo

pytestmark = pytest.mark.anyio

DEAD, GOOD = "media-fra3-1.cdn.whatsapp.net", "media-arn2-1.cdn.whatsapp.net"
FOREIGN = "files.example.net"


async def asked(town: Town, sent: Sent) -> list[tuple[str, str | None]]:
    """Which hosts were asked for this file, in turn, and what went wrong there."""
    items = (await town.phone.media_requests())["items"]
    return [(item["host"], item["fault"]) for item in items if item["path"] == sent.path]


async def test_a_file_comes_from_the_next_host_when_one_is_down(tmp_path: Path, supabase: EmbeddedSupabase) -> None:
    async with found_town(tmp_path, supabase, session="hosts") as town:
        await town.phone.post("/media/hosts", {"hosts": [DEAD, FOREIGN, GOOD]})
        await town.phone.media_fault("down", host=DEAD, times=-1)

        first = await town.phone.send("Ana", town.market.id, media=photo())
        await town.database.wait_media(first.id, tell=town.worker.child.tail)
        assert await asked(town, first) == [(DEAD, "down"), (GOOD, None)]

        second = await town.phone.send("Ben", town.market.id, media=photo("oranges.jpg"))
        await town.database.wait_media(second.id, tell=town.worker.child.tail)
        assert await asked(town, second) == [(GOOD, None)], "one that failed comes last"

        by_url = photo("oranges.jpg", no_direct_path=True, host=DEAD)
        third = await town.phone.send("Ana", town.crew.id, media=by_url)
        await town.database.wait_media(third.id, tell=town.worker.child.tail)
        assert await asked(town, third) == [(DEAD, "down"), (GOOD, None)], "the url's path, without a directPath"

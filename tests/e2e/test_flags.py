"""What the web app asks for through runtime_flags (contract §4): unlink, a new QR code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.town import found_town, link
from tests.support.embedded import EmbeddedSupabase

pytestmark = pytest.mark.anyio


async def test_the_web_app_unlinks_the_account_and_later_links_it_again(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with found_town(tmp_path, supabase, session="flags") as town:
        tell = town.worker.child.tail
        last = await town.database.last_event()
        await town.database.raise_flag("wa_disconnect_requested")

        await town.database.wait_status("disconnected", tell=tell)
        await town.database.wait_flag_handled("wa_disconnect_requested", tell=tell)
        await town.database.wait_event("disconnect", last, tell=tell)
        row = await town.database.session_row()
        assert row is not None
        assert row["creds_json"] is None, "nothing is left that could log in"
        assert [item for item in await town.phone.log() if item["kind"] == "logout"], "WhatsApp was told"

        await town.database.raise_flag("wa_refresh_qr_requested")
        await link(town.phone, town.worker, town.database)
        await town.database.wait_flag_handled("wa_refresh_qr_requested", tell=tell)
        row = await town.stored("Ana", town.market, "linked again, and the switches are as they were")
        assert row["chat_id"] == town.market.id

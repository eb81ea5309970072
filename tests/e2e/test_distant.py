"""A database that is far away is no database that is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.waiting import until
from tests.chaos.proxy import FaultProxy, Rule
from tests.e2e.town import found_town

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

NEWCOMERS = 150
AWAY_SECONDS = 0.25
PATIENCE_SECONDS = 150.0


async def test_the_first_messages_of_150_newcomers_with_a_database_250_ms_away(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with FaultProxy(supabase.url, "distant") as proxy:
        settings = {"SUPABASE_URL": proxy.url}
        async with found_town(tmp_path, supabase, session="distant", settings=settings) as town:
            names = [f"Newcomer {n}" for n in range(NEWCOMERS)]
            fair = await town.phone.group("Fair", names, "lid")
            tell = town.worker.child.tail
            await town.database.wait_groups([fair.id], tell=tell)
            await town.database.monitor([fair.id])
            await town.database.fetch_groups(tell=tell)
            before = await town.phone.state()
            proxy.arm(Rule(kind="late", seconds=AWAY_SECONDS))
            items = [{"from": name, "to": fair.id, "text": f"hello from {name}"} for name in names]
            await town.phone.post("/send_many", {"items": items})

            async def all_stored() -> bool:
                return len(await town.database.messages(chat_id=fair.id)) == NEWCOMERS

            await until("150 rows", all_stored, seconds=PATIENCE_SECONDS, every=0.5, tell=tell)
            assert (await town.phone.state())["logins"] == before["logins"], "the connection never ended"
            log = (tmp_path / "worker" / "worker.log").read_text()
            assert not [line for line in log.splitlines() if "has not answered" in line or "stalled" in line]

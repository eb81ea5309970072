"""Coverage from end to end: what a group lacks after it was switched, after nobody worked, and after a drop."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from testkit.database import parse_time
from testkit.embedded import EmbeddedSupabase
from testkit.phone import Group
from testkit.worker import Worker
from tests.e2e.town import Town, found_town

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(480)]

SESSION = "coverage"
CATCH_UP = {"WORKER_CATCH_UP_S": "86400", "WORKER_LEASE_S": "6"}
LIVE_ONLY = {"WORKER_CATCH_UP_S": "0", "WORKER_LEASE_S": "6"}
MARKED_SECONDS = 120.0  # the sidecar tells its mark every 10 s
OLD_SECONDS = 100  # beyond the live window


class Archive:
    """The coverage of one group, behind the time `since`."""

    def __init__(self, town: Town, group: Group) -> None:
        self._town, self._group = town, group
        self.since: str | None = None

    async def answer(self) -> dict[str, Any]:
        args = {"p_session": SESSION, "p_group": self._group.id, "p_from": self.since}
        answer: Any = (await self._town.database.client.rpc("coverage", args).execute()).data
        return dict(answer)

    async def gaps(self) -> list[dict[str, Any]]:
        return list((await self.answer())["gaps"])

    async def until(self, reasons: list[str], behind: str | None = None) -> list[dict[str, Any]]:
        """Its gaps, once they have these reasons and, if a time is given, the mark is behind it."""

        async def probe() -> list[dict[str, Any]] | None:
            answer = await self.answer()
            mark = answer["complete_to"]
            marked = behind is None or (mark is not None and parse_time(mark) > parse_time(behind))
            gaps = list(answer["gaps"])
            return [{"gaps": gaps}] if marked and [gap["reason"] for gap in gaps] == reasons else None

        (found,) = await self._town.database.until(f"the gaps {reasons}", probe, seconds=MARKED_SECONDS)
        return list(found["gaps"])


def second(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


async def test_each_time_that_lacks_something_is_a_gap_with_its_reason_and_no_other_is(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    chosen = {**supabase.worker_env, "WORKER_SESSION": SESSION}
    async with found_town(tmp_path, supabase, session=SESSION, settings=CATCH_UP) as town:
        market, crew, family = (Archive(town, group) for group in (town.market, town.crew, town.family))
        first = await town.stored("Ana", town.market, "first")
        (before,) = await market.until(["not_monitored"], behind=first["ts"])
        assert before["from"] is None
        assert [gap["reason"] for gap in await family.gaps()] == ["not_monitored"]
        market.since = crew.since = before["to"]

        # Switched off, and on again.
        await town.database.monitor([town.market.id], on=False)
        await town.database.fetch_groups(tell=town.worker.child.tail)
        unseen = await town.phone.send("Ana", town.market.id, "nobody listens")
        await town.phone.wait_receipts([unseen])
        (off,) = await market.until(["not_monitored"])
        assert off["to"] is None
        await town.database.monitor([town.market.id])
        await town.database.fetch_groups(tell=town.worker.child.tail)

        async def on_again() -> str | None:
            return str((await market.gaps())[0]["to"] or "") or None

        market.since = await town.database.until("the switch to be seen", on_again)
        assert await crew.gaps() == []

        # Nobody works; then somebody does who catches up.
        await town.worker.child.stop()
        while_away = await town.phone.send("Ana", town.market.id, "while nobody was there")
        (away,) = await market.until(["away"])
        assert away["to"] is None
        async with Worker.start(
            tmp_path / "second", phone=town.phone, settings=chosen | CATCH_UP, name="second"
        ) as two:
            row = await town.database.wait_message(while_away.id, tell=two.child.tail)
            await market.until([], behind=row["ts"])
            assert await crew.gaps() == []

            # A message that cannot be read, and never comes again.
            lost = await town.phone.send("Ben", town.market.id, "?", fault={"corrupt": True, "never": True})
            stub = await town.database.wait_message(lost.id, tell=two.child.tail)
            (gap,) = await market.until(["undecryptable"])
            assert parse_time(gap["from"]) == parse_time(gap["to"]) == parse_time(stub["ts"])
            mark_lost = {"p_session": SESSION, "p_older_than_seconds": -1}
            await town.database.client.rpc("wa_mark_lost", mark_lost).execute()
            await market.until(["lost"])
            await two.child.stop()

        # Nobody works again; then somebody does who takes only what is live.
        at = int(time.time()) - OLD_SECONDS
        dropped = [
            await town.phone.send("Ana", town.crew.id, "too old", t=at),
            await town.phone.send("Ben", town.crew.id, "too old as well", t=at + 20),
        ]
        async with Worker.start(
            tmp_path / "third", phone=town.phone, settings=chosen | LIVE_ONLY, name="third"
        ) as three:
            await town.phone.wait_receipts(dropped)
            crew.since = None
            waited = [gap for gap in await crew.gaps() if gap["reason"] == "waited_too_long"]
            times = [parse_time(gap[end]) for gap in waited for end in ("from", "to")]
            assert (min(times), max(times)) == (parse_time(second(at)), parse_time(second(at + 20)))
            assert sum(gap["count"] for gap in waited) == 2
            late = await town.phone.send("Ana", town.crew.id, "late, and live", t=at + 30)
            await town.phone.wait_receipts([late])
            (gap,) = [gap for gap in await crew.gaps() if gap["reason"] == "too_old"]
            assert parse_time(gap["from"]) == parse_time(gap["to"]) == parse_time(second(at + 30))
            row = await town.stored("Ana", town.market, "the last")
            await market.until(["lost"], behind=row["ts"])
            await three.child.stop()

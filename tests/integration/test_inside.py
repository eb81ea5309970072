"""What only shows with another clock or other pauses, over the real sidecar and the virtual phone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.inside import inside
from worker.store import Lease, Store
from worker.store.embedded import Endpoint

pytestmark = pytest.mark.anyio

SKEW_SECONDS = 31  # one more than the live window


@pytest.fixture(autouse=True)
def no_pause_between_group_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.session.discovery.SPACING_SECONDS", 0.05)


@pytest.mark.parametrize("ahead", [SKEW_SECONDS, -SKEW_SECONDS])
async def test_a_database_whose_clock_is_31_s_off_discards_nothing_and_is_audited(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    lease_acquire = Store.lease_acquire

    async def of_another_time(self: Store, session: str, owner: str, seconds: float) -> Lease:
        lease = await lease_acquire(self, session, owner, seconds)
        return replace(lease, now=lease.now + timedelta(seconds=ahead))

    monkeypatch.setattr(Store, "lease_acquire", of_another_time)
    async with inside(tmp_path, embedded, session, settings={"worker_catch_up_s": 0}) as it:
        await it.link()
        row = await it.stored(it.market, "live, whatever the database's clock says")
        assert row["text"].startswith("live")
        (skew,) = await it.payloads("error", code="CLOCK_SKEW")
        assert abs(skew["ctx"]["skew_s"] + ahead) <= 1
        assert await it.database.rows("wa_discards", session_id=session, reason="too_old") == []


async def test_a_rate_limit_on_groups_is_waited_out_with_longer_and_longer_pauses(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.session.discovery.PAUSE_FIRST_SECONDS", 0.2)
    async with inside(tmp_path, embedded, session) as it:
        await it.link()
        last = await it.database.last_event()
        await it.phone.fault("rate_limit_groups", times=2)
        await it.database.raise_flag("fetch_groups_requested")

        await it.told("discovery", last)

        limited = await it.payloads("error", last, code="GROUPS_RATE_LIMITED")
        assert [entry["ctx"]["pause_s"] for entry in limited] == [pytest.approx(0.2), pytest.approx(0.4)]
        await it.database.wait_flag_handled("fetch_groups_requested")
        await it.connected()
        assert await it.payloads("disconnect", last) == []

"""The commands and /metrics beside a real worker that is linked to the virtual phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from testkit.commands import Commands
from testkit.embedded import EmbeddedSupabase
from testkit.grafana import HOST_METRICS, metric_names
from tests.e2e.town import Town, found_town, photo

pytestmark = pytest.mark.anyio

FIGURES_SECONDS = 60.0  # the database is asked every 15 s, the sidecar every 10


def commands(town: Town) -> Commands:
    return Commands({**town.supabase.worker_env, "WORKER_SESSION": town.database.session})


async def test_status_groups_and_tail_show_what_a_real_worker_does(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wa = commands(town)
    await town.stored("Ana", town.market, "for everyone to see")
    ran = await wa("status", "--check")
    assert ran.code == 0, ran.err
    assert "connected as" in ran.out
    assert "for everyone to see" in ran.out
    listed = {group["wa_group_id"]: group["monitor"] for group in (await wa("groups", "list", "--json")).json}
    assert (listed[town.market.id], listed[town.family.id]) == (True, False)
    assert (await wa("tail", town.market.id, "--no-follow", "-n", "1")).out.endswith("Ana: for everyone to see\n")
    ran = await wa("doctor")
    assert ran.code == 0, ran.out
    assert "served by" in ran.out


async def test_metrics_have_every_name_that_dashboard_and_alerts_ask_for_and_nothing_private(town: Town) -> None:
    row = await town.stored("Ben", town.market, "counted and not quoted")
    await town.stored_media("Ben", town.market, photo())
    wanted = {name for name in metric_names() if not name.startswith(HOST_METRICS)}
    seen: dict[str, float] = {}
    page = ""

    async def complete() -> bool:
        nonlocal page
        answer = await town.worker.get("/metrics")
        assert answer is not None
        page = answer.text
        families = text_string_to_metric_families(page)
        seen.update({sample.name: sample.value for family in families for sample in family.samples})
        return wanted <= seen.keys()

    await town.database.until(
        "every metric", complete, seconds=FIGURES_SECONDS, tell=lambda: str(sorted(wanted - seen.keys()))
    )
    assert seen["wa_connected"] == seen["wa_lease_held"] == 1
    assert seen["wa_acknowledged_uncommitted_batches"] == 0
    assert seen["wa_commit_duration_seconds_count"] > 0
    private = ["counted and not quoted", row["chat_id"], row["sender"], row["wa_msg_id"], "Market", "Ben"]
    assert [secret for secret in private if secret in page] == []


async def test_qr_monitor_and_logout_with_a_real_worker(
    tmp_path: Path, supabase: EmbeddedSupabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with found_town(tmp_path / "town", supabase, session="commands") as town:
        monkeypatch.chdir(tmp_path)
        wa = commands(town)
        assert (await wa("link")).out.startswith("Connected as ")
        assert (await wa("groups", "monitor", "Family")).code == 0
        await town.database.fetch_groups(tell=town.worker.child.tail)
        await town.stored("Ana", town.family, "now this one as well")
        ran = await wa("logout", "--yes", "--timeout", "30")
        assert ran.code == 0, ran.err
        row = await town.database.session_row()
        assert row is not None
        assert row["creds_json"] is None
        ran = await wa("link", "--timeout", "2")
        assert ran.code == 1
        assert "--refresh" in ran.err, "what to do now is said"
        answer = await town.worker.get("/readyz")
        assert answer is not None
        assert answer.status_code == 200, "logged out as asked is no fault"

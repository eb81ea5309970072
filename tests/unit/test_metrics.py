"""/metrics: what is counted, that labels are bounded, and that "acknowledged but not committed" is honest."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.bridge.protocol import Commit
from worker.media.jobs import MediaCounts
from worker.session.report import View
from worker.store import Batch, Committed
from worker.store.console import Figures
from worker.web.app import make_app
from worker.web.figures import FiguresPoller, unbacked
from worker.web.health import REFRESHED_AT_ONCE, Health, SessionHealth

FIGURES = {
    "now": datetime(2026, 1, 1, tzinfo=UTC), "epoch": 3, "seq": 10, "running": 1, "due": 2, "waiting": 3,
    "oldest_seconds": 12.5, "abandoned": {"expired": 4, "odd": 1}, "pending_stubs": 5, "refused": 6, "held_changes": 7,
}  # fmt: skip


def figures(**others: Any) -> Figures:
    return Figures(**{**FIGURES, **others})


async def scrape(health: Health) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, but for the session's."""
    transport = httpx.ASGITransport(make_app(health))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as http:
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {
        (s.name, *(value for label, value in s.labels.items() if label != "session")): s.value
        for family in families
        for s in family.samples
    }


def commit(stanzas: int = 0) -> Commit:
    blank: dict[str, Any] = {
        "attrs": {}, "key": None, "arrived_at_ms": 0, "server_time_offset_ms": None, "content": None, "failure": None,
        "hashes": [], "retry_count": 0, "unavailable": None,
    }  # fmt: skip
    return Commit.model_validate({"epoch": 3, "seq": 10, "stanzas": [blank] * stanzas, "events": []})


async def test_the_databases_figures_are_read_for_a_scrape_and_are_shared_for_seconds() -> None:
    reads: list[str] = []

    async def read(session: str) -> Figures:
        reads.append(session)
        return figures()

    store = cast(Any, SimpleNamespace(console=SimpleNamespace(figures=read)))
    health = Health()
    health.session.refresh = FiguresPoller(store, "default", health.session).refresh
    found = [(await scrape(health))["wa_media_jobs", "due"] for _ in range(2)]
    assert (found, reads) == ([2, 2], ["default"])


async def test_figures_are_read_of_all_sessions_in_turn_also_beside_some_that_have_none_or_get_none() -> None:
    asked: list[int] = []
    health = Health(named=None)

    def reads(number: int) -> Callable[[], Coroutine[Any, Any, None]]:
        async def refresh() -> None:  # sets no figures, as when the database does not answer
            asked.append(number)

        return refresh

    for number in range(REFRESHED_AT_ONCE):
        health.joins(f"waiting-{number}")
    for number in range(2 * REFRESHED_AT_ONCE):
        health.joins(f"served-{number}").refresh = reads(number)
    for _ in range(4):
        await health.refresh()
    assert sorted(asked) == sorted([*range(2 * REFRESHED_AT_ONCE)] * 2)


async def test_a_commit_is_counted_by_outcome_and_reason() -> None:
    health = Health()
    batch = Batch(
        fence=1, epoch=3, seq=10, messages=[{"kind": "undecryptable"}, {"kind": "text"}],
        discards={"unmonitored": 2, "4917@s.whatsapp.net": 1},
    )  # fmt: skip
    done = Committed(seq=10, duplicate=False, stored=2, upgraded=1, duplicates=3, skipped=4, refused=5)
    health.session.metrics.committed(commit(7), batch, done, 0.2)
    found = await scrape(health)
    assert {name[1]: value for name, value in found.items() if name[0] == "wa_messages_total"} == {
        "stored": 2, "upgraded": 1, "duplicate": 3, "skipped": 4, "refused": 5, "other": 0,
    }  # fmt: skip
    assert found["wa_discarded_total", "unmonitored"] == 2
    assert found["wa_discarded_total", "other"] == 1, "what is not in the list has no label of its own"
    assert not any("4917" in part for name in found for part in name)
    assert found["wa_undecryptable_total",] == 1
    assert found["wa_commit_stanzas_sum",] == 7
    assert found["wa_commit_duration_seconds_bucket", "0.25"] == 1
    assert health.session.metrics.answered == (3, 10)


async def test_ends_and_reconnects_are_counted_by_whatsapps_code() -> None:
    health = Health()
    for code in (515, 999, None):
        health.session.metrics.audited("disconnect", {"code": code})
        health.session.metrics.audited("reconnect", {"attempt": 1})
    health.session.metrics.audited("connect", {})
    found = await scrape(health)
    for name in ("wa_disconnects_total", "wa_reconnects_total"):
        assert {code: found[name, code] for code in ("515", "other", "none", "401")} == {
            "515": 1, "other": 1, "none": 1, "401": 0,
        }  # fmt: skip


async def test_what_is_not_known_is_left_out_and_what_is_known_is_shown() -> None:
    health = Health()
    found = await scrape(health)
    assert found["wa_connected",] == found["wa_lease_held",] == found["wa_acknowledged_uncommitted_batches",] == 0
    assert ("wa_held_frames",) not in found
    assert ("wa_media_oldest_job_seconds",) not in found

    health.session.view = View(status="connected", state="connected", say="")
    health.session.lease_ok, health.session.sidecar_pid = True, 7
    health.session.figures = {
        "held_frames": 2,
        "log_bytes": 10,
        "loop_lag_ms": 40,
        "last_stanza_at_ms": 1_790_000_000_000,
    }
    health.session.figures["last_group_stanza_at_ms"] = 1_789_000_000_000
    health.session.deafness.groups.suspected = True
    health.session.metrics.database = figures()
    health.session.metrics.media = MediaCounts(stored=5, reused=2, forwarded=1, bytes=99)
    found = await scrape(health)
    expected = {
        ("wa_connected",): 1, ("wa_lease_held",): 1, ("wa_held_frames",): 2, ("wa_log_bytes",): 10,
        ("wa_event_loop_lag_seconds", "sidecar"): 0.04, ("wa_event_loop_lag_seconds", "worker"): 0,
        ("wa_last_stanza_timestamp_seconds",): 1_790_000_000, ("wa_media_jobs", "waiting"): 3,
        ("wa_last_group_stanza_timestamp_seconds",): 1_789_000_000, ("wa_suspected_deaf", "anything"): 0,
        ("wa_suspected_deaf", "groups"): 1,
        ("wa_media_oldest_job_seconds",): 12.5, ("wa_media_abandoned", "expired"): 4,
        ("wa_media_abandoned", "other"): 1, ("wa_media_files_total", "downloaded"): 3,
        ("wa_media_files_total", "deduplicated"): 2, ("wa_media_files_total", "forwarded"): 1,
        ("wa_media_bytes_total",): 99, ("wa_pending_stubs",): 5,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected

    assert found["wa_logged_out",] == 0
    health.session.view = View(status="disconnected", state="logged_out", say="")
    assert (await scrape(health))["wa_logged_out",] == 1

    health.session.sidecar_pid = None
    health.session.figures = {}
    found = await scrape(health)
    assert ("wa_held_frames",) not in found, "figures of a sidecar that is gone are not news"
    assert found["wa_last_stanza_timestamp_seconds",] == 1_790_000_000


async def series(health: Health) -> set[tuple[str, ...]]:
    """Every series: the name of its sample and its labels with their values."""
    transport = httpx.ASGITransport(make_app(health))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as http:
        page = (await http.get("/metrics")).text
    assert page.count("# TYPE wa_connected ") <= 1, "one family, whatever the number of sessions"
    families = text_string_to_metric_families(page)
    return {
        (s.name, *(f"{label}={value}" for label, value in sorted(s.labels.items())))
        for family in families
        for s in family.samples
    }


async def test_each_session_has_its_own_series_and_takes_them_with_it() -> None:
    health = Health(named=None)
    alone = await series(health)
    assert not any("session=" in part for each in alone for part in each)
    first, second = SessionHealth(), SessionHealth()
    health.sessions.update(first=first, second=second)
    first.lease_ok = True
    second.metrics.audited("disconnect", {"code": 515})
    second.sidecar_pid, second.figures = 7, {"loop_lag_ms": 40}
    both = await series(health)
    for name in ("wa_connected", "wa_lease_held", "wa_commit_duration_seconds_count", "wa_sidecar_restarts_total"):
        assert {each for each in both if each[0] == name} == {(name, "session=first"), (name, "session=second")}
    assert ("wa_event_loop_lag_seconds", "process=worker") in both
    assert ("wa_event_loop_lag_seconds", "process=sidecar", "session=second") in both
    del health.sessions["second"]
    left = await series(health)
    assert left == {each for each in both if "session=second" not in each}
    assert any("session=first" in each for each in left)


@pytest.mark.parametrize(
    ("answered", "epoch", "seq", "missing", "reason"),
    [
        (None, 3, 10, 0, "nothing was confirmed yet"),
        ((3, 10), 3, 10, 0, "the database has it all"),
        ((3, 10), 3, 12, 0, "it went on meanwhile"),
        ((3, 10), 3, 8, 2, "two confirmed batches are gone: a failover to a copy that lagged"),
        ((3, 10), 2, 99, 10, "the whole connection is gone: restored from a backup"),
        ((3, 10), None, None, 10, "the session's row is gone"),
        ((3, 10), 4, 0, 0, "a newer connection writes: nothing can be said"),
    ],
)
def test_what_was_acknowledged_is_compared_with_what_the_database_says_itself(
    answered: tuple[int, int] | None, epoch: int | None, seq: int | None, missing: int, reason: str
) -> None:
    assert unbacked(answered, figures(epoch=epoch, seq=seq)) == missing, reason


@pytest.mark.parametrize(
    ("state", "away", "bucket", "ready", "reason"),
    [
        ("connected", False, None, True, "messages are stored"),
        ("idle", False, None, True, "nobody has linked a phone: not a fault"),
        ("logged_out", False, None, True, "somebody unlinked it: not a fault"),
        ("reconnecting", False, None, False, "messages wait"),
        ("needs_you", False, None, False, "somebody must act"),
        ("connected", True, None, False, "the database is away"),
        ("connected", False, "does not answer", False, "files cannot be stored"),
    ],
)
async def test_ready_means_storing_or_knowingly_idle(
    state: Any, away: bool, bucket: str | None, ready: bool, reason: str
) -> None:
    health = Health(supabase_ok=True, bucket_trouble=bucket)
    health.session.lease_ok, health.session.sidecar_pid = True, 1
    health.session.view = View(status="connected" if state == "connected" else "disconnected", state=state, say="…")
    health.session.metrics.away = lambda: away
    assert health.describe()["ok"] is ready, reason
    assert bool(health.describe()["reasons"]) is not ready


async def test_a_host_is_ready_whatever_one_account_does_and_says_what_it_does() -> None:
    health = Health(named=None, supabase_ok=True)
    assert health.describe()["ok"], "it waits for sessions"
    health.sessions["locked"] = locked = SessionHealth(lease_ok=True, sidecar_pid=1)
    locked.view = View(status="disconnected", state="needs_you", say="The account is locked.")
    document = health.describe()
    assert document["ok"]
    assert document["sessions"]["locked"]["reasons"] == ["not connected: The account is locked."]
    health.away = lambda: True
    assert health.describe()["reasons"] == ["Supabase: the database does not answer"]

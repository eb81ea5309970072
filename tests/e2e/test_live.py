"""Live only (contract §1 and §7), and without a trace on the phone: no history, nothing old, never online."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.phone import Sent
from tests.e2e.town import Town, found_town

pytestmark = pytest.mark.anyio

LIVE_SECONDS = 30  # the contract's guard
OLD_TEXT = "said long before anybody listened"
TOO_OLD = "too_old"


@pytest.fixture(scope="module")
async def listener(tmp_path_factory: pytest.TempPathFactory, supabase: EmbeddedSupabase) -> AsyncIterator[Town]:
    """A linked worker on the default settings."""
    async with found_town(tmp_path_factory.mktemp("live"), supabase, session="live") as town:
        yield town


async def while_away(town: Town, **messages: int) -> dict[str, Sent]:
    """Messages of these ages (text → seconds) that wait at WhatsApp while the worker is away; it is back at the end."""
    await town.phone.fault("refuse", on=True)
    await town.phone.fault("drop")
    await town.phone.wait_for("disconnected")
    now = int(time.time())
    sent = {text: await town.phone.send("Ana", town.market.id, text, t=now - age) for text, age in messages.items()}
    assert all(each.queued for each in sent.values())
    await town.phone.fault("refuse", on=False)
    await town.phone.wait_receipts(sent.values(), seconds=60)
    return sent


async def discarded(town: Town) -> dict[str, int]:
    rows = await town.database.rows("wa_discards", session_id=town.database.session)
    return {row["reason"]: int(row["count"]) for row in rows}


async def test_a_redelivered_message_is_discarded_and_counted_if_it_is_older_than_the_live_window(
    listener: Town,
) -> None:
    before = (await discarded(listener)).get(TOO_OLD, 0)

    sent = await while_away(listener, **{OLD_TEXT: LIVE_SECONDS + 30, "just missed": 0})

    assert (await listener.row(sent["just missed"]))["text"] == "just missed"
    assert await listener.database.message(sent[OLD_TEXT].id) is None
    assert (await discarded(listener))[TOO_OLD] == before + 1


async def test_with_a_window_to_catch_up_it_is_stored_with_its_own_time(town: Town) -> None:
    """This worker has WORKER_CATCH_UP_S=3600."""
    sent = await while_away(town, **{"ten minutes ago": 600, "yesterday": 86_400})

    row = await town.row(sent["ten minutes ago"])
    assert row["text"] == "ten minutes ago"
    assert await town.database.message(sent["yesterday"].id) is None


async def test_a_live_message_that_is_too_old_is_discarded_whatever_the_window_to_catch_up(town: Town) -> None:
    sent = await town.phone.send("Ana", town.market.id, "delayed on its way", t=int(time.time()) - LIVE_SECONDS - 30)
    await town.phone.wait_receipts([sent])
    assert await town.database.message(sent.id) is None


async def test_history_is_never_stored(listener: Town) -> None:
    now = int(time.time())
    history = [
        {
            "from": "Ana",
            "to": listener.market.id,
            "text": "a page of history",
            "t": now - 5,
            "id": "3EB0HISTORY00000001",
        },
        {"from": "Ben", "to": listener.crew.id, "text": "an old page", "t": now - 500_000, "id": "3EB0HISTORY00000002"},
    ]
    for sync_type in ("RECENT", "INITIAL_BOOTSTRAP", "FULL"):
        await listener.phone.post("/history_sync", {"sync_type": sync_type, "messages": history})
    await listener.stored("Ana", listener.market, "the first live word after it")

    stored = json.dumps(await listener.database.messages())
    assert "history" not in stored.lower()
    assert "an old page" not in stored


async def test_the_account_never_shows_as_online_and_unread_counts_stay(listener: Town) -> None:
    sent = await listener.phone.send("Ana", listener.market.id, "nobody has read this")
    await listener.phone.wait_receipts([sent])
    await listener.row(sent)

    log = await listener.phone.log()
    assert [item for item in log if item["kind"] == "login"], "the log does hold what the client does"
    shown = {item["type"] for item in log if item["kind"] == "presence"}
    assert shown <= {"unavailable"}
    receipts = {item["type"] for item in await listener.phone.receipts() if item["kind"] == "receipt"}
    assert receipts.isdisjoint({"read", "read-self", "played"})
    assert "inactive" in receipts, "delivered to a device that nobody looks at"


async def test_what_was_discarded_is_summed_up_in_the_audit_log_without_content(listener: Town) -> None:
    """The last test of this worker: it is told to stop."""
    counts = await discarded(listener)
    assert counts[TOO_OLD] > 0

    assert await listener.worker.child.stop() == 0

    told: dict[str, int] = {}
    for row in await listener.database.events("ingest"):
        for reason, count in row["payload"]["discarded"].items():
            told[reason] = told.get(reason, 0) + count
    assert told == counts
    assert OLD_TEXT not in json.dumps(await listener.database.events())

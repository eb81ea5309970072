"""Live only (contract §1 and §7), and without a trace on the phone: no history, nothing old, never online."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.phone import Sent
from testkit.waiting import until
from tests.e2e.town import Town, found_town

pytestmark = pytest.mark.anyio

LIVE_SECONDS = 30  # the contract's guard
OLD_TEXT = "said long before anybody listened"
DROPPED = "waited_too_long"


@pytest.fixture(scope="module")
async def listener(tmp_path_factory: pytest.TempPathFactory, supabase: EmbeddedSupabase) -> AsyncIterator[Town]:
    """A linked `wa-worker run` on the default settings: the contract's."""
    async with found_town(tmp_path_factory.mktemp("live"), supabase, session="live") as town:
        yield town


@pytest.fixture(scope="module")
async def keeper(tmp_path_factory: pytest.TempPathFactory, supabase: EmbeddedSupabase) -> AsyncIterator[Town]:
    """A linked `wa-worker up` on the default settings."""
    async with found_town(tmp_path_factory.mktemp("up"), supabase, session="up", command="up") as town:
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
    before = (await discarded(listener)).get(DROPPED, 0)

    sent = await while_away(listener, **{OLD_TEXT: LIVE_SECONDS + 30, "just missed": 0})

    assert (await listener.row(sent["just missed"]))["text"] == "just missed"
    assert await listener.database.message(sent[OLD_TEXT].id) is None
    assert (await discarded(listener))[DROPPED] == before + 1


async def test_a_drop_is_a_warning_that_names_the_setting(listener: Town) -> None:
    await while_away(listener, **{f"too late {number}": LIVE_SECONDS + 60 for number in range(3)})

    async def told() -> list[str]:
        warnings = [line["msg"] for line in listener.worker.log_lines() if line["level"] == "warning"]
        return [text for text in warnings if "WORKER_CATCH_UP_S" in text]

    # The first sum may be of an earlier test; these three can come a minute after it, as one line.
    await until("three or more said to be dropped", told_of(told, 3), seconds=120, tell=listener.worker.child.tail)
    assert not any("too late" in line for line in await told())


def told_of(lines: Callable[[], Awaitable[list[str]]], count: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return sum(int(line.split()[0]) for line in await lines()) >= count

    return enough


async def test_up_takes_what_waited_up_to_a_day_and_run_does_not(keeper: Town) -> None:
    """The first test says what `run` does."""
    sent = await while_away(keeper, **{"this morning": 6 * 3600, "the day before": 2 * 86_400})

    assert (await keeper.row(sent["this morning"]))["text"] == "this morning"
    assert await keeper.database.message(sent["the day before"].id) is None
    assert (await discarded(keeper))[DROPPED] == 1
    assert "this morning" not in keeper.worker.child.text(), "without a terminal its output is a log"


async def test_a_live_message_has_the_guard_of_30_s_under_up_too(keeper: Town) -> None:
    sent = await keeper.phone.send("Ana", keeper.market.id, "slow", t=int(time.time()) - LIVE_SECONDS - 30)
    await keeper.phone.wait_receipts([sent])
    assert await keeper.database.message(sent.id) is None


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


@pytest.mark.parametrize("command", ["listener", "keeper"])
async def test_history_is_never_stored(request: pytest.FixtureRequest, command: str) -> None:
    listener: Town = request.getfixturevalue(command)
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


async def test_a_history_of_thousands_holds_nothing_up_and_nothing_of_it_is_stored(listener: Town) -> None:
    generate = {"people": 3000, "messages": 20_000, "to": listener.market.id}
    await listener.phone.post("/history_sync", {"sync_type": "RECENT", "generate": generate})
    sent = await listener.phone.send("Ana", listener.market.id, "after twenty thousand")
    await listener.database.wait_message(sent.id, seconds=60, tell=listener.worker.child.tail)

    texts = [row["text"] or "" for row in await listener.database.messages()]
    assert not [text for text in texts if text.startswith("old ")]


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
    assert counts[DROPPED] > 0

    assert await listener.worker.child.stop() == 0

    told: dict[str, int] = {}
    for row in await listener.database.events("ingest"):
        for reason, count in row["payload"]["discarded"].items():
            told[reason] = told.get(reason, 0) + count
    assert told == counts
    assert OLD_TEXT not in json.dumps(await listener.database.events())

"""A stanza that ends the sidecar at each delivery: it cannot come back for ever, and its message is stored."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.embedded import EmbeddedSupabase
from testkit.phone import Sent
from testkit.waiting import until
from tests.chaos.rig import Killer, hooked_node
from tests.e2e.town import Town, found_town

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

PATIENCE_SECONDS = 120.0  # a hang is known after 20 s; each death costs a start of Node and a login


@pytest.fixture
async def own_town(tmp_path: Path, supabase: EmbeddedSupabase, session: str) -> AsyncIterator[Town]:
    """One for each test: after six ends in a row a worker waits for minutes."""
    settings = {
        "WORKER_NODE": str(hooked_node(tmp_path)),
        "WORKER_CATCH_UP_S": "3600",
        "WORKER_BACKOFF_BASE_MS": "10",
        "WORKER_BACKOFF_MAX_MS": "50",
    }
    async with found_town(tmp_path, supabase, session=session, settings=settings) as town:
        await town.stored("Ana", town.market, "her keys")
        yield town


async def stored(town: Town, sent: Sent, text: str) -> None:
    async def probe() -> bool:
        rows = await town.database.messages(wa_msg_id=sent.id)
        return bool(rows) and rows[0]["text"] == text

    await until(f"the text of {sent.id}", probe, seconds=PATIENCE_SECONDS, tell=town.worker.child.tail)


async def kinds(town: Town, sent: Sent) -> list[str]:
    return [item["kind"] for item in await town.phone.receipts() if item["id"] == sent.id]


async def undecrypted(town: Town) -> list[dict[str, object]]:
    return await town.database.rows("wa_refused_stanzas", session_id=town.database.session, state="undecrypted")


async def test_a_stanza_that_hangs_the_sidecar_and_then_ends_it_is_asked_for_again_and_others_go_on(
    own_town: Town,
) -> None:
    town = own_town
    killer = Killer(town.folder, "3EB0KILLER1", ["hang", "exit"])
    sent = await town.phone.send("Ana", town.market.id, "at last", id="3EB0KILLER1")
    beside = await town.phone.send("Ben", town.market.id, "beside it")

    await stored(town, sent, "at last")
    await stored(town, beside, "beside it")

    assert killer.deaths == 2, "at its third delivery it was not decrypted"
    await town.phone.wait_receipts([sent, beside])
    assert await kinds(town, sent) == ["retry", "ack", "receipt"]
    assert await undecrypted(town) == [], "the good copy took its place"
    errors = [row["payload"] for row in await town.database.events("error")]
    (told,) = [error for error in errors if error["code"] == "MESSAGE_UNDECRYPTED"]
    assert "asked for another copy" in told["msg"]
    killer.disarm()


async def test_what_no_good_copy_replaces_is_kept_whole(own_town: Town) -> None:
    town = own_town
    killer = Killer(town.folder, "3EB0KILLER2", ["exit"])
    sent = await town.phone.send("Ana", town.market.id, "never again", id="3EB0KILLER2", fault={"never": True})

    async def probe() -> list[dict[str, object]] | None:
        return await undecrypted(town) or None

    (kept,) = await until("the stanza", probe, seconds=PATIENCE_SECONDS, tell=town.worker.child.tail)
    assert (kept["wa_msg_id"], kept["sender"]) == (sent.id, town.people["Ana"].lid)
    stanza = json.loads(base64.b64decode(str(kept["body"])))
    assert stanza["attrs"]["id"] == sent.id
    assert [child["attrs"]["type"] for child in stanza["content"] if child["tag"] == "enc"] == ["skmsg"]
    (row,) = await town.database.messages(wa_msg_id=sent.id)
    assert (row["kind"], row["pending"]) == ("undecryptable", True)
    assert killer.deaths == 2
    await town.phone.wait_for("queue_empty")
    killer.disarm()


async def test_an_innocent_message_at_which_somebody_kills_the_sidecar_four_times_is_stored_as_it_came(
    own_town: Town,
) -> None:
    town = own_town
    killer = Killer(town.folder, "3EB0KILLER3", ["SIGKILL"])
    sent = await town.phone.send("Ana", town.market.id, "innocent", id="3EB0KILLER3")

    async def fourth() -> bool:
        return killer.deaths >= 4

    await until("four kills", fourth, seconds=PATIENCE_SECONDS, every=0.005, tell=town.worker.child.tail)
    killer.disarm()
    await stored(town, sent, "innocent")
    await town.phone.wait_receipts([sent])
    assert await kinds(town, sent) == ["receipt"]


async def test_a_direct_message_that_ends_the_sidecar_leaves_a_count_only(own_town: Town) -> None:
    town = own_town
    killer = Killer(town.folder, "3EB0KILLER4", ["exit"])
    sent = await town.phone.send("Chika", "direct", "private-7d1c", id="3EB0KILLER4")

    await town.phone.wait_receipts([sent], seconds=PATIENCE_SECONDS, kinds=["ack"])

    assert killer.deaths == 2
    assert await kinds(town, sent) == ["ack"]
    assert await town.database.rows("wa_refused_stanzas", session_id=town.database.session) == []
    assert "private-7d1c" not in town.worker.child.text()
    killer.disarm()


async def test_what_was_discarded_undecrypted_and_comes_again_after_a_kill_is_counted_once(own_town: Town) -> None:
    town = own_town

    async def counted() -> int:
        rows = await town.database.rows("wa_discards", session_id=town.database.session, reason="not_a_group")
        return sum(row["count"] for row in rows)

    before = await counted()  # what the account's own phone sends when it links
    armed = town.folder / "crash" / "answered"  # the commit is answered, and nothing has left
    armed.parent.mkdir()
    armed.touch()
    sent = await town.phone.send("Chika", "direct", "", fault={"garbage": 120, "never": True})

    await town.phone.wait_receipts([sent], seconds=PATIENCE_SECONDS, kinds=["ack"])
    assert not armed.exists(), "the sidecar was killed"
    await town.stored("Ana", town.market, "and durable is what was answered")
    assert await counted() == before + 1

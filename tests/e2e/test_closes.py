"""Every way in which a connection ends, done by the virtual phone: what the tables then say, and what happens next.

What a close means is `tests/unit/test_closes.py`; here it comes over the wire, through Baileys. One worker lives
through all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from testkit.database import Row
from testkit.embedded import EmbeddedSupabase
from testkit.phone import PhoneError
from tests.e2e.town import Town, found_town, link

pytestmark = pytest.mark.anyio

BASE_SECONDS, CAP_SECONDS, JITTER_SECONDS = 0.02, 0.2, 0.5
NOTHING: dict[str, Any] = {}


@pytest.fixture(scope="module")
async def shore(tmp_path_factory: pytest.TempPathFactory, supabase: EmbeddedSupabase) -> AsyncIterator[Town]:
    """A linked worker whose pauses are short."""
    settings = {
        "WORKER_BACKOFF_BASE_MS": str(round(BASE_SECONDS * 1000)),
        "WORKER_BACKOFF_MAX_MS": str(round(CAP_SECONDS * 1000)),
        "WORKER_CATCH_UP_S": "3600",
    }
    async with found_town(tmp_path_factory.mktemp("shore"), supabase, session="closes", settings=settings) as town:
        yield town


@pytest.fixture
async def town(shore: Town) -> Town:
    """The same worker, connected, whatever the test before has left behind."""
    await shore.phone.fault("clear")
    if not (await shore.phone.state())["connected"]:
        await ask_for_a_refresh(shore)
        await settled(shore)
    return shore


async def ask_for_a_refresh(town: Town) -> None:
    await town.database.raise_flag("wa_refresh_qr_requested")


async def settled(town: Town) -> None:
    """Wait until the worker is connected, scanning a code if it shows one."""

    async def connected_or_qr() -> str | None:
        if (await town.phone.state())["connected"] and await town.database.status() == "connected":
            return "connected"
        return await town.database.qr()

    found = await town.database.until("connected, or a QR", connected_or_qr, 30, town.worker.child.tail)
    if found != "connected":
        await link(town.phone, town.worker, town.database)


@dataclass(frozen=True, kw_only=True)
class Close:
    """A fault, and what the audit log must say of it."""

    fault: str
    more: dict[str, Any] = field(default_factory=dict)
    code: int | None
    reason: str
    first: str | None = None  # what ends the present connection, if the fault itself waits for the next one


async def suffer(town: Town, close: Close) -> tuple[int, Row]:
    """Do it; the audit log's last id before it, and the entry of the disconnect that it is about."""
    last = await town.database.last_event()
    await town.phone.fault(close.fault, **close.more)
    if close.first:
        await town.phone.fault(close.first)

    async def told() -> Row | None:
        entries = [row["payload"] for row in await town.database.events("disconnect") if row["id"] > last]
        return next((each for each in entries if each["code"] == close.code and close.reason in each["reason"]), None)

    what = f"a disconnect with code {close.code} and {close.reason!r}"
    return last, await town.database.until(what, told, 30, town.worker.child.tail)


async def later(town: Town, event: str, last: int) -> list[Row]:
    return [row["payload"] for row in await town.database.events(event) if row["id"] > last]


PASSING = [
    pytest.param(
        Close(fault="stream_error", more={"code": 503}, code=503, reason="Stream Errored"), id="503 server restart"
    ),
    pytest.param(
        Close(fault="stream_error", more={"code": 500, "text": "ack"}, code=500, reason="(ack)"), id="500 ack"
    ),
    pytest.param(Close(fault="stream_error", more={"code": 500, "text": "text"}, code=500, reason=""), id="500"),
    pytest.param(Close(fault="drop", code=428, reason="Connection"), id="TCP reset"),
    pytest.param(Close(fault="close", code=428, reason="Connection"), id="WebSocket close"),
    pytest.param(Close(fault="xmlstreamend", code=428, reason="Connection"), id="end of stream"),
    pytest.param(Close(fault="corrupt_frame", code=428, reason="could not be read"), id="a frame that no key opens"),
    pytest.param(
        Close(fault="http_503", more={"times": 2}, code=503, reason="HTTP 503 at the upgrade", first="drop"),
        id="HTTP 503 at the upgrade",
    ),
    pytest.param(Close(fault="garbage_handshake", code=None, reason="", first="drop"), id="nonsense for a handshake"),
    pytest.param(Close(fault="version_outdated", code=405, reason="", first="drop"), id="405 outdated"),
    pytest.param(Close(fault="failure", more={"reason": 409}, code=409, reason="", first="drop"), id="409 refused"),
    pytest.param(Close(fault="failure", more={"reason": 599}, code=599, reason="", first="drop"), id="unknown code"),
]


@pytest.mark.parametrize("close", PASSING)
async def test_what_passes_is_tried_again_with_pauses_by_the_contracts_formula(town: Town, close: Close) -> None:
    before = await town.database.session_row()
    last, _ = await suffer(town, close)
    await settled(town)

    attempts = await later(town, "reconnect", last)
    assert attempts
    for entry in attempts:
        pause = min(CAP_SECONDS, BASE_SECONDS * 2 ** (entry["attempt"] - 1))
        assert pause <= entry["delay"] <= pause + JITTER_SECONDS, entry
    row = await town.stored("Ana", town.market, f"after {close.fault}")
    assert row["text"] == f"after {close.fault}"
    after = await town.database.session_row()
    assert before is not None
    assert after is not None
    assert (after["status"], after["detail"]["state"], after["wa_number"]) == (
        "connected",
        "connected",
        before["wa_number"],
    )
    assert "qr_generated" not in [row["event"] for row in await town.database.events() if row["id"] > last]


async def test_515_connects_again_at_once(town: Town) -> None:
    last, _ = await suffer(town, Close(fault="stream_error", more={"code": 515}, code=515, reason="Stream Errored"))
    await settled(town)
    assert await later(town, "reconnect", last) == [{"attempt": 0, "delay": 0.0}]


async def test_a_refused_connection_alerts_whoever_reads_the_audit_log(town: Town) -> None:
    last, _ = await suffer(town, Close(fault="failure", more={"reason": 409}, code=409, reason="", first="drop"))
    await settled(town)
    (error,) = [each for each in await later(town, "error", last) if each["code"] == "CONNECTION_REFUSED"]
    assert error["ctx"]["status"] == 409
    assert "code 409" in error["msg"]


NEEDS_A_PERSON = [
    pytest.param(
        Close(fault="conflict", more={"type": "replaced"}, code=440, reason="conflict"),
        "Another program has taken over this linked device",
        id="440 replaced",
    ),
    pytest.param(
        Close(fault="failure", more={"reason": 403}, code=403, reason="", first="drop"),
        "WhatsApp has locked this account",
        id="403 locked",
    ),
    pytest.param(
        Close(fault="failure", more={"reason": 406}, code=406, reason="", first="drop"),
        "WhatsApp has banned this account",
        id="406 banned",
    ),
    pytest.param(
        Close(fault="failure", more={"reason": 414}, code=414, reason="", first="drop"),
        "refuses this device's credentials (code 414)",
        id="414 invalid credentials",
    ),
    pytest.param(
        Close(fault="foreign_root", more={"times": -1}, code=400, reason="certificate", first="drop"),
        "The server's certificate is not WhatsApp's",
        id="a server with another root",
    ),
]


@pytest.mark.parametrize(("close", "say"), NEEDS_A_PERSON)
async def test_what_needs_a_person_stays_down_says_so_and_never_loops(town: Town, close: Close, say: str) -> None:
    before = await town.database.session_row()
    last, _ = await suffer(town, close)

    async def needs_you() -> Row | None:
        row = await town.database.session_row()
        return row if row and row["detail"].get("state") == "needs_you" else None

    row = await town.database.until("state needs_you", needs_you, tell=town.worker.child.tail)
    sockets = await opened(town)
    assert row["status"] == "disconnected"
    assert row["detail"].get("next_attempt_at") is None, "it has no plan to try again"
    assert say in row["detail"]["say"]
    (error,) = [each for each in await later(town, "error", last) if each["code"] == "NEEDS_A_PERSON"]
    assert say in error["msg"]
    assert before is not None
    assert row["creds_json"] is not None, "never a reason to forget the account"
    assert row["wa_number"] == before["wa_number"]
    await town.phone.fault("clear")
    await ask_for_a_refresh(town)
    await settled(town)
    assert await opened(town) == sockets + 1, "it tried again when asked, and not before"
    assert "qr_generated" not in [each["event"] for each in await town.database.events() if each["id"] > last]


async def opened(town: Town) -> int:
    return sum(item["kind"] == "socket_open" for item in await town.phone.log())


async def test_a_ban_with_an_end_is_waited_out(town: Town) -> None:
    more = {"reason": 402, "attrs": {"code": "101", "expire": "2"}}
    last, _ = await suffer(town, Close(fault="failure", more=more, code=402, reason="", first="drop"))
    await settled(town)
    (error,) = [each for each in await later(town, "error", last) if each["code"] == "NEEDS_A_PERSON"]
    assert "banned this account for 2 seconds" in error["msg"]


async def test_an_unlinked_device_forgets_the_account_and_a_false_signature_is_refused(town: Town) -> None:
    last = await town.database.last_event()
    await town.phone.unpair()
    qr = await town.database.wait_qr(tell=town.worker.child.tail)
    row = await town.database.session_row()
    assert row is not None
    assert (row["status"], row["wa_number"], row["wa_name"]) == ("connecting", None, None)
    (entry,) = await later(town, "disconnect", last)
    assert (entry["code"], "conflict" in entry["reason"]) == (401, True)

    with pytest.raises(PhoneError, match="did not counter-sign"):
        await town.phone.scan(qr, tamper="account_signature", timeout_ms=3000)

    async def refused() -> Row | None:
        detail = await town.database.detail()
        return detail if detail.get("state") == "needs_you" else None

    detail = await town.database.until("state needs_you", refused, tell=town.worker.child.tail)
    assert "account signature is not genuine" in detail["say"]
    assert "qr" not in detail
    await ask_for_a_refresh(town)
    await settled(town)
    row = await town.stored("Ana", town.market, "linked again, and the switches are as they were")
    assert row["chat_id"] == town.market.id


async def test_a_device_that_was_unlinked_while_we_were_away_asks_for_a_scan_too(town: Town) -> None:
    await town.phone.fault("refuse", on=True)
    await town.phone.fault("drop")
    await town.phone.wait_for("disconnected")
    await town.phone.unpair()
    last = await town.database.last_event()
    await town.phone.fault("refuse", on=False)
    await town.database.wait_qr(tell=town.worker.child.tail)
    assert [each["code"] for each in await later(town, "disconnect", last)][-1] == 401
    await settled(town)

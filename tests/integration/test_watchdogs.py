"""A phone that goes deaf, mute or slow, a sidecar that hangs, a message that is never done: the worker notices.

The worker runs in this process with shorter time-outs, over the real sidecar and the virtual phone. What counts as a
stall is `tests/unit/test_policies.py`; the escalation by itself `tests/unit/test_connection.py`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from testkit.inside import Inside, inside
from testkit.phone import VirtualPhone
from testkit.processes import alive
from tests.chaos.rig import Killer, hooked_node
from worker.errors import Stuck
from worker.session import watchdog
from worker.store.embedded import Endpoint

pytestmark = pytest.mark.anyio

KEEP_ALIVE_MS = 300
BAILEYS_PATIENCE_SECONDS = KEEP_ALIVE_MS / 1000 + 5.0  # its own rule: five seconds over the interval
STUCK_MS = watchdog.STANZA_STUCK_MS
FAST_KEEP_ALIVE = {"wa_keep_alive_ms": KEEP_ALIVE_MS}


@pytest.fixture(autouse=True)
def no_pause_between_group_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.session.discovery.SPACING_SECONDS", 0.05)


async def test_silence_in_quiet_groups_and_a_slow_phone_are_no_stalls_but_a_deaf_one_is(
    tmp_path: Path, embedded: Endpoint, session: str
) -> None:
    # A pause before it tries again, so that what the web app shows of the close can be read.
    patient = {**FAST_KEEP_ALIVE, "worker_backoff_base_ms": 2000, "worker_backoff_max_ms": 2000}
    async with inside(tmp_path, embedded, session, settings=patient) as it:
        await it.link()
        logins = (await it.phone.state())["logins"]
        last = await it.database.last_event()

        await pings_of(it, round((BAILEYS_PATIENCE_SECONDS + 1) * 1000 / KEEP_ALIVE_MS))  # and nobody writes
        await it.phone.fault("slow", ms=200)
        await it.stored(it.market, "by a slow phone")
        await it.phone.fault("clear")
        assert (await it.phone.state())["logins"] == logins
        assert await it.payloads("disconnect", last) == []

        await it.phone.fault("deaf")
        entry = await it.told("disconnect", last)
        assert (entry["code"], entry["reason"]) == (408, "Connection was lost")
        assert (await it.database.detail())["say"].startswith("The connection to WhatsApp was lost")
        await it.phone.fault("clear")
        await it.connected()
        await it.stored(it.market, "it hears again")


async def pings_of(it: Inside, count: int) -> None:
    """Wait until the phone has answered so many pings of Baileys, which sends one in each KEEP_ALIVE_MS."""

    async def sent() -> bool:
        pings = [item for item in await it.phone.log(since) if item["kind"] == "query" and item["xmlns"] == "w:p"]
        return len(pings) >= count

    since = len(await it.phone.log())
    await it.until(f"{count} pings", sent, seconds=60)


async def test_a_mute_phone_is_left_and_tried_again(tmp_path: Path, embedded: Endpoint, session: str) -> None:
    async with inside(tmp_path, embedded, session, settings=FAST_KEEP_ALIVE) as it:
        await it.link()
        last = await it.database.last_event()
        await it.phone.fault("mute")
        sent = await it.phone.send("Ana", it.market.id, "said while nothing came through")
        assert (await it.told("disconnect", last))["code"] == 408
        await it.phone.fault("clear")
        await it.row(sent)
        await it.connected()


async def test_a_connection_that_never_opens_escalates_from_socket_to_sidecar_to_worker(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.session.socket.OPEN_WITHIN_SECONDS", 0.5)

    async def no_qr(phone: VirtualPhone) -> None:
        await phone.fault("no_qr", times=-1)

    async with inside(tmp_path, embedded, session, before=no_qr) as it:
        pids: list[int] = []

        async def ended() -> bool:
            if it.sidecar_pid is not None and it.sidecar_pid not in pids:
                pids.append(it.sidecar_pid)
            return it.ended is not None

        await it.until("the worker to give up", ended)

        assert isinstance(it.ended, Stuck)
        assert [entry["ctx"]["stalls"] for entry in await it.payloads("error", code="STALLED")] == [1, 2, 3, 4]
        assert len(await it.payloads("error", code="SIDECAR_GONE")) == 2
        assert len(pids) == 3, "one for the first two stalls, then a new one for each"
        assert not [pid for pid in pids if alive(pid)]
        detail = await it.database.detail()
        assert detail["state"] == "failed"
        assert "must be started again" in detail["say"]
        assert "did not open in time" in detail["say"]


async def test_a_sidecar_that_hangs_is_replaced(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervisor.PING_EVERY_SECONDS", 0.2)
    # PING_SECONDS stays: on a busy machine a sidecar that loads Baileys does not answer for seconds.
    async with inside(tmp_path, embedded, session) as it:
        await it.link()
        hanging = it.sidecar_pid
        assert hanging is not None
        os.kill(hanging, signal.SIGSTOP)
        sent = await it.phone.send("Ana", it.market.id, "to a sidecar that does not move")

        gone = await it.told("error", code="SIDECAR_GONE")

        assert "did not answer 'ping'" in gone["msg"]
        await it.row(sent)
        await it.connected()
        assert it.sidecar_pid not in (None, hanging)
        assert not alive(hanging)


async def test_a_message_whose_decryption_never_ends_is_a_stall_and_is_not_lost(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.supervisor.PING_EVERY_SECONDS", 0.2)
    async with inside(tmp_path, embedded, session) as it:
        await it.link()
        # Only for the one stall: on a busy machine a good message, too, takes a second.
        monkeypatch.setattr(watchdog, "STANZA_STUCK_MS", 1_000)
        await it.phone.fault("iq_silence", xmlns="usync", times=-1)
        sent = await it.phone.send("A stranger", it.crew.id, "who writes this?", omit_alt=True)

        stalled = await it.told("error", code="STALLED")

        monkeypatch.setattr(watchdog, "STANZA_STUCK_MS", STUCK_MS)
        assert "in work for too long" in stalled["msg"]
        await it.phone.fault("clear")
        assert (await it.row(sent))["text"] == "who writes this?"
        await it.connected()


@pytest.mark.parametrize("way", ["lost", "never"])
async def test_a_stanza_that_never_settles_cannot_come_back_for_ever_though_others_are_stored_meanwhile(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("worker.supervisor.PING_EVERY_SECONDS", 0.2)
    async with inside(tmp_path, embedded, session, settings={"worker_node": hooked_node(tmp_path)}) as it:
        await it.link()
        await it.stored(it.market, "her keys")
        killer = Killer(tmp_path, "3EB0KILLER5", [way])
        monkeypatch.setattr(watchdog, "STANZA_STUCK_MS", 2_000)
        sent = await it.phone.send("Ana", it.market.id, "at last", id="3EB0KILLER5")

        async def at_last() -> bool:
            rows = await it.database.messages(wa_msg_id=sent.id)
            if rows and rows[0]["text"] == "at last":
                return True
            await it.row(await it.phone.send("Ben", it.market.id, "meanwhile"))
            return False

        await it.until("the good copy", at_last, seconds=60)

        assert killer.deaths == 2, "decrypted twice, the second time alone, and then not at all"
        (suspect,) = await it.database.rows("wa_suspects", session_id=session)
        assert (suspect["deaths"], suspect["kills"]) == (2, 0), "Ben's were never suspected"
        assert len(await it.payloads("error", code="STALLED")) == 2

"""A connection that answers pings and brings nothing, or nothing of groups, or not the backlog that was announced.

The worker runs in this process with shorter times, over the real sidecar and the virtual phone. What counts as an
unusual silence is `tests/unit/test_hearing.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from testkit.inside import Inside, inside
from worker.session import deafness
from worker.session.reconnect_policy import BACKLOGS_BEFORE_STAYING
from worker.store.embedded import Endpoint

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def linked(
    folder: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Inside]:
    monkeypatch.setattr("worker.session.discovery.SPACING_SECONDS", 0.05)
    monkeypatch.setattr("worker.supervisor.PING_EVERY_SECONDS", 0.1)
    async with inside(folder, embedded, session) as it:
        await it.link()
        yield it


async def learn_what_is_usual(it: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send until enough was heard; then count a second as unusually long."""
    monkeypatch.setattr(deafness, "ENOUGH_GAPS", 2)

    async def known() -> bool:
        await it.stored(it.market, "something to hear")
        ears = it.host.health.session.deafness
        return ears.anything.usual is not None and ears.groups.usual is not None

    await it.until("enough to know what is usual", known)


@pytest.mark.parametrize("groups", [False, True])
async def test_a_deaf_connection_is_made_anew_once_and_what_waited_is_stored(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, groups: bool
) -> None:
    async with linked(tmp_path, embedded, session, monkeypatch) as it:
        await learn_what_is_usual(it, monkeypatch)
        last = await it.database.last_event()
        await it.phone.fault("deaf_connection", **({"groups": True} if groups else {}))
        sent = await it.phone.send("Ana", it.market.id, "said to a deaf connection")
        monkeypatch.setattr(deafness, "FLOOR_SECONDS", 1.0)
        monkeypatch.setattr(deafness, "TIMES_USUAL", 0.0)

        async def told() -> str | None:
            if groups:
                await it.phone.send("Ben", "direct", "what a connection that is deaf for groups still hears")
            found = await it.payloads("error", last, code="DEAF")
            return found[0]["msg"] if found else None

        reason = await it.until("the silence to be noticed", told)

        monkeypatch.setattr(deafness, "FLOOR_SECONDS", 1e9)
        assert reason.startswith("nothing has arrived from " + ("any group" if groups else "WhatsApp"))
        assert (await it.row(sent))["text"] == "said to a deaf connection"
        await it.connected()
        assert [entry["reason"] for entry in await it.payloads("disconnect", last)] == [reason]
        assert len(await it.payloads("reconnect", last)) == 1


async def test_a_quiet_account_is_connected_to_once_more_warned_of_and_then_left_in_peace(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(tmp_path, embedded, session, monkeypatch) as it:
        await learn_what_is_usual(it, monkeypatch)
        last = await it.database.last_event()
        monkeypatch.setattr(deafness, "FLOOR_SECONDS", 0.5)
        monkeypatch.setattr(deafness, "TIMES_USUAL", 0.0)
        await it.told("error", last, code="DEAF")
        await it.connected()
        looks = 0

        async def looked_often() -> bool:
            nonlocal looks
            looks += it.host.health.session.view is not None and it.host.health.session.view.status == "connected"
            return looks > 40

        await it.until("many looks at the silence", looked_often)
        assert len(await it.payloads("error", last, code="DEAF")) == 1
        ready = it.host.health.describe()
        assert ready["ok"], ready["reasons"]
        assert any("nothing from WhatsApp" in warning for warning in ready["warnings"])
        monkeypatch.setattr(deafness, "FLOOR_SECONDS", 1e9)
        await it.stored(it.market, "it was only quiet")
        await it.until("the warning to go", lambda: no_warnings(it))


async def test_a_backlog_that_was_announced_and_does_not_come_ends_the_socket_and_not_for_ever(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.session.connection.OFFLINE_HOLD_MS", 1_500)
    async with linked(tmp_path, embedded, session, monkeypatch) as it:
        last = await it.database.last_event()
        await it.phone.fault("preview_more", extra=5, times=-1)
        await it.phone.fault("no_offline_end", times=-1)
        await it.phone.fault("close")

        async def stays() -> bool:
            return len(await it.payloads("error", last, code="BACKLOG_STALLED")) > BACKLOGS_BEFORE_STAYING

        await it.until("it to stay", stays, seconds=60)

        reasons = [entry["reason"] for entry in await it.payloads("disconnect", last)]
        assert len([reason for reason in reasons if "announced 5 waiting stanzas, sent 0" in reason]) == (
            BACKLOGS_BEFORE_STAYING
        )
        await it.stored(it.market, "live messages come all the same")
        await it.phone.fault("clear")


async def test_an_empty_connection_after_a_preview_is_left_and_the_next_one_gets_what_waited(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.session.connection.OFFLINE_HOLD_MS", 1_500)
    async with linked(tmp_path, embedded, session, monkeypatch) as it:
        last = await it.database.last_event()
        await it.phone.fault("preview_more", extra=1)
        await it.phone.fault("no_offline_end", live=False)
        await it.phone.fault("close")
        await it.told("connect", last)
        sent = await it.phone.send("Ana", it.market.id, "withheld with the end of the backlog")
        assert (await it.row(sent))["text"] == "withheld with the end of the backlog"
        assert [entry["ctx"]["times"] for entry in await it.payloads("error", last, code="BACKLOG_STALLED")] == [1]


async def no_warnings(it: Inside) -> bool:
    return not it.host.health.session.deafness.warnings

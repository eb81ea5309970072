"""What only shows with another clock or other pauses, over the real sidecar and the virtual phone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from testkit.inside import inside
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
        assert abs(skew["ctx"]["skew_s"] + ahead) <= 10  # a busy machine; the wrong sign would be 62 off
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


async def test_a_version_that_whatsapp_refuses_is_looked_up_and_the_one_that_works_is_kept(
    tmp_path: Path, embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = b'self.a={"client_revision":1099999999}'

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(script) + script)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - that rule thinks of Django
    monkeypatch.setattr("worker.session.connection.SOURCE", f"http://127.0.0.1:{port}/sw.js")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        async with inside(tmp_path, embedded, session) as it:
            await it.link()
            last = await it.database.last_event()
            await it.phone.fault("version_outdated")
            await it.phone.fault("drop")
            await it.told("disconnect", last, code=405)
            await it.told("connect", last)

            logins = [entry["version"] for entry in await it.phone.log() if entry["kind"] == "login"]
            assert (logins[-1], len(set(logins))) == ("2.3000.1099999999", 2)
            assert (await it.database.detail())["version"] == [2, 3000, 1099999999]
        group.cancel_scope.cancel()

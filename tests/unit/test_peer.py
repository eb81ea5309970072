"""JSON-RPC with the sidecar: ids, time-outs, answers, order, and an end that wakes everybody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from worker.bridge import peer as peer_module
from worker.bridge.peer import Handler, Peer
from worker.bridge.protocol import Commit, Committed, Loaded, Nothing, Offline, Qr, StateGet, Values
from worker.errors import CallFailed, CallTimeout, SidecarGone, StaleEpoch, StateError, StoreUnavailable, WorkerError

BOUND = 5.0  # no wait in these tests takes longer, whatever breaks
PONG = {
    "rss_bytes": 1, "heap_bytes": 1, "log_items": 0, "log_bytes": 0, "log_bytes_max": 0, "held_frames": 0,
    "longest_hold_ms": 0, "open_sections": 0, "loop_lag_ms": 1, "stanzas_in": 0, "stanzas_out": 0,
    "stuck_ms": None, "stuck_hash": None, "last_stanza_at_ms": None, "last_group_stanza_at_ms": None, "swallowed": 0,
    "complete": None,
}  # fmt: skip


class Far:
    """The sidecar's end of the wire."""

    def __init__(self) -> None:
        self._to_worker, self._lines = anyio.create_memory_object_stream[dict[str, Any]](100)
        self._sent, self._from_worker = anyio.create_memory_object_stream[dict[str, Any]](100)
        self.ended: BaseException | None = None

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        async for line in self._lines:
            yield line

    async def send(self, document: dict[str, Any]) -> None:
        """What the peer writes."""
        await self._sent.send(document)

    async def says(self, **document: Any) -> None:
        await self._to_worker.send({"jsonrpc": "2.0", **document})

    async def hears(self) -> dict[str, Any]:
        return await self._from_worker.receive()

    def hang_up(self) -> None:
        self._to_worker.close()

    def close(self) -> None:
        for stream in (self._to_worker, self._lines, self._sent, self._from_worker):
            stream.close()


@asynccontextmanager
async def link(handlers: Mapping[str, Handler] | None = None) -> AsyncIterator[tuple[Peer, Far]]:
    far = Far()
    peer = Peer(far.lines(), far, handlers or {})

    async def run() -> None:
        try:
            await peer.run()
        except Exception as error:
            far.ended = error

    with anyio.fail_after(BOUND), peer:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(run)
            yield peer, far
            task_group.cancel_scope.cancel()
    far.close()


async def test_an_answer_reaches_the_call_that_it_belongs_to() -> None:
    async with link() as (peer, far):
        results: dict[str, int] = {}

        async def close(name: str) -> None:
            results[name] = await peer.close(logout=False, drain_seconds=1)

        async with anyio.create_task_group() as calls:
            calls.start_soon(close, "first")
            first = await far.hears()
            calls.start_soon(close, "second")
            second = await far.hears()
            await far.says(id=second["id"], result={"pending": 2})
            await far.says(id=first["id"], result={"pending": 1})
        assert results == {"first": 1, "second": 2}
        assert first["method"] == "close"
        assert first["params"] == {"logout": False, "drain_ms": 1000}


async def test_a_call_without_parameters_says_so_with_an_empty_object() -> None:
    async with link() as (peer, far), anyio.create_task_group() as calls:
        calls.start_soon(peer.ping)
        asked = await far.hears()
        assert asked["params"] == {}
        await far.says(id=asked["id"], result=PONG)


async def test_a_call_that_is_not_answered_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "PING_SECONDS", 0.01)
    async with link() as (peer, far):
        with pytest.raises(CallTimeout, match="ping"):
            await peer.ping()
        late = await far.hears()
        await far.says(id=late["id"], result=PONG)
        monkeypatch.setattr(peer_module, "PING_SECONDS", BOUND)
        async with anyio.create_task_group() as calls:
            calls.start_soon(peer.ping)
            await far.says(id=(await far.hears())["id"], result=PONG)


async def test_an_error_carries_its_code_and_data() -> None:
    async with link() as (peer, far), anyio.create_task_group() as calls:

        async def ask() -> None:
            with pytest.raises(CallFailed) as failed:
                await peer.groups()
            assert (failed.value.code, failed.value.data) == (-32000, {"status": 429})

        calls.start_soon(ask)
        asked = await far.hears()
        await far.says(id=asked["id"], error={"code": -32000, "message": "rate-overlimit", "data": {"status": 429}})


@pytest.mark.parametrize(
    "answer", [{"result": {}}, {"result": {"pending": "1"}}, {"error": "no"}, {"error": {"code": 1}}, {"result": None}]
)
async def test_a_malformed_answer_ends_the_link_for_the_caller(answer: dict[str, Any]) -> None:
    async with link() as (peer, far), anyio.create_task_group() as calls:

        async def ask() -> None:
            with pytest.raises(SidecarGone):
                await peer.close(logout=False, drain_seconds=0)

        calls.start_soon(ask)
        await far.says(id=(await far.hears())["id"], **answer)


async def test_the_end_of_the_stream_wakes_every_waiter() -> None:
    async with link() as (peer, far):
        woken: list[str] = []

        async def ask() -> None:
            with pytest.raises(SidecarGone, match="closed its end"):
                await peer.ping()
            woken.append("call")

        async def listen() -> None:
            async for _ in peer.notifications:
                pass
            woken.append("notifications")

        async with anyio.create_task_group() as waiters:
            for _ in range(3):
                waiters.start_soon(ask)
                await far.hears()
            waiters.start_soon(listen)
            far.hang_up()
        assert sorted(woken) == ["call", "call", "call", "notifications"]
        with pytest.raises(SidecarGone):
            await peer.ping()


async def test_requests_are_answered_side_by_side() -> None:
    gate = anyio.Event()

    async def load(_: Nothing) -> Loaded:
        await gate.wait()
        return Loaded(creds=None)

    async def get(asked: StateGet) -> Values:
        gate.set()
        return Values(values={asked.ids[0]: "v"})

    async with link({"state.load": load, "state.get": get}) as (_, far):
        await far.says(id=1, method="state.load", params={})
        await far.says(id="two", method="state.get", params={"type": "session", "ids": ["a"]})
        answers = [await far.hears(), await far.hears()]
        assert {"jsonrpc": "2.0", "id": "two", "result": {"values": {"a": "v"}}} in answers
        assert {"jsonrpc": "2.0", "id": 1, "result": {"creds": None}} in answers


async def test_an_answer_arrives_while_more_requests_than_run_at_once_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "REQUESTS_AT_ONCE", 1)
    database, asked = anyio.Event(), []

    async def get(state: StateGet) -> Values:
        asked.append(state.ids[0])
        await database.wait()
        return Values(values={})

    async with link({"state.get": get}) as (peer, far):
        for n in range(3):
            await far.says(id=n, method="state.get", params={"type": "session", "ids": [str(n)]})
        async with anyio.create_task_group() as calls:
            calls.start_soon(peer.ping)
            await far.says(id=(await far.hears())["id"], result=PONG)
        assert asked == ["0"], "the others wait for their turn"
        database.set()
        assert [(await far.hears())["id"] for _ in range(3)] == [0, 1, 2]
        assert asked == ["0", "1", "2"], "in order"


async def test_a_flood_of_requests_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "REQUESTS_WAITING", 5)

    async def load(_: Nothing) -> Loaded:
        await anyio.sleep_forever()
        raise AssertionError

    async with link({"state.load": load}) as (peer, far):
        for n in range(6):
            await far.says(id=n, method="state.load", params={})
        assert [each async for each in peer.notifications] == []
        with pytest.raises(SidecarGone, match="floods"):
            await peer.ping()


@pytest.mark.parametrize(
    ("error", "reason", "because"),
    [
        (StoreUnavailable("x"), "unavailable", "the sidecar sends the same again"),
        (StaleEpoch("x"), "stale", "the sidecar ends the socket and drops its log"),
        (StateError("x"), "unreadable", "never to be taken for absent"),
    ],
)
async def test_a_failed_handler_tells_its_reason(error: WorkerError, reason: str, because: str) -> None:
    async def commit(_: Commit) -> Committed:
        raise error

    async with link({"commit": commit}) as (_, far):
        await far.says(id=1, method="commit", params={"epoch": 1, "seq": 1, "stanzas": [], "events": []})
        assert (await far.hears())["error"]["data"] == {"reason": reason}, because


async def test_a_request_that_is_malformed_or_unknown_is_refused_without_its_content() -> None:
    async with link({"commit": None}) as (_, far):  # type: ignore[dict-item]
        await far.says(id=1, method="commit", params={"epoch": 1, "stanzas": "the secret text"})
        refused = (await far.hears())["error"]
        assert refused["code"] in (-32601, -32602)
        assert "secret" not in str(refused)
        await far.says(id=2, method="weather", params={})
        assert (await far.hears())["error"]["code"] == -32601


async def test_a_fault_of_ours_in_a_handler_goes_up() -> None:
    async def load(_: Nothing) -> Loaded:
        raise ZeroDivisionError

    async with link({"state.load": load}) as (peer, far):
        await far.says(id=1, method="state.load", params={})
        async for _ in peer.notifications:
            pass
        await anyio.lowlevel.checkpoint()
        assert isinstance(far.ended, ZeroDivisionError)


async def test_an_answer_that_is_too_long_for_the_wire_is_an_error_and_not_the_end() -> None:
    async def get(_: object) -> Values:
        return Values(values={"a": "x" * 1000})

    async with link({"state.get": get}) as (_, far):
        plain_send = far.send

        async def bounded(document: dict[str, Any]) -> None:
            if len(str(document)) > 500:
                raise ValueError("a line of 1000 bytes is over the wire's limit of 500")
            await plain_send(document)

        far.send = bounded  # type: ignore[method-assign]
        for number in (1, 2):
            await far.says(id=number, method="state.get", params={"type": "session", "ids": ["a"]})
            answer = await far.hears()
            assert (answer["id"], answer["error"]["data"]) == (number, {"reason": "unavailable"})
        assert far.ended is None


async def test_notifications_keep_their_order() -> None:
    async with link() as (peer, far):
        for n in range(50):
            await far.says(method="offline", params={"count": n})
        await far.says(method="qr", params={"qr": "x", "ttl_ms": 1})
        told = [await peer.notifications.receive() for _ in range(51)]
        assert told == [*(Offline(count=n) for n in range(50)), Qr(qr="x", ttl_ms=1)]


@pytest.mark.parametrize(
    "document",
    [{"method": "qr", "params": {"qr": 5}}, {"nothing": "known"}],
    ids=["a malformed notification", "no JSON-RPC at all"],
)
async def test_nonsense_from_the_sidecar_ends_the_link(document: dict[str, Any]) -> None:
    async with link() as (peer, far):
        await far.says(**document)
        async for _ in peer.notifications:
            pass
        with pytest.raises(SidecarGone):
            await peer.ping()


async def test_an_unknown_notification_is_passed_over() -> None:
    async with link() as (peer, far):
        await far.says(method="weather", params={"rain": True})
        await far.says(method="offline", params={"count": 1})
        assert await peer.notifications.receive() == Offline(count=1)


async def test_a_flood_of_notifications_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "NOTIFICATIONS_AT_ONCE", 5)
    async with link() as (peer, far):
        for n in range(6):
            await far.says(method="offline", params={"count": n})
        received = [each async for each in peer.notifications]
        assert len(received) == 5
        with pytest.raises(SidecarGone, match="floods"):
            await peer.ping()

"""A running worker behind a gateway that answers in Supabase's place: nothing ends it, and it says why it waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.proxy import FaultProxy, Rule
from tests.integration.test_supervisor import OPENS, Running, running
from worker.store import Store
from worker.store.embedded import Endpoint

JWT = b'{"code":"PGRST303","message":"JWT issued at future","details":null,"hint":null}'
NO_FUNCTION = b'{"code":"PGRST202","message":"Could not find the function","details":null,"hint":null}'
INTERNAL = b'{"code":"XX000","message":"internal error","details":null,"hint":null}'
PAGE = b"<html><h1>Just a moment</h1></html>"
ODD = [
    *[(status, body) for status in (200, 301, 401, 403, 404, 413, 500, 540, 544) for body in (PAGE, b"", b"{}")],
    (204, b""),
    (401, JWT),
    (404, NO_FUNCTION),
    (500, INTERNAL),
    (402, b'{"message":"exceed_egress_quota"}'),
    (404, b'{"error":"requested path is invalid"}'),
]


@pytest.fixture
async def gateway(embedded: Endpoint) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(embedded.url, "gateway") as proxy:
        yield proxy


async def _is_over(worker: Running, rule: Rule) -> None:
    await worker.until(
        f"hits of {rule.status} {rule.content!r}, {rule.hits} so far",
        lambda: rule.over or worker.process.poll() is not None,
    )
    assert worker.process.poll() is None, worker.log.read_text()[-2000:]


async def test_no_answer_ends_a_running_worker(
    tmp_path: Path, embedded: Endpoint, store: Store, gateway: FaultProxy
) -> None:
    settings = {"SUPABASE_URL": gateway.url}
    async with running(tmp_path, embedded, store, OPENS, settings) as worker:
        await worker.state("connected")
        for status, body in ODD:
            rule = gateway.arm(Rule(kind="gateway", status=status, content=body, times=3))
            await _is_over(worker, rule)
        renewed = gateway.arm(Rule(kind="gateway", function="wa_lease_acquire", status=401, content=JWT, times=2))
        await _is_over(worker, renewed)
        await worker.state("connected")
        assert "Traceback" not in worker.log.read_text()


async def test_an_outage_of_odd_answers_is_named_and_ends_by_itself(
    tmp_path: Path, embedded: Endpoint, store: Store, gateway: FaultProxy
) -> None:
    settings = {"SUPABASE_URL": gateway.url, "WORKER_LEASE_S": "5"}
    async with running(tmp_path, embedded, store, OPENS, settings) as worker:
        await worker.state("connected")
        gateway.arm(Rule(kind="gateway", status=403, content=PAGE))

        async def named() -> bool:
            reasons = (await worker.get("/readyz")).json()["reasons"]
            return any("HTTP 403 with an HTML page" in reason for reason in reasons)

        await worker.until("the outage with its reason", named)
        gateway.clear()
        await worker.state("connected")
        assert worker.process.poll() is None


@pytest.mark.parametrize(
    ("status", "body", "times"),
    [
        pytest.param(401, JWT, 2, id="a stray 401, twice"),
        pytest.param(404, NO_FUNCTION, 4, id="a schema cache that reloads"),
        pytest.param(404, PAGE, 4, id="a gateway that starts"),
    ],
)
async def test_a_start_survives_what_passes(
    tmp_path: Path, embedded: Endpoint, store: Store, gateway: FaultProxy, status: int, body: bytes, times: int
) -> None:
    rule = gateway.arm(Rule(kind="gateway", function="wa_schema_version", status=status, content=body, times=times))
    async with running(tmp_path, embedded, store, OPENS, {"SUPABASE_URL": gateway.url}) as worker:
        await worker.state("connected")
        assert rule.hits == times


async def test_a_start_waits_for_no_bucket(
    tmp_path: Path, embedded: Endpoint, store: Store, gateway: FaultProxy
) -> None:
    gateway.arm(Rule(kind="storage_gateway", status=403, content=PAGE))
    async with running(tmp_path, embedded, store, OPENS, {"SUPABASE_URL": gateway.url}) as worker:
        await worker.state("connected")
        assert any("bucket" in reason for reason in (await worker.get("/readyz")).json()["reasons"])


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        pytest.param(401, JWT, "SUPABASE_SERVICE_KEY is refused", id="a key that stays refused"),
        pytest.param(404, NO_FUNCTION, "lacks our functions", id="functions that stay missing"),
    ],
)
async def test_a_start_ends_with_code_2_when_it_stays_so(
    tmp_path: Path, embedded: Endpoint, store: Store, gateway: FaultProxy, status: int, body: bytes, words: str
) -> None:
    rule = gateway.arm(Rule(kind="gateway", status=status, content=body))
    settings = {"SUPABASE_URL": gateway.url, "WORKER_BOOT_WAIT_S": "6"}
    async with running(tmp_path, embedded, store, OPENS, settings) as worker:
        assert await worker.ends() == 2
        assert words in worker.lines()[-1]
        assert rule.hits >= 3

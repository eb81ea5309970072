"""A running worker behind a gateway that answers in Supabase's place: nothing ends it, and it says why it waits."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.chaos.proxy import FaultProxy, Rule
from tests.integration.database import Writer, message, rows, writer
from tests.integration.test_supervisor import OPENS, Running, running
from worker.commands.doctor import check_body_size
from worker.errors import StaleEpoch
from worker.ingest.batch_writer import BatchWriter
from worker.store import Committed, KeyChange, Store, connect_store
from worker.store.availability import DatabaseWatch
from worker.store.embedded import Endpoint
from worker.store.session import SessionStore

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
        renewed = gateway.arm(Rule(kind="gateway", function="wa_host_poll", status=401, content=JWT, times=2))
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


TIME_OUT = b'{"code":"57014","message":"canceling statement due to statement timeout","details":null,"hint":null}'
DISLIKED = "http://localhost:3100"


@pytest.fixture
async def behind(embedded: Endpoint, gateway: FaultProxy) -> AsyncIterator[Store]:
    """A store on the far side of the gateway."""
    async with connect_store(gateway.url, embedded.key) as store:
        yield store


async def write(behind: Store, me: Writer, texts: list[str]) -> Committed:
    """One batch with these texts and its keys."""
    messages = [message(f"E{me.epoch}N{n}", n, text=text) for n, text in enumerate(texts)]
    keys = [KeyChange(type="session", id="x", value=f"epoch {me.epoch}")]
    session = SessionStore(behind, me.session, me.fence)
    return await BatchWriter(session, DatabaseWatch()).write(me.batch(messages=messages, keys=keys))


async def check_stored(store: Store, me: Writer, texts: list[str]) -> None:
    found = await rows(store, "messages", me.session)
    assert sorted(row["text"] for row in found) == sorted(texts)
    assert await store.get_keys(me.session, "session", ["x"]) == {"x": f"epoch {me.epoch}"}
    assert await rows(store, "wa_refused_stanzas", me.session) == []
    assert await rows(store, "wa_commit_pieces", me.session, "piece") == []


@pytest.mark.parametrize("disliked", [[3], [0, 1, 2, 7, 19], list(range(20))], ids=["one", "five", "all"])
async def test_a_text_that_a_gateway_dislikes_is_stored_and_the_rest_goes_on(
    store: Store, session: str, behind: Store, gateway: FaultProxy, disliked: list[int]
) -> None:
    me = await writer(store, session)
    rule = gateway.arm(Rule(kind="gateway", status=403, content=PAGE, mark=DISLIKED.encode()))
    texts = [f"{DISLIKED}/{n}" if n in disliked else f"text {n}" for n in range(20)]
    await write(behind, me, texts)
    assert rule.hits > 3
    await check_stored(store, me, texts)


@pytest.mark.parametrize("limit", [4_000, 60_000])
async def test_bodies_above_a_limit_go_in_parts_and_one_alone_in_pieces(
    store: Store, session: str, behind: Store, gateway: FaultProxy, limit: int
) -> None:
    me = await writer(store, session)
    gateway.arm(Rule(kind="gateway", status=413, content=PAGE, larger_than=limit))
    texts = [f"{n} " + "é" * (40_000 if n == 5 else 200) for n in range(30)]
    await write(behind, me, texts)
    await check_stored(store, me, texts)


async def test_parts_are_made_smaller_until_they_are_fast_enough(
    store: Store, session: str, behind: Store, gateway: FaultProxy
) -> None:
    me = await writer(store, session)
    gateway.arm(Rule(kind="gateway", status=500, content=TIME_OUT, more_items_than=30))
    texts = [f"text {n}" for n in range(100)]
    await write(behind, me, texts)
    await check_stored(store, me, texts)


@pytest.mark.parametrize("others", [0, 4])
async def test_a_message_that_always_times_out_is_listed_although_each_connection_ends_before(
    store: Store, session: str, behind: Store, gateway: FaultProxy, others: int
) -> None:
    """The commit of an old connection goes on beside that of the new one, as it does in the worker."""
    me = await writer(store, session)
    rule = gateway.arm(Rule(kind="gateway", status=500, content=TIME_OUT, item_mark="always too slow"))
    texts = ["always too slow", *[f"text {n}" for n in range(others)]]
    messages = [message(f"A{n}", n, text=text) for n, text in enumerate(texts)]
    batches = BatchWriter(SessionStore(behind, session, me.fence), DatabaseWatch())
    stale = 0

    async def connection(epoch: Writer) -> None:
        nonlocal stale
        keys = [KeyChange(type="session", id="x", value=f"epoch {epoch.epoch}")]
        try:
            await batches.write(epoch.batch(messages=messages, keys=keys))
        except StaleEpoch:
            stale += 1

    with anyio.fail_after(60):
        async with anyio.create_task_group() as connections:
            while not (listed := await rows(store, "wa_refused_stanzas", session)):
                connections.start_soon(connection, me)
                hits = rule.hits
                while rule.hits < hits + 2 and not await rows(store, "wa_refused_stanzas", session):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                me = Writer(store, session, me.fence, await store.begin_epoch(session, me.fence))
    assert [(row["wa_msg_id"], row["state"]) for row in listed] == [("A0", "waiting")]
    assert "always too slow" in base64.b64decode(listed[0]["body"]).decode()
    assert sorted(row["text"] for row in await rows(store, "messages", session)) == sorted(texts[1:])
    assert stale > 0


async def test_a_commit_whose_answer_is_lost_is_not_written_again_when_its_size_is_refused(
    store: Store, session: str, behind: Store, gateway: FaultProxy
) -> None:
    me = await writer(store, session)
    lost = gateway.arm(Rule(kind="lost_answer", function="wa_commit", times=1))
    gateway.arm(
        Rule(kind="gateway", function="wa_commit", status=413, content=PAGE, times=2)
    )  # one alone is not believed
    texts = [f"text {n}" for n in range(10)]
    done = await write(behind, me, texts)
    assert (lost.hits, done.duplicate) == (1, True)
    await check_stored(store, me, texts)


@pytest.mark.parametrize("parts", [1, 2, 3])
async def test_a_worker_that_dies_between_the_parts_has_kept_its_keys_for_the_stanzas_that_come_again(
    store: Store, session: str, behind: Store, gateway: FaultProxy, parts: int
) -> None:
    me = await writer(store, session)
    await me.commit(keys=[KeyChange(type="session", id="x", value="unspent")])
    gateway.arm(Rule(kind="gateway", status=413, content=PAGE, larger_than=4_000))
    texts = [f"{n} " + "x" * 500 for n in range(20)]
    messages = [message(f"A{n}", n, text=text) for n, text in enumerate(texts)]
    spent = [KeyChange(type="session", id="x", value="epoch 2")]
    batch = me.batch(messages=messages, keys=spent)
    async with anyio.create_task_group() as dying:
        dying.start_soon(BatchWriter(SessionStore(behind, session, me.fence), DatabaseWatch()).write, batch)
        with anyio.fail_after(60):
            while len(await rows(store, "messages", session)) < parts:  # noqa: ASYNC110 - rows tell of no event
                await anyio.sleep(0.001)
        dying.cancel_scope.cancel()
    if (await store.get_keys(session, "session", ["x"])) == {"x": "unspent"}:
        me = Writer(store, session, me.fence, await store.begin_epoch(session, me.fence))
        again = me.batch(messages=messages, keys=[KeyChange(type="session", id="x", value=f"epoch {me.epoch}")])
        await BatchWriter(SessionStore(behind, session, me.fence), DatabaseWatch()).write(again)
        await check_stored(store, me, texts)
    assert len(await rows(store, "messages", session)) == len(texts)


async def test_what_a_command_asks_survives_a_stray_401(behind: Store, session: str, gateway: FaultProxy) -> None:
    for ask in (behind.console.whoami(), behind.status(session)):
        rule = gateway.arm(Rule(kind="gateway", status=401, content=JWT, times=2))
        await ask
        assert rule.hits == 2


@pytest.mark.parametrize(
    ("limit", "grade", "words"),
    [
        (None, "ok", "16.0 MB passes"),
        (2_000_000, "ok", "1.0 MB passes, more does not (HTTP 413)"),
        (200_000, "note", "raise the limit of the gateway"),
        (10_000, "note", "not even 100 kB pass (HTTP 413)"),
    ],
)
async def test_doctor_measures_how_large_a_request_may_be(
    embedded: Endpoint, gateway: FaultProxy, limit: int | None, grade: str, words: str
) -> None:
    if limit:
        gateway.arm(Rule(kind="gateway", status=413, content=PAGE, larger_than=limit))
    found = await check_body_size(gateway.url, embedded.key)
    assert (found.grade, words in found.text) == (grade, True), found.text

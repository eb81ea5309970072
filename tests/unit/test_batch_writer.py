"""Batches that do not pass as a whole: parts under one number, items as base64, and what counts as an outage."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import pytest

from worker.errors import (
    KeyRefused,
    SequenceGap,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
    TooSlow,
    UnexpectedAnswer,
)
from worker.ingest import batch_writer
from worker.ingest.batch_writer import BatchWriter
from worker.ingest.parts import PartSizes, digest_of
from worker.store import Batch, Committed, KeyChange, Piece, Pieces, retry
from worker.store.availability import DatabaseWatch
from worker.store.session import SessionStore

POISON = "http://localhost:3100"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(batch_writer, "PAUSE_MAX_SECONDS", 0.001)


@dataclass
class Supabase:
    """The functions of the commit in memory, behind a gateway. `gateway` sees each body; `postgres` each item.

    `loses`: how many answers get lost after the work is done.
    """

    gateway: Callable[[str], StoreError | None] = lambda body: None
    postgres: Callable[[dict[str, Any]], StoreError | None] = lambda item: None
    loses: int = 0
    away: bool = False
    seq: int = 0
    digest: str | None = None
    rows: list[str] = field(default_factory=list)
    listed: list[tuple[str, str | None]] = field(default_factory=list)
    keys: dict[str, str | None] = field(default_factory=dict)
    pieces: dict[str, dict[int, str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)

    async def commit(self, batch: Batch) -> Committed:
        return await self._call(batch.as_document(), self._commit)

    async def commit_part(self, part: Batch) -> Committed:
        return await self._call(part.as_document(), self._part)

    async def put_piece(self, piece: Piece) -> Committed:
        return await self._call(piece.as_document(), self._piece)

    async def commit_pieces(self, pieces: Pieces) -> Committed:
        return await self._call(pieces.as_document(), self._pieces)

    async def cheapest_call(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.away:
            raise StoreUnavailable("away")

    async def _call(self, document: dict[str, Any], work: Callable[[dict[str, Any]], Committed]) -> Committed:
        await self.cheapest_call()
        try:
            body = json.dumps(document, ensure_ascii=False, allow_nan=False)
            body.encode()
        except (ValueError, RecursionError):
            raise StoreRefused("cannot be written", "client") from None
        self.bodies.append(len(body))
        if error := self.gateway(body):
            raise error
        if int(document["seq"]) > self.seq + 1 or self.digest not in (None, document["digest"]):
            raise SequenceGap("no")
        if int(document["seq"]) <= self.seq:
            return Committed(seq=self.seq, duplicate=True)
        done = work(json.loads(body))
        if self.loses:
            self.loses -= 1
            raise StoreUnavailable("connection lost")
        return done

    def _commit(self, document: dict[str, Any]) -> Committed:
        done = self._part(document)
        self.keys |= {key["id"]: key["value"] for key in document["keys"]}
        self.order.append("keys")
        self.seq, self.digest = int(document["seq"]), None
        return done

    def _part(self, document: dict[str, Any]) -> Committed:
        opaque = [(item, json.loads(base64.b64decode(item["body"]))) for item in document["opaque"]]
        items = [*document["messages"], *document["changes"], *(value for _, value in opaque)]
        for item in items:
            if error := self.postgres(item):
                raise error
        self.digest = document["digest"]
        self.rows += [name for item in items if (name := name_of(item)) not in self.rows]
        self.listed += [(item["state"], item["wa_msg_id"]) for item in document["refused"]]
        self.order += ["rows"] * bool(items)
        return Committed(seq=int(document["seq"]), duplicate=False, stored=len(items))

    def _piece(self, document: dict[str, Any]) -> Committed:
        self.pieces.setdefault(document["document"], {})[document["piece"]] = document["body"]
        return Committed(seq=int(document["seq"]), duplicate=False)

    def _pieces(self, document: dict[str, Any]) -> Committed:
        pieces = self.pieces[document["document"]]
        assert len(pieces) == document["pieces"]
        part = json.loads(base64.b64decode("".join(pieces[n] for n in sorted(pieces))))
        return self._commit(part) if document["last"] else self._part(part)


def name_of(item: dict[str, Any]) -> str:
    return str(item.get("wa_msg_id") or item.get("change_id"))


def message(name: str, text: str = "x") -> dict[str, Any]:
    return {"chat_id": "1@g.us", "sender": "7@lid", "wa_msg_id": name, "text": text}


def change(name: str, text: str = "x") -> dict[str, Any]:
    return {"chat_id": "1@g.us", "author": "7@lid", "change_id": name, "kind": "edit", "payload": {"text": text}}


def batch_of(*messages: dict[str, Any], seq: int = 1, **more: Any) -> Batch:
    keys = [KeyChange(type="session", id=f"k{seq}", value="spent")]
    parts: dict[str, Any] = {"fence": 1, "epoch": 1, "seq": seq, "messages": messages, "keys": keys}
    return Batch(**(parts | more))


async def write(supabase: Supabase, batch: Batch, writer: BatchWriter | None = None) -> Committed:
    with anyio.fail_after(30):
        return await (writer or make_writer(supabase)).write(batch)


def make_writer(supabase: Supabase) -> BatchWriter:
    return BatchWriter(cast(SessionStore, supabase), DatabaseWatch())


def dislikes(error: StoreError, text: str = POISON) -> Callable[[str], StoreError | None]:
    return lambda body: error if text in body else None


def takes_at_most(size: int) -> Callable[[str], StoreError | None]:
    return lambda body: TooLarge("HTTP 413") if len(body) > size else None


ERRORS = [KeyRefused("HTTP 403"), UnexpectedAnswer("XX000"), UnexpectedAnswer("HTTP 404"), StoreRefused("no", "22P05")]


@pytest.mark.parametrize("error", ERRORS, ids=str)
async def test_a_text_that_a_gateway_dislikes_is_stored_and_so_is_the_rest(error: StoreError) -> None:
    supabase = Supabase(gateway=dislikes(error))
    messages = [message(f"A{n}", POISON if n in (3, 7) else "x") for n in range(10)]
    done = await write(supabase, batch_of(*messages))
    assert sorted(supabase.rows) == sorted(f"A{n}" for n in range(10))
    assert (supabase.listed, supabase.keys, done.stored, done.seq) == ([], {"k1": "spent"}, 10, 1)


@pytest.mark.parametrize("count", [1, 3, 20])
async def test_also_when_every_message_is_one_that_the_gateway_dislikes(count: int) -> None:
    supabase = Supabase(gateway=dislikes(KeyRefused("HTTP 403")))
    await write(supabase, batch_of(*[message(f"A{n}", POISON) for n in range(count)]))
    assert len(supabase.rows) == count


@pytest.mark.parametrize("error", ERRORS, ids=str)
async def test_one_bad_answer_moves_nothing(error: StoreError) -> None:
    answers = [error]
    supabase = Supabase(gateway=lambda body: answers.pop() if answers else None)
    await write(supabase, batch_of(message("A1"), message("A2")))
    assert (supabase.order, supabase.bodies[0]) == (["rows", "keys"], supabase.bodies[1])


async def test_what_alone_keeps_failing_is_listed_as_waiting_and_its_keys_commit() -> None:
    supabase = Supabase(postgres=lambda item: UnexpectedAnswer("XX000") if name_of(item) in ("A4", "C1") else None)
    batch = batch_of(*[message(f"A{n}") for n in range(8)], changes=[change("C0"), change("C1")])
    done = await write(supabase, batch)
    assert supabase.listed == [("waiting", "A4"), ("waiting", "C1")]
    assert sorted(supabase.rows) == sorted([*(f"A{n}" for n in range(8) if n != 4), "C0"])
    assert (supabase.keys, done.waiting) == ({"k1": "spent"}, 2)


@pytest.mark.parametrize("count", [2, 50])
async def test_when_every_item_fails_alone_it_is_an_outage_and_nothing_is_listed(count: int) -> None:
    broken = True
    supabase = Supabase(postgres=lambda item: UnexpectedAnswer("XX000") if broken else None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, supabase, batch_of(*[message(f"A{n}") for n in range(count)]))
        with anyio.fail_after(30):
            while len(supabase.bodies) < 300:  # noqa: ASYNC110 - what is waited for has no event
                await anyio.sleep(0.001)
        assert (supabase.listed, supabase.rows, supabase.keys) == ([], [], {})
        broken = False
    assert (len(supabase.rows), supabase.listed) == (count, [])


async def test_an_outage_of_all_calls_parts_nothing() -> None:
    supabase = Supabase(away=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, supabase, batch_of(message("A1"), message("A2")))
        await anyio.sleep(0.05)
        supabase.away = False
    assert (supabase.order, len(supabase.bodies)) == (["rows", "keys"], 1)


async def test_an_only_message_that_keeps_failing_does_not_hold_up_everything_for_ever() -> None:
    supabase = Supabase(postgres=lambda item: TooSlow("57014") if name_of(item) == "A1" else None)
    await write(supabase, batch_of(message("A1")))
    assert (supabase.listed, supabase.keys) == ([("waiting", "A1")], {"k1": "spent"})


@pytest.mark.parametrize("timeouts", [2, 3])
@pytest.mark.parametrize("others", [0, 3])
async def test_an_item_that_always_times_out_is_listed_although_connections_end_before_it_is(
    timeouts: int, others: int
) -> None:
    """Each time-out takes ten seconds. WhatsApp drops a silent client after thirty, and sends the message again."""
    seen = 0
    connections = [anyio.CancelScope() for _ in range(8)]

    def slow(item: dict[str, Any]) -> StoreError | None:
        nonlocal seen
        if name_of(item) != "SLOW":
            return None
        seen += 1
        if seen % timeouts == 0:
            connections[0].cancel()
        return TooSlow("57014")

    supabase = Supabase(postgres=slow)
    writer = make_writer(supabase)
    batch = batch_of(message("SLOW"), *[message(f"A{n}") for n in range(others)])
    while connections:
        supabase.seq, supabase.digest = 0, None
        with connections[0]:
            await write(supabase, batch, writer)
            break
        del connections[0]
    assert supabase.listed == [("waiting", "SLOW")]
    assert (sorted(supabase.rows), supabase.keys) == ([f"A{n}" for n in range(others)], {"k1": "spent"})


@pytest.mark.parametrize("away", [False, True])
async def test_a_time_out_is_an_answer_if_the_cheapest_call_passed_meanwhile(away: bool) -> None:
    gone: list[bool] = []

    def slow(body: str) -> StoreError | None:
        gone.append(watch.away)
        supabase.away = away
        return TooSlow("57014") if len(gone) < 2 else None

    async def cheapest_call() -> None:
        if supabase.away:
            supabase.away = False  # for the next commit
            raise StoreUnavailable("away")

    supabase = Supabase(gateway=slow)
    supabase.cheapest_call = cheapest_call  # type: ignore[method-assign]
    watch = DatabaseWatch()
    with anyio.fail_after(30):
        await BatchWriter(cast(SessionStore, supabase), watch).write(batch_of(message("A1")))
    assert gone == [False, away]


@pytest.mark.parametrize("text", ["a\ud800", "a\0b"])
async def test_what_our_own_client_cannot_write_goes_as_base64(text: str) -> None:
    supabase = Supabase()
    await write(supabase, batch_of(message("A1"), message("A2", text)))
    assert supabase.rows == ["A1", "A2"]


@pytest.mark.parametrize("limit", [3_000, 20_000])
async def test_bodies_above_a_limit_go_in_parts_and_one_alone_in_pieces(limit: int) -> None:
    supabase = Supabase(gateway=takes_at_most(limit))
    messages = [message(f"A{n}", "y" * (100_000 if n == 2 else 100)) for n in range(60)]
    keys = [KeyChange(type="sender-key", id="large", value="k" * 50_000)]
    await write(supabase, batch_of(*messages, keys=keys))
    assert sorted(supabase.rows) == sorted(f"A{n}" for n in range(60))
    assert supabase.keys == {"large": "k" * 50_000}
    assert supabase.listed == []


async def test_rows_come_before_keys_and_the_number_last() -> None:
    supabase = Supabase(gateway=takes_at_most(4_000))
    await write(supabase, batch_of(*[message(f"A{n}", "y" * 900) for n in range(20)]))
    assert supabase.order.count("rows") > 1
    assert supabase.order[-1] == "keys"
    assert "keys" not in supabase.order[:-1]


async def test_a_batch_that_is_too_slow_goes_in_smaller_parts_which_are_remembered() -> None:
    calls: list[int] = []

    def slow(body: str) -> StoreError | None:
        items = len(json.loads(body).get("messages", []))
        calls.append(items)
        return TooSlow("57014") if items > 100 else None

    supabase = Supabase(gateway=slow)
    writer = make_writer(supabase)
    await write(supabase, batch_of(*[message(f"A{n}") for n in range(500)]), writer)
    assert len(supabase.rows) == 500
    calls.clear()
    await write(supabase, batch_of(*[message(f"B{n}") for n in range(300)], seq=2), writer)
    assert len(supabase.rows) == 800
    assert max(calls) <= 125
    assert calls.count(125) <= 2, "at most one limit was raised and tried again"


async def test_a_lost_answer_and_then_a_refusal_of_the_size_write_nothing_twice() -> None:
    supabase = Supabase(loses=1)
    answers: list[StoreError | None] = [None, *[TooLarge("HTTP 413")] * 2]
    supabase.gateway = lambda body: answers.pop(0) if answers else None
    done = await write(supabase, batch_of(message("A1"), message("A2")))
    assert (done.duplicate, supabase.rows, supabase.order) == (True, ["A1", "A2"], ["rows", "keys"])


async def test_a_number_has_one_set_of_items() -> None:
    one, other = batch_of(message("A1")), batch_of(message("A2"))
    assert digest_of(one) == digest_of(batch_of(message("A1")))
    assert digest_of(one) != digest_of(other)
    assert digest_of(one) != digest_of(batch_of(message("A1"), changes=[change("C1")]))


async def test_keys_that_are_refused_for_good_are_an_error() -> None:
    supabase = Supabase()
    supabase.gateway = lambda body: StoreRefused("no", "23505")
    with pytest.raises(StoreRefused):
        await write(supabase, batch_of())


def test_limits_grow_again() -> None:
    sizes = PartSizes()
    sizes.too_slow(400)
    assert sizes.items == 200
    part = batch_of(*[message(f"A{n}") for n in range(150)])
    for _ in range(4):
        sizes.passed(part)
    assert sizes.items == 400
    sizes.too_slow(400)
    for _ in range(4):
        sizes.passed(part)
    assert sizes.items == 200, "the raised limit did not pass: it is raised later next time"

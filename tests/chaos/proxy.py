"""An HTTP proxy between the worker and Supabase: does what bad networks and bad days do, and remembers what it saw.

It stands where the worker thinks Supabase is. Every call of the worker passes here, so this is the one place that
knows when an answer left for the worker. It judges nothing: `tests/chaos/checks.py` does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import h11
import httpx

READ_BYTES = 256 * 1024
UPSTREAM_SECONDS = 60.0  # the embedded Supabase is serial: a queue of large uploads takes a while
HANG_SECONDS_MAX = 30.0  # longer than any time-out of the worker; then the connection is cut
# Held back between the database's answer and its way on: a receipt that does not wait for it comes visibly too early.
LATENCY_MS = (10.0, 25.0)

Kind = Literal[
    "error_500", "error_503", "gateway", "hang", "late", "lost_answer", "reset", "storage_error", "storage_cut",
    "storage_gateway",
]  # fmt: skip
RPC = "/rest/v1/rpc/"
OBJECT = "/storage/v1/object/"


@dataclass(kw_only=True)
class Rule:
    """One thing to do wrong.

    Attributes:
        function: the SQL function that is meant; None: every call (uploads excepted).
        times: after so many hits it is over; None: only `ends` counts.
        ends: `time.monotonic()` at which it is over.
        on_hit: called in the middle of it: `storage_cut` when half of the object has been passed on, `lost_answer` when
            the database has answered.
        status, content: what a gateway answers in Supabase's place, without asking it.
        mark: only requests whose body holds these bytes.
        answers: what to answer instead, one after the other; then it is over.
        every: only each so many-th of these requests.
        continues: only further requests of the batch that last met this other rule.
        item_mark: only commits and parts that write a message or a change with this text, as it is or as base64.
        larger_than: only requests whose body has more bytes.
        more_items_than: only commits and parts with more messages and changes.
    """

    kind: Kind
    function: str | None = None
    times: int | None = None
    ends: float = float("inf")
    seconds: float = 0.0
    status: int = 404
    content: bytes = b""
    mark: bytes = b""
    answers: Iterator[tuple[int, bytes]] | None = None
    every: int = 1
    continues: Rule | None = None
    digest: str | None = None  # of the batch that met it last
    item_mark: str = ""
    larger_than: int = -1
    more_items_than: int = -1
    on_hit: Callable[[], None] = lambda: None
    hits: int = 0
    passed: int = 0  # requests that `every` let through
    exhausted: bool = False
    functions: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        return self.exhausted or time.monotonic() > self.ends or (self.times is not None and self.hits >= self.times)

    def matches(self, request: Request) -> bool:
        if self.over or self.mark not in request.body or len(request.body) <= self.larger_than:
            return False
        if self.more_items_than >= 0 and request.items <= self.more_items_than:
            return False
        if self.item_mark and self.item_mark not in request.written:
            return False
        if self.continues and (self.continues.digest is None or request.digest != self.continues.digest):
            return False
        if self.kind == "storage_gateway":
            return request.is_storage
        if self.kind.startswith("storage"):
            return request.is_upload
        return not request.is_storage and self.function in (None, request.function) and self._is_due()

    def _is_due(self) -> bool:
        self.passed += 1
        return self.passed % self.every == 0

    def hit(self, request: Request) -> None:
        """Note it, and choose what is answered."""
        self.hits += 1
        self.digest = request.digest
        if self.answers is not None:
            answer = next(self.answers, None)
            self.exhausted = answer is None
            self.status, self.content = answer or (503, b"")


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def function(self) -> str | None:
        path = self.target.split("?")[0]
        return path.removeprefix(RPC) if path.startswith(RPC) else None

    @property
    def items(self) -> int:
        """Messages and changes of a commit or a part; 0 for other calls."""
        if self.function not in ("wa_commit", "wa_commit_part"):
            return 0
        batch = json.loads(self.body)["p_batch"]
        return len(batch["messages"]) + len(batch["changes"])

    @property
    def written(self) -> str:
        """The items of a commit or a part, as Postgres sees them; '' for other calls."""
        if self.function not in ("wa_commit", "wa_commit_part"):
            return ""
        batch = json.loads(self.body)["p_batch"]
        hidden = [json.loads(base64.b64decode(one["body"])) for one in batch["opaque"]]
        return json.dumps([*batch["messages"], *batch["changes"], *hidden], ensure_ascii=False)

    @property
    def digest(self) -> str | None:
        """Of the batch that a commit or a part belongs to; None for other calls."""
        if self.function not in ("wa_commit", "wa_commit_part"):
            return None
        return str(json.loads(self.body)["p_batch"]["digest"])

    @property
    def is_storage(self) -> bool:
        return self.target.startswith("/storage/")

    @property
    def is_upload(self) -> bool:
        return self.method in ("POST", "PUT") and self.target.startswith(OBJECT)


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(kw_only=True)
class Commit:
    """One `wa_commit` on its way. `messages`: (chat, sender, id) of every readable message in it and in its parts.

    Listed messages are among them.

    Attributes:
        sent_at_ms: when it went on to the database.
        answered_at_ms: when the answer "durable" left for the worker; None if none did.
        applied: the database wrote it now (not: had it already).
    """

    fence: int
    epoch: int
    seq: int
    messages: frozenset[tuple[str, str, str]]
    hashes: frozenset[str]
    sent_at_ms: float = 0.0
    answered_at_ms: float | None = None
    applied: bool = False


@dataclass(frozen=True, kw_only=True)
class Known:
    """The database said that these ciphertexts are durable."""

    hashes: frozenset[str]
    answered_at_ms: float


@dataclass(frozen=True, kw_only=True)
class LeaseCall:
    """An answer of `wa_lease_acquire`, a renewal, or a `wa_lease_release` on its way (`released`).

    `at`: the database's clock, None for a renewal. A commit renews the lease as well, which nobody tells.
    """

    owner: str
    fence: int
    acquired: bool
    at: datetime | None
    expires_at: datetime | None
    answered_at_ms: float
    released: bool = False


class _CutOff(Exception):
    """The client's connection ends with a reset."""


class FaultProxy:
    """Use as `async with FaultProxy(upstream, seed) as proxy`; then `proxy.url` is what the worker is given."""

    def __init__(self, upstream: str, seed: object, forbidden: Sequence[bytes] = ()) -> None:
        self.upstream = upstream
        self.rules: list[Rule] = []
        self.commits: list[Commit] = []
        self.known: list[Known] = []
        self.leases: list[LeaseCall] = []
        self.leaks: list[str] = []
        self._parts: dict[tuple[str, str, str], set[tuple[str, str, str]]] = {}
        self._pieces: dict[tuple[str, int], str] = {}
        self.calls: Counter[str] = Counter()
        self.bytes_in = 0
        self._forbidden = list(forbidden)
        self._random = Random(f"{seed}:proxy")  # noqa: S311 - repeatable on purpose
        self._http = httpx.AsyncClient(timeout=UPSTREAM_SECONDS, trust_env=False)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=READ_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def arm(self, rule: Rule) -> Rule:
        """From now on, until it is over."""
        self.rules = [one for one in self.rules if not one.over]
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        self.rules = []

    # One connection

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except _CutOff:
            _reset(writer)
        except (ConnectionError, h11.ProtocolError, asyncio.CancelledError):
            pass  # the worker was killed or gave up, or we end
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(Exception):
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = h11.Connection(h11.SERVER)
        while True:
            request = await _receive(link, reader)
            if request is None:
                return
            answer, leaves = await self._handle(request)
            payload = link.send(h11.Response(status_code=answer.status, headers=answer.headers)) or b""
            payload += link.send(h11.Data(data=answer.body)) or b""
            payload += link.send(h11.EndOfMessage()) or b""
            leaves()
            writer.write(payload)
            await writer.drain()
            if link.our_state is h11.MUST_CLOSE:
                return
            link.start_next_cycle()

    async def _handle(self, request: Request) -> tuple[Answer, Callable[[], None]]:
        """The answer, and what is to be noted at the moment when it leaves."""
        name = request.function or request.target.split("?")[0]
        self.calls[name] += 1
        self.bytes_in += len(request.body)
        if any(mark in request.body for mark in self._forbidden):
            self.leaks.append(name)
        rule = next((one for one in self.rules if one.matches(request)), None)
        if rule is None:
            return await self._forward(request)
        rule.hit(request)
        rule.functions[name] += 1
        match rule.kind:
            case "error_500":
                return _error(500, b'{"code":"57P01","message":"terminating connection","details":null,"hint":null}')
            case "error_503":
                return _error(503, b"<html><h1>503 Service Unavailable</h1></html>", b"text/html")
            case "gateway" | "storage_gateway":
                return _error(
                    rule.status, rule.content, b"text/html" if rule.content[:1] == b"<" else b"application/json"
                )
            case "storage_error":
                return _error(503, b'{"statusCode":"503","error":"Unavailable","message":"try again"}')
            case "hang":
                await asyncio.sleep(min(HANG_SECONDS_MAX, max(0.0, rule.ends - time.monotonic())))
                raise _CutOff
            case "reset":
                raise _CutOff
            case "late":
                answered = await self._forward(request)
                await asyncio.sleep(rule.seconds)
                return answered
            case "lost_answer":
                await self._forward(request)
                rule.on_hit()
                raise _CutOff
            case "storage_cut":
                await self._forward_half(request, rule.on_hit)
                raise _CutOff

    async def _forward(self, request: Request) -> tuple[Answer, Callable[[], None]]:
        note = self._expect(request)
        headers = [(name, value) for name, value in request.headers if name not in (b"host", b"accept-encoding")]
        try:
            answer = await self._http.request(
                request.method,
                self.upstream + request.target,
                headers=[*headers, (b"accept-encoding", b"identity")],
                content=request.body,
            )
        except httpx.HTTPError:
            raise _CutOff from None  # the database was killed: the worker sees a broken connection
        kept = [
            (name, value)
            for name, value in answer.headers.raw
            if name.lower() not in (b"transfer-encoding", b"content-length", b"connection", b"content-encoding")
        ]
        body = answer.content
        leaves = note(answer.status_code, body)
        await asyncio.sleep(self._random.uniform(*LATENCY_MS) / 1000)
        return (
            Answer(status=answer.status_code, headers=[*kept, (b"content-length", str(len(body)).encode())], body=body),
            leaves,
        )

    async def _forward_half(self, request: Request, on_half: Callable[[], None]) -> None:
        """The head and half of the body go on; then both ends of the connection break."""
        place = urlsplit(self.upstream)
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(place.hostname, place.port)
            head = [f"{request.method} {request.target} HTTP/1.1".encode(), b"host: " + place.netloc.encode()]
            head += [name + b": " + value for name, value in request.headers if name != b"host"]
            writer.write(b"\r\n".join([*head, b"", b""]) + request.body[: len(request.body) // 2])
            await writer.drain()
            on_half()
            _reset(writer)

    # What is remembered

    def _expect(self, request: Request) -> Callable[[int, bytes], Callable[[], None]]:
        """Notes a call that goes to the database; the result notes its answer, and that one's result its leaving."""
        match request.function:
            case "wa_commit":
                return self._expect_commit(json.loads(request.body)["p_batch"])
            case "wa_commit_part":
                self._remember_part(json.loads(request.body)["p_batch"])
            case "wa_put_piece":
                piece = json.loads(request.body)["p_batch"]
                self._pieces[piece["document"], piece["piece"]] = piece["body"]
            case "wa_commit_pieces":
                whole = json.loads(request.body)["p_batch"]
                text = "".join(self._pieces.get((whole["document"], n), "") for n in range(whole["pieces"]))
                batch = json.loads(base64.b64decode(text))
                if whole["last"]:
                    return self._expect_commit(batch)
                self._remember_part(batch)
            case "wa_known_stanzas":
                return self._note_known
            case "wa_lease_acquire":
                return self._expect_lease(json.loads(request.body)["p_owner"])
            case "wa_host_poll":
                return self._expect_renewal(json.loads(request.body))
            case "wa_lease_release":
                args = json.loads(request.body)
                # Taken as done, whatever becomes of the answer.
                self._note_lease(args["p_owner"], int(args["p_fence"]), False, None, None, released=True)
        return lambda status, body: lambda: None

    def _remember_part(self, batch: dict[str, Any]) -> None:
        """The messages of a part are durable, for the sidecar, when the commit that ends its number is answered."""
        self._parts.setdefault(_number(batch), set()).update(_messages(batch))

    def _expect_commit(self, batch: dict[str, Any]) -> Callable[[int, bytes], Callable[[], None]]:
        commit = Commit(
            fence=int(batch["fence"]),
            epoch=int(batch["epoch"]),
            seq=int(batch["seq"]),
            messages=frozenset(_messages(batch) | self._parts.get(_number(batch), set())),
            hashes=frozenset(batch["hashes"]),
            sent_at_ms=time.time() * 1000,
        )
        self.commits.append(commit)

        def note(status: int, body: bytes) -> Callable[[], None]:
            if status != 200:
                return lambda: None
            commit.applied = not json.loads(body)["duplicate"]

            def leaves() -> None:
                commit.answered_at_ms = time.time() * 1000

            return leaves

        return note

    def _note_known(self, status: int, body: bytes) -> Callable[[], None]:
        hashes = frozenset(json.loads(body)["hashes"]) if status == 200 else frozenset()

        def leaves() -> None:
            if hashes:
                self.known.append(Known(hashes=hashes, answered_at_ms=time.time() * 1000))

        return leaves

    def _expect_lease(self, owner: str) -> Callable[[int, bytes], Callable[[], None]]:
        def note(status: int, body: bytes) -> Callable[[], None]:
            if status == 200:
                row = json.loads(body)
                at, expires = datetime.fromisoformat(row["now"]), datetime.fromisoformat(row["expires_at"])
                self._note_lease(owner, int(row["fence"]), bool(row["acquired"]), at, expires)
            return lambda: None

        return note

    def _expect_renewal(self, args: dict[str, Any]) -> Callable[[int, bytes], Callable[[], None]]:
        fences = {held["session"]: int(held["fence"]) for held in args["p_held"]}

        def note(status: int, body: bytes) -> Callable[[], None]:
            renewed = json.loads(body).get("renewed", {}) if status == 200 else {}
            for session, until in renewed.items():
                expires = datetime.fromisoformat(until)
                self._note_lease(args["p_owner"], fences[session], True, None, expires)
            return lambda: None

        return note

    def _note_lease(
        self,
        owner: str,
        fence: int,
        acquired: bool,
        at: datetime | None,
        expires_at: datetime | None,
        released: bool = False,
    ) -> None:
        call = LeaseCall(
            owner=owner,
            fence=fence,
            acquired=acquired,
            at=at,
            expires_at=expires_at,
            answered_at_ms=time.time() * 1000,
            released=released,
        )
        self.leases.append(call)


def _number(batch: dict[str, Any]) -> tuple[str, str, str]:
    return batch["fence"], batch["epoch"], batch["seq"]


def _messages(batch: dict[str, Any]) -> set[tuple[str, str, str]]:
    hidden = [json.loads(base64.b64decode(one["body"])) for one in batch["opaque"] if one["item"] == "message"]
    listed = [one for one in batch["refused"] if one["item"] == "message" and one["state"] != "undecrypted"]
    readable = [one for one in [*batch["messages"], *hidden] if one["kind"] != "undecryptable"]
    return {(one["chat_id"], one["sender"], one["wa_msg_id"]) for one in [*readable, *listed]}


async def _receive(link: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = link.next_event()
        match event:
            case h11.NEED_DATA:
                link.receive_data(await reader.read(READ_BYTES))
            case h11.Request():
                head = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                assert head is not None
                return Request(
                    method=head.method.decode(),
                    target=head.target.decode(),
                    headers=[(bytes(name), bytes(value)) for name, value in head.headers],
                    body=bytes(body),
                )
            case _:
                return None


def _error(status: int, body: bytes, kind: bytes = b"application/json") -> tuple[Answer, Callable[[], None]]:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    return Answer(status=status, headers=headers, body=body), lambda: None


def _reset(writer: asyncio.StreamWriter) -> None:
    """End with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

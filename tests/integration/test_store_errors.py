"""What an answer means: over a real socket, from a server that gives any answer it is told to."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from worker.errors import (
    KeyRefused,
    SequenceGap,
    SettingsError,
    StaleEpoch,
    StaleFence,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
    TooSlow,
    UnexpectedAnswer,
    WorkerError,
)
from worker.store import Batch, Flag, MediaFile, Store, Timeouts, connect_store

SECRET = "a row that nobody must read"  # noqa: S105


class Answering:
    """A server with one answer; None as status closes the connection without a word."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.body = "{}"

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            request = BufferedByteReceiveStream(stream)
            head = await request.receive_until(b"\r\n\r\n", 65_536)
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await request.receive_exactly(int(length[1]) if length else 0)
            if self.status is not None:
                content = self.body.encode(errors="surrogateescape")
                answer = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
                await stream.send(answer.encode() + content)


@pytest.fixture
async def answering() -> AsyncIterator[tuple[Answering, Store]]:
    server = Answering()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - that rule thinks of Django
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, server.serve)
        async with connect_store(f"http://127.0.0.1:{port}", "sb_secret_x", Timeouts(call=5)) as store:
            yield server, store
        group.cancel_scope.cancel()
    await listener.aclose()


def postgres(code: str, message: str = SECRET) -> str:
    return json.dumps({"code": code, "message": message, "details": SECRET, "hint": None})


@pytest.mark.parametrize(
    ("status", "body", "error", "code", "reason"),
    [
        (409, postgres("PT409", "stale_fence"), StaleFence, None, "the lease is another's"),
        (409, postgres("PT409", "stale_epoch"), StaleEpoch, None, "the socket is an old one"),
        (409, postgres("PT409", "sequence_gap"), SequenceGap, None, "a batch is missing"),
        (409, postgres("PT409", "stale_job"), StoreRefused, "stale_job", "the job is another's"),
        (409, postgres("23505"), StoreRefused, "23505", "a constraint, again and again"),
        (400, postgres("22P05"), StoreRefused, "22P05", "a NUL, again and again"),
        (400, postgres("42804"), StoreRefused, "42804", "a programming error is no outage"),
        (500, postgres("40001"), StoreUnavailable, None, "a serialisation failure passes"),
        (500, postgres("40P01"), StoreUnavailable, None, "a deadlock passes"),
        (503, postgres("53300"), StoreUnavailable, None, "too many connections"),
        (500, postgres("57014"), TooSlow, None, "a statement that was cancelled"),
        (503, postgres("57P01"), StoreUnavailable, None, "the server shuts down"),
        (405, postgres("25006"), StoreUnavailable, None, "read-only: its disk is full, or a replica for a while"),
        (503, postgres("PGRST002"), StoreUnavailable, None, "PostgREST has no schema yet"),
        (504, postgres("PGRST003"), StoreUnavailable, None, "no connection in the pool"),
        (404, postgres("PGRST202"), UnexpectedAnswer, None, "the migrations are missing, or the schema cache reloads"),
        (500, postgres("SUP", "error: new row violates"), StoreRefused, "SUP", "the embedded one, of Postgres"),
        (500, postgres("SUP", "Error: PGlite is closed"), StoreUnavailable, None, "the embedded one, of itself"),
        (401, '{"message": "Invalid API key"}', KeyRefused, None, "Kong, without a code"),
        (401, postgres("PGRST303", "JWT issued at future"), KeyRefused, None, "a good key gets one now and then"),
        (403, "<html>Just a moment…</html>", KeyRefused, None, "Cloudflare's page for a text that it dislikes"),
        (401, "", KeyRefused, None, "a gateway without words"),
        (403, postgres("42501"), KeyRefused, None, "the key is not the service role's, or a grant is missing"),
        (500, postgres("XX000"), UnexpectedAnswer, None, "an internal error may be gone the next time"),
        (301, "", UnexpectedAnswer, None, "a redirect, which nobody follows"),
        (307, "<html>moved</html>", UnexpectedAnswer, None, "a redirect, which nobody follows"),
        (200, "", UnexpectedAnswer, None, "an answer that lost its body"),
        (204, "", UnexpectedAnswer, None, "an answer that lost its body"),
        (200, "{}", UnexpectedAnswer, None, "JSON, but not the function's"),
        (200, "[]", UnexpectedAnswer, None, "JSON, but not the function's"),
        (200, "null", UnexpectedAnswer, None, "JSON, but not the function's"),
        (200, '{"seq": "\udcff"}', UnexpectedAnswer, None, "bytes that are no UTF-8"),
        (200, '{"seq": "1', UnexpectedAnswer, None, "cut off in its middle"),
        (402, '{"message": "exceed_egress_quota"}', UnexpectedAnswer, None, "a quota"),
        (413, "<html>Request Entity Too Large</html>", TooLarge, None, "nginx' limit"),
        (540, "paused", UnexpectedAnswer, None, "a project that is paused"),
        (404, '{"error": "requested path is invalid"}', UnexpectedAnswer, None, "a path in SUPABASE_URL"),
        (429, "slow down", StoreUnavailable, None, "a rate limit"),
        (502, "<html>Bad Gateway</html>", StoreUnavailable, None, "a gateway"),
        (522, "<html>cloudflare</html>", StoreUnavailable, None, "Cloudflare's own"),
        (500, "<html>oops</html>", UnexpectedAnswer, None, "whoever it was"),
        (
            404,
            "<html>nothing here</html>",
            UnexpectedAnswer,
            None,
            "no Supabase here, or a gateway that restarts",
        ),
        (200, "<html>back soon</html>", UnexpectedAnswer, None, "a page of maintenance"),
        (None, "", StoreUnavailable, None, "closed in mid-answer: it may have been done"),
    ],
)
async def test_answers_are_told_apart(
    answering: tuple[Answering, Store],
    status: int | None,
    body: str,
    error: type[WorkerError],
    code: str | None,
    reason: str,
) -> None:
    server, store = answering
    server.status, server.body = status, body
    for _ in range(2):
        with pytest.raises(WorkerError) as raised:
            await store.commit("default", Batch(fence=1, epoch=1, seq=1))
        assert type(raised.value) is error, reason
        assert getattr(raised.value, "code", None) == code
        assert SECRET not in str(raised.value)


STAMP = "2026-01-01T00:00:00+00:00"
BATCH = Batch(fence=1, epoch=1, seq=1)
FILE = MediaFile(
    sha256="a" * 64,
    mime="image/png",
    bytes=1,
    storage_path="a",
    width=None,
    height=None,
    duration_s=None,
    file_enc_sha256="b" * 64,
    media_key_sha256="c" * 64,
)
FLAG = Flag(key="wa_qr_requested", at=None, at_text=STAMP, age_seconds=0, phone=None)
CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "lease_acquire": lambda store: store.lease_acquire("s", "me", 60),
    "host_leave": lambda store: store.host_leave("me"),
    "lease_release": lambda store: store.lease_release("s", "me", 1),
    "begin_epoch": lambda store: store.begin_epoch("s", 1),
    "load_state": lambda store: store.load_state("s", 1),
    "get_keys": lambda store: store.get_keys("s", "session", ["a"]),
    "known_stanzas": lambda store: store.known_stanzas("s", ["a" * 64]),
    "get_identities": lambda store: store.get_identities("s", ["a"]),
    "commit": lambda store: store.commit("s", BATCH),
    "commit_part": lambda store: store.commit_part("s", BATCH),
    "encrypted_edits": lambda store: store.encrypted_edits("s", 1),
    "open_edits": lambda store: store.open_edits("s", 1, []),
    "set_session": lambda store: store.set_session("s", 1, {}),
    "wipe_credentials": lambda store: store.wipe_credentials("s", 1),
    "upsert_groups": lambda store: store.upsert_groups("s", 1, [], complete=True),
    "flag_handled": lambda store: store.flag_handled("s", FLAG),
    "audit": lambda store: store.audit("s", "error"),
    "media_claim": lambda store: store.media_claim("me", 1, 60, "s"),
    "media_renew": lambda store: store.media_renew(1, "me", 60),
    "media_done": lambda store: store.media_done(1, "me", FILE),
    "media_retry": lambda store: store.media_retry(1, "me", "why", 60),
    "media_ask_phone": lambda store: store.media_ask_phone(1, "me", "why"),
    "media_abandon": lambda store: store.media_abandon(1, "me", "failed", "X", "why"),
    "mark_lost": lambda store: store.mark_lost("s", 60),
    "prune": lambda store: store.prune("s", stanza_seconds=60),
    "due_refused": lambda store: store.due_refused("s", 1),
    "retry_refused": lambda store: store.retry_refused("s", 1),
    "analyze": lambda store: store.analyze(),
    "status": lambda store: store.status("s"),
    "whoami": lambda store: store.console.whoami(),
    "groups": lambda store: store.console.groups("s"),
    "set_monitor": lambda store: store.console.set_monitor("s", [1], True),
    "raise_flag": lambda store: store.console.raise_flag("s", "qr"),
    "flag_state": lambda store: store.console.flag_handled("s", "qr", STAMP),
    "tail": lambda store: store.console.tail("s", None, None, 1),
    "media_requeue": lambda store: store.console.media_requeue("s", ["failed"]),
    "retention": lambda store: store.console.retention("s", datetime.fromisoformat(STAMP)),
    "delete_messages": lambda store: store.console.delete_messages("s", datetime.fromisoformat(STAMP), 1),
    "list_media_to_delete": lambda store: store.console.list_media_to_delete(1),
    "mark_media_deleted": lambda store: store.console.mark_media_deleted(["a" * 64]),
    "export_messages": lambda store: store.console.export_messages("s", 1, 0, 1),
    "export_size": lambda store: store.console.export_size("s", 1, 0),
    "refused": lambda store: store.console.refused("s", 0, 1),
    "refused_body": lambda store: store.console.refused_body("s", 1),
    "note_death": lambda store: store.note_death("s", 1, "ab" * 32, "one", killed=False),
    "list_suspects": lambda store: store.list_suspects("s"),
    "figures": lambda store: store.console.figures("s"),
}


@pytest.mark.parametrize("body", ["{}", "[]", "null", '{"message": "ok"}', '"ok"', "true"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_json_that_is_not_the_functions_answer_is_never_taken_for_it(
    answering: tuple[Answering, Store], call: Callable[[Store], Awaitable[object]], body: str
) -> None:
    server, store = answering
    server.status, server.body = 200, body
    with pytest.raises(UnexpectedAnswer):
        await call(store)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, '{"statusCode": "403", "error": "Unauthorized", "message": "Invalid Compact JWS"}', KeyRefused),
        (403, "<html>Just a moment…</html>", KeyRefused),
        (400, '{"statusCode": "413", "error": "Payload too large", "message": "too large"}', StoreRefused),
        (413, "<html>Request Entity Too Large</html>", StoreRefused),
        (200, "", UnexpectedAnswer),
        (200, "<html>back soon</html>", UnexpectedAnswer),
        (301, "", UnexpectedAnswer),
        (500, '{"statusCode": "500", "error": "InternalError", "message": "x"}', StoreUnavailable),
        (504, "<html>gateway</html>", StoreUnavailable),
        (None, "", StoreUnavailable),
    ],
)
async def test_answers_of_the_bucket_are_told_apart(
    answering: tuple[Answering, Store], status: int | None, body: str, error: type[WorkerError]
) -> None:
    server, store = answering
    server.status, server.body = status, body
    for _ in range(2):
        with pytest.raises(WorkerError) as raised:
            await store.bucket.upload("a/b", b"x", "text/plain")
        assert type(raised.value) is error


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (402, "", "quota"),
        (413, "", "too large"),
        (540, "", "paused"),
        (404, '{"error": "requested path is invalid"}', "requested path is invalid"),
        (401, postgres("42501", "permission denied for function wa_commit"), "execute on function wa_commit"),
        (
            403,
            postgres("42501", "permission denied for table messages"),
            "insert, update, delete on table mess",
        ),
        (301, "", "HTTP 301"),
        (204, "", "HTTP 204 with an empty body"),
        (403, "<html>", "HTTP 403 with an HTML page"),
    ],
)
async def test_an_odd_answer_is_put_into_words(
    answering: tuple[Answering, Store], status: int, body: str, words: str
) -> None:
    server, store = answering
    server.status, server.body = status, body
    with pytest.raises(UnexpectedAnswer, match=re.escape(words)) as raised:
        await store.commit("default", Batch(fence=1, epoch=1, seq=1))
    assert str(raised.value).startswith("wa_commit: ")


async def test_an_object_that_is_there_under_its_hash_is_stored(answering: tuple[Answering, Store]) -> None:
    server, store = answering
    server.status, server.body = 400, '{"statusCode": "409", "error": "Duplicate", "message": "exists"}'
    await store.bucket.upload("ab/abcd.txt", b"x", "text/plain")


async def test_the_check_says_when_it_is_no_supabase_that_answers(answering: tuple[Answering, Store]) -> None:
    server, store = answering
    server.status, server.body = 404, "<html>nothing here</html>"
    with pytest.raises(UnexpectedAnswer) as raised:
        await store.check()
    assert "SUPABASE_URL is not Supabase" in (raised.value.remedy or "")
    server.status, server.body = 200, '{"version": "20200101000000"}'
    with pytest.raises(SettingsError, match="migrations"):
        await store.check()


@pytest.mark.parametrize("url", ["ftp://x", "example.org", ""])
async def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(SettingsError, match="SUPABASE_URL"):
        async with connect_store(url, "sb_secret_x"):
            pass


@pytest.mark.parametrize("key", ["sb_secret_x\n", "schlüssel", "two words"])
async def test_a_key_that_is_none_is_named_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="SUPABASE_SERVICE_KEY") as raised:
        async with connect_store("http://127.0.0.1:1", key):
            pass
    assert key not in str(raised.value)

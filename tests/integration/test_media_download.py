"""The download against a real server over TLS, well-behaved and not."""

from __future__ import annotations

import gzip
import ssl
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import httpcore
import httpx
import pytest

from testkit.blobs import MEDIA_KEY, Sealed, seal
from testkit.cdn import Cdn, Exchange, Handler, cdn_on_loopback, serving, status
from worker.bridge.protocol import MediaHostList
from worker.errors import MediaCorrupt, MediaError, MediaExpired, MediaRefused, MediaTooLarge, MediaUnavailable
from worker.media.address import DEFAULT_HOST
from worker.media.decrypt import BlobDecryptor, Claims
from worker.media.download import PIECE_BYTES, Downloader, Limits, Source, open_downloader
from worker.media.hosts import MediaHosts
from worker.media.keys import derive_keys

KEYS = derive_keys(MEDIA_KEY, "image")
MAX_BYTES = 300_000
SMALL = seal(b"\xff\xd8\xff" + b"hills" * 1000)
FLIPPED = bytearray(SMALL.blob)
FLIPPED[100] ^= 1


def claims_of(sealed: Sealed) -> Claims:
    return Claims(enc_sha256=sealed.enc_sha256, length=len(sealed.plain))


@pytest.fixture
async def cdn(tmp_path: Path) -> AsyncIterator[Cdn]:
    async with cdn_on_loopback(tmp_path) as running:
        yield running


@pytest.fixture
async def downloader(cdn: Cdn) -> AsyncIterator[Downloader]:
    limits = Limits(max_bytes=MAX_BYTES, connect_s=2.0, read_s=0.4, total_s=1.0)
    async with open_downloader(Source(origin=cdn.origin, ca=cdn.ca), limits) as ready:
        yield ready


@pytest.mark.parametrize(
    ("length", "seconds", "because"),
    [
        (None, 180.0, "it does not say how long it is"),
        (1, 180.0, "a slow start costs more than the bytes"),
        (25_000_000, 180.0, "about the default limit"),
        (2_147_483_648, 14_316.6, "WORKER_MAX_MEDIA_MB=2048: three minutes would ask for 95 Mbit/s"),
        (2**53, 14_316.6, "a claim above the limit gives no more time than the limit"),
    ],
)
def test_a_file_has_the_time_that_its_length_takes_on_a_slow_line(
    length: int | None, seconds: float, because: str
) -> None:
    assert Limits(max_bytes=2_147_483_648).seconds_for(length) == pytest.approx(seconds, abs=0.1), because


async def test_a_long_file_on_a_slow_line_comes_whole(cdn: Cdn) -> None:
    sealed = seal(bytes(MAX_BYTES))

    async def in_halves(exchange: Exchange) -> None:
        half = len(sealed.blob) // 2
        await exchange.answer("200 OK", sealed.blob[:half], content_length=str(len(sealed.blob)))
        await exchange.pause(0.5)
        await exchange.send(sealed.blob[half:])

    cdn.routes["/file"] = in_halves
    limits = Limits(max_bytes=MAX_BYTES, total_s=0.2)
    async with open_downloader(Source(origin=cdn.origin, ca=cdn.ca), limits) as patient:
        assert await fetched(patient, claims_of(sealed)) == sealed.plain


async def fetched(downloader: Downloader, claims: Claims | None = None) -> bytes:
    async with downloader.fetch("/file", None, KEYS, claims or claims_of(SMALL)) as file:
        return file.content.read_bytes()


@pytest.mark.parametrize("length", [0, 1, 5_000, 65_536, MAX_BYTES])
async def test_a_file_comes_whole_and_proven(cdn: Cdn, downloader: Downloader, length: int) -> None:
    sealed = seal(bytes(n % 253 for n in range(length)))
    cdn.routes["/file?token=x"] = serving(sealed.blob)
    async with downloader.fetch("/file?token=x", None, KEYS, claims_of(sealed)) as file:
        assert file.content.read_bytes() == sealed.plain
        assert file.content.read_bytes() == sealed.plain  # an upload that is retried reads it again
        assert file.head == sealed.plain[:4096]
        assert (file.proof.sha256, file.proof.enc_sha256, file.proof.length) == (
            sealed.sha256,
            sealed.enc_sha256,
            length,
        )


async def test_a_file_in_chunks_of_unknown_number_comes_whole(cdn: Cdn, downloader: Downloader) -> None:
    async def chunked(exchange: Exchange) -> None:
        await exchange.answer("200 OK", transfer_encoding="chunked")
        for start in range(0, len(SMALL.blob), 700):
            piece = SMALL.blob[start : start + 700]
            await exchange.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await exchange.send(b"0\r\n\r\n")

    cdn.routes["/file"] = chunked
    assert await fetched(downloader) == SMALL.plain


async def truncated(exchange: Exchange) -> None:
    await exchange.answer("200 OK", SMALL.blob[:1000], content_length=str(len(SMALL.blob)))


async def truncated_without_a_length(exchange: Exchange) -> None:
    await exchange.answer("200 OK", SMALL.blob[:1000])


async def dropped(exchange: Exchange) -> None:
    await exchange.answer("200 OK", SMALL.blob[:1000], content_length=str(len(SMALL.blob)))
    exchange.abort()


async def stalled(exchange: Exchange) -> None:
    await exchange.answer("200 OK", SMALL.blob[:1000], content_length=str(len(SMALL.blob)))
    await exchange.over.wait()


async def silent(exchange: Exchange) -> None:
    await exchange.over.wait()


async def slow_without_end(exchange: Exchange) -> None:
    await exchange.answer("200 OK", content_length=str(len(SMALL.blob)))
    while not await exchange.pause(0.05):  # each byte comes in time, all of them never do
        await exchange.send(b"x")


async def without_end(exchange: Exchange) -> None:
    await exchange.answer("200 OK")
    while not exchange.over.is_set():
        await exchange.send(b"x" * 65_536)


async def announces_too_much(exchange: Exchange) -> None:
    await exchange.answer("200 OK", content_length="999999999999")
    await exchange.over.wait()


async def compressed(exchange: Exchange) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    await exchange.answer("200 OK", bomb, content_length=str(len(bomb)), content_encoding="gzip")


async def speaks_nonsense(exchange: Exchange) -> None:
    await exchange.send(b"\x00\xffthis is no HTTP\r\n\r\n")


MISBEHAVIOUR: dict[str, tuple[Handler, type[MediaError]]] = {
    "not there": (status("404 Not Found"), MediaExpired),
    "no longer there": (status("410 Gone"), MediaExpired),
    "no longer allowed": (status("403 Forbidden"), MediaExpired),
    "a server in trouble": (status("500 Internal Server Error"), MediaUnavailable),
    "a server that is busy": (status("503 Service Unavailable"), MediaUnavailable),
    "a server that has had enough": (status("429 Too Many Requests"), MediaUnavailable),
    "a part that was not asked for": (status("206 Partial Content"), MediaUnavailable),
    "a redirect to another host": (status("302 Found", location="https://evil.example/a"), MediaRefused),
    "a redirect to itself": (status("301 Moved Permanently", location="/file"), MediaRefused),
    "cut off before its announced end": (truncated, MediaUnavailable),
    "cut off, nothing announced": (truncated_without_a_length, MediaCorrupt),
    "dropped in mid-body": (dropped, MediaUnavailable),
    "stalled in mid-body": (stalled, MediaUnavailable),
    "no answer at all": (silent, MediaUnavailable),
    "a drip without end": (slow_without_end, MediaUnavailable),
    "a flood without end": (without_end, MediaTooLarge),
    "announced as too large": (announces_too_much, MediaTooLarge),
    "a compressed bomb": (compressed, MediaRefused),
    "no HTTP": (speaks_nonsense, MediaUnavailable),
    "a flipped bit": (serving(bytes(FLIPPED)), MediaCorrupt),
    "nothing": (serving(b""), MediaCorrupt),
    "a page instead of a file": (serving(b"<html>" * 100), MediaCorrupt),
    "a larger file than the message says": (serving(seal(b"x" * 5004).blob), MediaCorrupt),
}


@pytest.mark.parametrize(("handler", "expected"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR.keys())
async def test_a_misbehaving_server_is_a_stated_error(
    cdn: Cdn, downloader: Downloader, handler: Handler, expected: type[MediaError]
) -> None:
    cdn.routes["/file"] = handler
    with pytest.raises(expected) as caught:
        await fetched(downloader)
    assert "127.0.0.1" not in str(caught.value)
    assert "/file" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_redirect_is_not_followed(cdn: Cdn, downloader: Downloader) -> None:
    cdn.routes["/file"] = status("302 Found", location="/other")
    cdn.routes["/other"] = serving(SMALL.blob)
    with pytest.raises(MediaRefused):
        await fetched(downloader)
    assert cdn.requests == {"/file": 1}


async def test_a_file_one_byte_over_the_limit_is_too_large(cdn: Cdn, downloader: Downloader) -> None:
    cdn.routes["/file"] = serving(seal(bytes(MAX_BYTES + 1)).blob)
    with pytest.raises(MediaTooLarge):
        await fetched(downloader, Claims())


async def test_a_claim_to_be_small_does_not_help_a_large_file(cdn: Cdn, downloader: Downloader) -> None:
    cdn.routes["/file"] = serving(seal(bytes(MAX_BYTES * 2)).blob)
    with pytest.raises(MediaTooLarge):
        await fetched(downloader, Claims(length=7))


async def test_a_claim_to_be_too_large_does_not_keep_a_small_file_out(cdn: Cdn, downloader: Downloader) -> None:
    cdn.routes["/file"] = serving(SMALL.blob)
    assert await fetched(downloader, Claims(length=2**33)) == SMALL.plain


async def test_nobody_listening_is_trouble_of_the_network(cdn: Cdn) -> None:
    source = Source(origin="https://127.0.0.1:9", ca=cdn.ca)
    async with open_downloader(source, Limits(max_bytes=MAX_BYTES)) as downloader:
        with pytest.raises(MediaUnavailable):
            await fetched(downloader)


async def test_a_certificate_of_a_strange_authority_is_refused(cdn: Cdn) -> None:
    cdn.routes["/file"] = serving(SMALL.blob)
    async with open_downloader(Source(origin=cdn.origin), Limits(max_bytes=MAX_BYTES)) as downloader:
        with pytest.raises(MediaUnavailable):
            await fetched(downloader)
    assert not cdn.requests


class LyingResolver(httpcore.AsyncNetworkBackend):
    """Leads every name to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: object, **options: object) -> httpcore.AsyncNetworkStream:
        return await self._real.connect_tcp("127.0.0.1", self._port)

    async def connect_unix_socket(self, *args: object, **options: object) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


async def test_a_name_of_whatsapp_that_leads_into_a_private_network_is_refused(cdn: Cdn) -> None:
    cdn.routes["/file"] = serving(SMALL.blob)
    context = ssl.create_default_context(cafile=str(cdn.ca))
    transport = httpx.AsyncHTTPTransport(verify=context)
    transport._pool = httpcore.AsyncConnectionPool(ssl_context=context, network_backend=LyingResolver(cdn.port))
    async with httpx.AsyncClient(transport=transport) as client:
        downloader = Downloader(client, Source(), Limits(max_bytes=MAX_BYTES), MediaHosts())
        with pytest.raises(MediaRefused, match="public"):
            await fetched(downloader)
    assert (
        "host: mmg.whatsapp.net" in cdn.heads[0].lower()
    )  # the name and its certificate were believed, the address was not


async def test_nothing_personal_is_sent(
    cdn: Cdn, downloader: Downloader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login ana password oranges\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    cdn.routes["/file"] = serving(SMALL.blob)
    source = Source(origin=cdn.origin, ca=cdn.ca)
    async with open_downloader(source, Limits(max_bytes=MAX_BYTES)) as fresh:
        assert await fetched(fresh) == SMALL.plain
    (head,) = cdn.heads
    assert "authorization" not in head.lower()
    assert "cookie" not in head.lower()
    assert "accept-encoding: identity" in head.lower()


async def test_the_file_on_disk_has_no_name_and_is_gone_afterwards(
    cdn: Cdn, downloader: Downloader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    cdn.routes["/file"] = serving(SMALL.blob)
    async with downloader.fetch("/file", None, KEYS, claims_of(SMALL)) as file:
        assert file.content.read_bytes() == SMALL.plain
        assert list(spool.iterdir()) == []
    assert not file.content.exists()


async def test_a_transfer_holds_pieces_never_the_file(cdn: Cdn) -> None:
    sealed = seal(bytes(24 * 1024 * 1024))
    cdn.routes["/file"] = serving(sealed.blob)
    source = Source(origin=cdn.origin, ca=cdn.ca)
    async with open_downloader(source, Limits(max_bytes=25 * 1024 * 1024)) as downloader:
        tracemalloc.start()
        try:
            async with downloader.fetch("/file", None, KEYS, claims_of(sealed)) as file:
                _, peak = tracemalloc.get_traced_memory()
                assert file.proof.length == 24 * 1024 * 1024
        finally:
            tracemalloc.stop()
    assert peak < 2 * 1024 * 1024


FIRST = "media-fra3-1.cdn.whatsapp.net"


async def named() -> MediaHostList:
    return MediaHostList(hosts=[FIRST, DEFAULT_HOST], ttl_s=300.0)


def host_of(head: str) -> str:
    return head.lower().partition("\nhost: ")[2].partition("\r")[0]


async def hung_up(exchange: Exchange) -> None:
    exchange.abort()


async def flipped(exchange: Exchange) -> None:
    await serving(bytes(FLIPPED))(exchange)


@pytest.mark.parametrize(
    "failing",
    [
        hung_up,
        silent,
        dropped,
        truncated,
        slow_without_end,
        flipped,
        announces_too_much,
        status("503 Busy"),
        status("404 Not Found"),
        status("302 Found", location="https://evil.example/"),
    ],
    ids=lambda handler: getattr(handler, "__name__", "status"),
)
async def test_what_one_host_does_not_give_comes_whole_from_the_next(cdn: Cdn, failing: Handler) -> None:
    async def by_host(exchange: Exchange) -> None:
        await (failing if host_of(exchange.head) == FIRST else serving(SMALL.blob))(exchange)

    cdn.routes["/file"] = by_host
    # Each host has so long: short for the one that never answers, long for the other on a busy machine.
    limits = Limits(max_bytes=MAX_BYTES, connect_s=10.0, read_s=2.0, total_s=5.0)
    async with open_downloader(Source(origin=cdn.origin, ca=cdn.ca), limits, MediaHosts(named)) as downloader:
        assert await fetched(downloader) == SMALL.plain
    assert [host_of(head) for head in cdn.heads] == [FIRST, DEFAULT_HOST]


@pytest.mark.parametrize(
    ("one", "other", "error"),
    [
        (status("404 Not Found"), hung_up, MediaExpired),
        (hung_up, status("404 Not Found"), MediaExpired),
        (hung_up, hung_up, MediaUnavailable),
        (flipped, hung_up, MediaUnavailable),
        (flipped, flipped, MediaCorrupt),
        (status("302 Found"), hung_up, MediaUnavailable),
        (status("302 Found"), status("302 Found"), MediaRefused),
        (announces_too_much, announces_too_much, MediaTooLarge),
    ],
)
async def test_what_is_concluded_when_no_host_gives_it(
    cdn: Cdn, one: Handler, other: Handler, error: type[MediaError]
) -> None:
    async def by_host(exchange: Exchange) -> None:
        await (one if host_of(exchange.head) == FIRST else other)(exchange)

    cdn.routes["/file"] = by_host
    source = Source(origin=cdn.origin, ca=cdn.ca)
    async with open_downloader(source, Limits(max_bytes=MAX_BYTES), MediaHosts(named)) as downloader:
        with pytest.raises(error) as raised:
            await fetched(downloader)
    if isinstance(raised.value, MediaExpired):
        assert raised.value.others_silent, "the other hung up"


async def test_a_host_that_sends_too_much_ends_the_walk(cdn: Cdn) -> None:
    cdn.routes["/file"] = without_end
    source = Source(origin=cdn.origin, ca=cdn.ca)
    async with open_downloader(source, Limits(max_bytes=MAX_BYTES), MediaHosts(named)) as downloader:
        with pytest.raises(MediaTooLarge):
            await fetched(downloader)
    assert [host_of(head) for head in cdn.heads] == [FIRST]


async def many() -> MediaHostList:
    return MediaHostList(hosts=[f"media-{n}.whatsapp.net" for n in range(4)], ttl_s=300.0)


async def test_two_wrong_copies_are_enough(cdn: Cdn) -> None:
    cdn.routes["/file"] = flipped
    source = Source(origin=cdn.origin, ca=cdn.ca)
    async with open_downloader(source, Limits(max_bytes=MAX_BYTES), MediaHosts(many)) as downloader:
        with pytest.raises(MediaCorrupt) as raised:
            await fetched(downloader)
    assert raised.value.copies == 2, "so there is no quick retry"
    assert len(cdn.heads) == 2, "a sender's broken upload costs that much and no more"


async def test_no_file_is_decrypted_on_the_loop_that_messages_need(cdn: Cdn, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = seal(bytes(3 * PIECE_BYTES))
    cdn.routes["/file"] = serving(sealed.blob)
    threads: list[int] = []
    update = BlobDecryptor.update

    def noted(self: BlobDecryptor, piece: bytes) -> bytes:
        threads.append(threading.get_ident())
        assert len(piece) <= PIECE_BYTES
        return update(self, piece)

    monkeypatch.setattr(BlobDecryptor, "update", noted)
    source = Source(origin=cdn.origin, ca=cdn.ca)
    async with (
        open_downloader(source, Limits(max_bytes=4 * PIECE_BYTES)) as downloader,
        downloader.fetch("/file", None, KEYS, claims_of(sealed)) as file,
    ):
        assert file.proof.length == 3 * PIECE_BYTES
    assert len(threads) >= 3
    assert threading.get_ident() not in threads

"""Downloads a file from WhatsApp's servers into a nameless temporary file, decrypting and verifying it on the way.

The sender chooses the address, so requests go only to WhatsApp's hosts, over TLS, without redirects or cookies, with
limits on bytes and time. When a host fails, the next one is tried.

An object's path is its hash, which is known only after the last byte. So the plaintext is spooled: each piece of the
response (at most 256 KiB) is decrypted and written to the temporary file before the next is read, and the upload reads
that file in pieces. A transfer keeps two or three pieces in memory, never the whole file. The temporary file has no
name, so a crash leaves nothing behind. Threads decrypt, so that messages are not delayed.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import anyio
import anyio.to_thread
import httpx

from worker.errors import MediaCorrupt, MediaError, MediaExpired, MediaRefused, MediaTooLarge, MediaUnavailable
from worker.machine import trouble
from worker.media.address import DEFAULT_HOST, Address, addresses
from worker.media.decrypt import MAX_OVERHEAD_BYTES, BlobDecryptor, Claims, Proof
from worker.media.hosts import MediaHosts
from worker.media.keys import MediaKeys
from worker.outbound import BROWSER, http_client, proxy_for, trusted, why

EXPIRED = frozenset({403, 404, 410})  # docs/whatsapp.md, "Media"
SLOWEST_BYTES_PER_S = 150_000.0  # 25 MB in the three minutes below; a slower line cannot keep up with group videos
# As sent by the browser that we claim to be (docs/whatsapp.md, "Media").
HEADERS = {"origin": "https://web.whatsapp.com", "referer": "https://web.whatsapp.com/", "user-agent": BROWSER}
PIECE_BYTES = 256 * 1024  # a thread switch takes 0.1 ms, a piece 1 to 4 ms
THREADS = 2  # decrypting at once, over all transfers: more would take the processor from messages
WRONG_COPIES = 2  # per fetch: each is a whole download
HEAD_BYTES = 4096  # enough to detect the type: signatures are in the first few hundred bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one download, in seconds and bytes. A file too large for `total_s` gets more time: `seconds_for`."""

    max_bytes: int
    connect_s: float = 10.0
    read_s: float = 20.0  # of silence
    total_s: float = 180.0  # bounds an endless slow body

    def seconds_for(self, length: int | None) -> float:
        """The time limit for a file that claims `length` bytes. A claim above `max_bytes` counts as `max_bytes`."""
        return max(self.total_s, min(length or 0, self.max_bytes) / SLOWEST_BYTES_PER_S)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where to connect to: WhatsApp's hosts, or one local server instead (WA_MEDIA_ORIGIN).

    The `Host` header tells the local server which host is meant.
    """

    origin: str | None = None
    ca: Path | None = None
    proxied: bool = False  # downloads go through the proxy


class _TooMuchCame(MediaTooLarge):
    """Too many bytes actually arrived: not just a host's claim, and too expensive to try other hosts."""


class NoRoom(MediaUnavailable):
    """The temporary folder is full: no host is at fault, and none can help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A verified file. `content`: path to the open, nameless file, valid until the `with` block of `fetch` ends."""

    proof: Proof
    head: bytes
    content: Path


class Downloader:
    """Downloads files; shared by all transfers. Make it with `open_downloader`."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        source: Source,
        limits: Limits,
        hosts: MediaHosts,
        threads: anyio.CapacityLimiter | None = None,
    ) -> None:
        self._client = client
        self._source = source
        self._limits = limits
        self._hosts = hosts
        self._threads = threads or anyio.CapacityLimiter(THREADS)

    def beside(self, limits: Limits, hosts: MediaHosts) -> Downloader:
        """A downloader for another account: same connections and threads, own limits and hosts."""
        return Downloader(self._client, self._source, limits, hosts, self._threads)

    @asynccontextmanager
    async def fetch(
        self, direct_path: str | None, url: str | None, keys: MediaKeys, claims: Claims
    ) -> AsyncIterator[Fetched]:
        """Download and verify a file. It stays open until the block ends.

        Raises:
            MediaRefused: we do not fetch from its address; or every host redirects or has a private address.
            MediaExpired: a host no longer has it, and no other delivered it.
            MediaTooLarge: more bytes arrived than the limit allows, or every host announces more.
            MediaUnavailable: network or server trouble, or a time-out; or this machine's temporary folder is full.
            MediaCorrupt: the bytes are not the file in the message.
        """
        places = addresses(direct_path, url, await self._hosts.current(), self._source.origin)
        with _spooled():
            spool = tempfile.TemporaryFile(prefix="wa-media-")  # noqa: SIM115 - closed by the next block
        with spool:
            proof = await self._walk(places, keys, claims, spool)
            if proof.length > self._limits.max_bytes:
                raise MediaTooLarge(f"{proof.length} bytes; {self._limits.max_bytes} are allowed")
            with _spooled():
                spool.flush()
                spool.seek(0)
                head = spool.read(HEAD_BYTES)
                spool.seek(0)
            yield Fetched(proof=proof, head=head, content=Path(f"/dev/fd/{spool.fileno()}"))

    async def _walk(self, places: Sequence[Address], keys: MediaKeys, claims: Claims, spool: IO[bytes]) -> Proof:
        """Fetch from the first address that delivers the file. Each gets the full time limit."""
        seconds = self._limits.seconds_for(claims.length)
        failures: list[MediaError] = []
        for place in places:
            try:
                with _translated(seconds), anyio.fail_after(seconds), _spooled():
                    spool.seek(0)
                    spool.truncate()
                    return await self._transfer(place, BlobDecryptor(keys, claims), spool)
            except NoRoom:
                raise
            except _TooMuchCame:
                raise
            except MediaError as error:
                failures.append(error)
                if isinstance(error, MediaUnavailable | MediaRefused):
                    self._hosts.put_last(place.host)
                if sum(isinstance(each, MediaCorrupt) for each in failures) == WRONG_COPIES:
                    break
        raise conclusion(failures)

    async def _transfer(self, place: Address, decryptor: BlobDecryptor, spool: IO[bytes]) -> Proof:
        cap = self._limits.max_bytes + MAX_OVERHEAD_BYTES
        headers = {"accept-encoding": "identity", "host": place.host}
        async with self._client.stream("GET", place.url, headers=headers) as response:
            _check_peer(response, self._source)
            _check_answer(response, cap)
            came = 0
            async for piece in response.aiter_raw(PIECE_BYTES):
                came += len(piece)
                if came > cap:
                    raise _TooMuchCame(f"more than {self._limits.max_bytes} bytes arrived")
                await anyio.to_thread.run_sync(_take, piece, decryptor, spool, limiter=self._threads)
        rest, proof = decryptor.finish()
        spool.write(rest)
        return proof


def conclusion(failures: Sequence[MediaError]) -> MediaError:
    """What it means that no host delivered the file. One host's answer is not final if another could not be asked.

    Still, "expired" takes precedence: the phone may upload the file again.
    """
    silent = next((error for error in failures if isinstance(error, MediaUnavailable)), None)
    expired = next((error for error in failures if isinstance(error, MediaExpired)), None)
    if expired is not None:
        return MediaExpired(*expired.args, others_silent=silent is not None)
    if silent is not None:
        return silent
    wrong = [error for error in failures if isinstance(error, MediaCorrupt)]
    return MediaCorrupt(*wrong[0].args, copies=len(wrong)) if wrong else failures[0]


def _take(piece: bytes, decryptor: BlobDecryptor, spool: IO[bytes]) -> None:
    spool.write(decryptor.update(piece))


@asynccontextmanager
async def open_downloader(
    source: Source, limits: Limits, hosts: MediaHosts | None = None, *, proxy: str | None = None
) -> AsyncIterator[Downloader]:
    """A downloader with its own connections. Uses the environment's proxy, but no credentials from it.

    `proxy`: a session's own, instead of the environment's.
    """
    context = ssl.create_default_context(cafile=str(source.ca)) if source.ca else trusted()
    timeout = httpx.Timeout(limits.read_s, connect=limits.connect_s)
    origin = source.origin or f"https://{DEFAULT_HOST}"
    source = replace(source, proxied=proxy_for(origin, own=proxy) is not None)
    async with http_client(
        origin, own_proxy=proxy, verify=context, timeout=timeout, follow_redirects=False, http2=False, headers=HEADERS
    ) as client:
        yield Downloader(client, source, limits, hosts or MediaHosts())


def _check_peer(response: httpx.Response, source: Source) -> None:
    """Refuse a host with a private address before reading its answer. Skipped behind a proxy, which resolves names."""
    if source.origin is not None or source.proxied:
        return
    stream = response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    if peer is None or not ipaddress.ip_address(str(peer[0]).partition("%")[0]).is_global:
        raise MediaRefused("the host's address is not public")


def _check_answer(response: httpx.Response, cap: int) -> None:
    status = response.status_code
    if status in EXPIRED:
        raise MediaExpired(f"HTTP {status}")
    if 300 <= status < 400:
        raise MediaRefused(f"HTTP {status}: redirects are not followed")
    if status != 200:
        raise MediaUnavailable(f"HTTP {status}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise MediaRefused("the answer is compressed")
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and len(announced) < 20 and int(announced) > cap:
        raise MediaTooLarge(f"{announced} bytes are announced")


@contextmanager
def _translated(total_s: float) -> Iterator[None]:
    """Turn the library's errors into ours. Keeps only the type's name, since their texts may contain addresses."""
    try:
        yield
    except TimeoutError:
        raise MediaUnavailable(f"not finished within {total_s:g} s") from None
    except httpx.HTTPError as error:
        raise MediaUnavailable(why(error)) from None
    except httpx.InvalidURL:
        raise MediaRefused("the address cannot be read") from None


@contextmanager
def _spooled() -> Iterator[None]:
    """Turn trouble with the temporary file into our error, which is retried: somebody may free space."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        folder = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - for people
        words = trouble(error) or (error.strerror or type(error).__name__).lower()
        raise NoRoom(f"downloads need the temporary folder {folder}: {words}") from None

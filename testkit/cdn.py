"""A file server on loopback, over TLS, that can misbehave in any way a test needs."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PIECE_BYTES = 65_536

Handler = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request and the answer to it. `over` is set when the client has gone or the server ends."""

    def __init__(self, head: str, writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
        self.head = head
        self.over = over
        self._writer = writer

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            self._writer.write(data[start : start + PIECE_BYTES])
            await self._writer.drain()

    async def answer(self, line: str, body: bytes = b"", /, **headers: str) -> None:
        lines = [f"HTTP/1.1 {line}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())
        await self.send(body)

    async def pause(self, seconds: float) -> bool:
        """Wait at most so long for the end of the exchange; True if it is over."""
        try:
            await asyncio.wait_for(self.over.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        self._writer.transport.abort()


def serving(body: bytes) -> Handler:
    """A well-behaved answer."""

    async def handler(exchange: Exchange) -> None:
        await exchange.answer("200 OK", body, content_length=str(len(body)))

    return handler


def status(line: str, **headers: str) -> Handler:
    """An answer without a body."""

    async def handler(exchange: Exchange) -> None:
        await exchange.answer(line, content_length="0", **headers)

    return handler


def first(*handlers: Handler) -> Handler:
    """One handler after another; the last one stays."""
    waiting = list(handlers)

    async def handler(exchange: Exchange) -> None:
        await (waiting.pop(0) if len(waiting) > 1 else waiting[0])(exchange)

    return handler


class Cdn:
    """Routes by path; counts requests; an unknown path is 404."""

    def __init__(self, ca: Path) -> None:
        self.ca = ca
        self.port = 0
        self.routes: dict[str, Handler] = {}
        self.requests: Counter[str] = Counter()
        self.heads: list[str] = []

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            self.requests[path] += 1
            self.heads.append(head)
            exchange = Exchange(head, writer, asyncio.Event())
            gone = asyncio.ensure_future(self._watch(reader, exchange.over))
            try:
                await self.routes.get(path, status("404 Not Found"))(exchange)
            finally:
                gone.cancel()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client left, as it should in half of these tests
        finally:
            writer.close()

    async def _watch(self, reader: asyncio.StreamReader, over: asyncio.Event) -> None:
        try:
            await reader.read()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            over.set()


@asynccontextmanager
async def cdn_on_loopback(folder: Path) -> AsyncIterator[Cdn]:
    """A running server, its certificate authority in `folder`."""
    ca, certificate = make_certificate(folder)
    cdn = Cdn(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(cdn.serve, "127.0.0.1", 0, ssl=context)
    cdn.port = server.sockets[0].getsockname()[1]
    try:
        yield cdn
    finally:
        server.close()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate authority and a server certificate for 127.0.0.1 and, for a lying resolver or a proxy, some
    names."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )

    authority = (
        builder(name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    server_key = ec.generate_private_key(ec.SECP256R1())
    hosts = ("mmg.whatsapp.net", "web.whatsapp.com", "project.example")
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *map(x509.DNSName, hosts)]
    leaf = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test server")]), server_key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    ca_file, server_file = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(authority.public_bytes(pem))
    server_file.write_bytes(leaf.public_bytes(pem) + private)
    return ca_file, server_file

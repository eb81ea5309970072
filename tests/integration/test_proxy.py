"""Everything that leaves takes the one proxy; what is on this machine never does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testkit.blobs import MEDIA_KEY, seal
from testkit.cdn import cdn_on_loopback, serving
from testkit.connect_proxy import connect_proxy
from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.processes import free_port
from testkit.worker import Worker
from tests.e2e.town import link
from worker.errors import StoreUnavailable
from worker.media.decrypt import Claims
from worker.media.download import Limits, Source, open_downloader
from worker.media.keys import derive_keys
from worker.session.version import fetch_version
from worker.store import connect_store

pytestmark = pytest.mark.anyio

PROJECT = "https://project.example"
FILE = seal(b"\xff\xd8\xff" + b"hills" * 100)


async def test_supabase_files_and_the_version_are_fetched_through_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cdn_on_loopback(tmp_path) as server, connect_proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
        server.routes["/sw.js"] = serving(b'"client_revision":1023223821')
        server.routes["/file"] = serving(FILE.blob)
        server.routes["/rest/v1/rpc/wa_schema_version"] = serving(json.dumps({"version": "1"}).encode())

        assert await fetch_version() == (2, 3000, 1023223821)
        async with open_downloader(Source(), Limits(max_bytes=10_000)) as downloader:
            claims = Claims(enc_sha256=FILE.enc_sha256, length=len(FILE.plain))
            async with downloader.fetch("/file", None, derive_keys(MEDIA_KEY, "image"), claims) as fetched:
                assert fetched.content.read_bytes() == FILE.plain
        async with connect_store(PROJECT, "sb_secret_x") as store:
            assert await store.schema_version() == "1"

        assert proxy.asked == ["web.whatsapp.com:443", "mmg.whatsapp.net:443", "project.example:443"]
        (file_head,) = [head.lower() for head in server.heads if head.startswith("GET /file")]
        assert "origin: https://web.whatsapp.com\r\n" in file_head
        assert "user-agent: mozilla/5.0" in file_head


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("407 Proxy Authentication Required", r"the proxy \(HTTPS_PROXY\) refuses: HTTP 407"),
        (None, "the connection is refused"),
    ],
)
async def test_a_proxy_that_does_not_serve_us_is_named(
    monkeypatch: pytest.MonkeyPatch, refusal: str | None, words: str
) -> None:
    async with connect_proxy(refusal=refusal or "") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url if refusal else f"http://127.0.0.1:{free_port()}")
        async with connect_store(PROJECT, "sb_secret_x") as store:
            with pytest.raises(StoreUnavailable, match=words):
                await store.schema_version()


async def test_a_certificate_of_an_unknown_authority_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cdn_on_loopback(tmp_path) as server, connect_proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        async with connect_store(PROJECT, "sb_secret_x") as store:
            with pytest.raises(StoreUnavailable, match=r"certificate is not trusted \(TLS: "):
                await store.schema_version()


async def test_whatsapp_s_socket_takes_the_proxy_and_a_refusal_is_said(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    """The real sidecar, on its way to WhatsApp: the proxy lets nobody out."""
    async with (
        connect_proxy() as proxy,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        settings = {
            **supabase.worker_env,
            "WORKER_SESSION": session,
            "HTTPS_PROXY": proxy.url.replace("//", "//me:hush-hush@"),
        }
        async with Worker.start(tmp_path, settings=settings) as worker:

            async def said() -> bool:
                row = await database.session_row()
                return row is not None and "the session's own) refuses" in str(row["detail"].get("say"))

            await database.until("the refusal in the session's row", said, seconds=60, tell=worker.child.tail)
            assert set(proxy.asked) == {"web.whatsapp.com:443"}
            assert len(proxy.asked) >= 2, "the version's fetch, and the socket"
            assert all("proxy-authorization: basic" in head.lower() for head in proxy.heads)
            assert "hush-hush" not in worker.child.text()


async def test_a_session_s_own_proxy_is_its_way_to_whatsapp_and_no_other_session_s(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    """A host with two sessions, one of which names a proxy; none of the three proxies lets anybody out."""
    async with (
        connect_proxy() as hosts,
        connect_proxy() as own,
        connect_proxy() as other,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
        await Database.connect(supabase.url, supabase.service_key, f"{session}-plain") as plain,
    ):

        async def write(of: Database, **columns: object) -> None:
            await of.client.table("wa_sessions").upsert({"id": of.session, **columns}).execute()

        await write(database, wanted=True, settings={"proxy": own.url.replace("//", "//me:hush-hush@")})
        settings = {**supabase.worker_env, "HTTPS_PROXY": hosts.url}
        async with Worker.start(tmp_path, settings=settings, command="host") as worker:

            async def refused() -> bool:
                detail = await database.detail()
                return "refuses" in str(detail.get("say"))

            await database.until("the refusal in the session's row", refused, seconds=60, tell=worker.child.tail)
            assert set(own.asked) == {"web.whatsapp.com:443"}
            assert len(own.asked) >= 2, "the version's fetch, and the socket"
            assert all("proxy-authorization: basic" in head.lower() for head in own.heads)
            assert hosts.asked == []

            await write(plain, wanted=True)

            async def asked() -> bool:
                return bool(hosts.asked)

            await plain.until("the other session's way out", asked, seconds=60, tell=worker.child.tail)
            await write(database, settings={"proxy": other.url})

            async def changed() -> bool:
                return bool(other.asked)

            await database.until("the other proxy", changed, seconds=60, tell=worker.child.tail)
            await write(database, wanted=False)
            await write(plain, wanted=False)
            assert "hush-hush" not in worker.child.text()


async def test_with_a_dead_proxy_for_everything_a_worker_still_reaches_what_is_on_this_machine(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    """The embedded Supabase, and the virtual phone's socket."""
    dead = f"http://127.0.0.1:{free_port()}"
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), dead)
    settings = {**supabase.worker_env, **proxies, "WORKER_SESSION": session}
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
        Worker.start(tmp_path / "worker", phone=phone, settings=settings) as worker,
    ):
        await link(phone, worker, database)

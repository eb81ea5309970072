"""Files of the private bucket through the console: for those who are logged in, in parts, and never as a page."""

from __future__ import annotations

import pytest

from console import database
from tests.console.rows import ids, store_file, with_file
from tests.console.site import served
from tests.integration.database import writer
from worker.store import Store
from worker.store.embedded import Endpoint

CONTENT = bytes(range(256)) * 1000


@pytest.mark.parametrize(
    ("mime", "kind", "name", "shown"),
    [
        ("image/jpeg", "image", None, True),
        ("audio/ogg", "voice", None, True),
        ("video/mp4", "video", None, True),
        ("image/svg+xml", "image", "drawing.svg", False),
        ("text/html", "document", "page.html", False),
        ("application/pdf", "document", 'a"b\u202e\r\nx: y.pdf', False),
        ("application/xhtml+xml", "document", "ü.xhtml", False),
    ],
)
async def test_only_pictures_films_and_sounds_are_shown_in_place(
    embedded: Endpoint, store: Store, session: str, mime: str, kind: str, name: str | None, shown: bool
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[with_file("f", kind, name)])
    await store_file(store, held, CONTENT, mime, "bin")
    async with served(embedded, session) as site:
        path = f"{site.base}/messages/{(await ids(store, session))['f']}/file"
        assert (await site.get(path, accept="*/*")).status_code == 401
        await site.log_in()
        answer = await site.get(path)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-type"] == (mime if shown else "application/octet-stream")
    assert answer.headers["content-disposition"].startswith("inline;" if shown else "attachment;")
    assert answer.headers["content-disposition"].isascii()
    assert "%E2%80%AE" not in answer.headers["content-disposition"], "reverses what follows: gpj.exe reads exe.jpg"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "x" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-", 206, 0, 255_999),
        ("bytes=100-199", 206, 100, 199),
        ("bytes=255000-999999", 206, 255_000, 255_999),
        ("bytes=-10", 206, 255_990, 255_999),
        ("bytes=0-0", 206, 0, 0),
        ("bytes=0-1,5-6", 200, 0, 255_999),
        ("lines=1-2", 200, 0, 255_999),
        ("bytes=-", 200, 0, 255_999),
        ("bytes=256000-", 416, 0, -1),
        ("bytes=9-3", 416, 0, -1),
        ("bytes=-0", 416, 0, -1),
    ],
)
async def test_a_player_gets_the_part_that_it_asks_for(
    embedded: Endpoint, store: Store, session: str, asked: str, status: int, first: int, last: int
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[with_file("f", "video")])
    await store_file(store, held, CONTENT, "video/mp4", "mp4")
    async with served(embedded, session) as site:
        await site.log_in()
        answer = await site.get(f"{site.base}/messages/{(await ids(store, session))['f']}/file", range=asked)
    assert answer.status_code == status
    assert answer.content == CONTENT[first : last + 1]
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {first}-{last}/256000"
        assert answer.headers["content-length"] == str(last - first + 1)
    if status == 416:
        assert answer.headers["content-range"] == "bytes */256000"


async def test_a_download_goes_on_with_the_same_file_alone(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[with_file("f", "video")])
    await store_file(store, held, CONTENT, "video/mp4", "mp4")
    async with served(embedded, session) as site:
        await site.log_in()
        path = f"{site.base}/messages/{(await ids(store, session))['f']}/file"
        etag = (await site.get(path)).headers["etag"]
        rest = await site.get(path, **{"range": "bytes=100-", "if-range": etag})
        whole = await site.get(path, **{"range": "bytes=100-", "if-range": '"of another file"'})
    assert (rest.status_code, len(rest.content)) == (206, 255_900)
    assert (whole.status_code, len(whole.content)) == (200, 256_000)


async def test_players_that_hold_every_connection_are_not_the_database_s_silence(
    embedded: Endpoint, store: Store, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "FILE_CONNECTIONS", 1)
    monkeypatch.setattr(database, "CALL_SECONDS", 2.0)
    held = await writer(store, session)
    await held.commit(messages=[with_file("f", "video")])
    await store_file(store, held, b"x" * 30_000_000, "video/mp4", "mp4")
    async with served(embedded, session) as site:
        await site.log_in()
        path = f"{site.base}/messages/{(await ids(store, session))['f']}/file"
        async with site.http.stream("GET", path) as paused:  # more than fits between the two
            busy = await site.get(path)
            assert (paused.status_code, busy.status_code) == (200, 503)
            assert "Too much at once" in busy.text
        assert (await site.get(path)).status_code == 200


async def test_a_file_that_a_browser_has_is_not_sent_again(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[with_file("f", "image")])
    await store_file(store, held, CONTENT, "image/jpeg", "jpg")
    async with served(embedded, session) as site:
        await site.log_in()
        path = f"{site.base}/messages/{(await ids(store, session))['f']}/file"
        etag = (await site.get(path)).headers["etag"]
        answer = await site.get(path, **{"if-none-match": etag})
    assert (answer.status_code, answer.content) == (304, b"")


async def test_a_message_without_a_file_has_none(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[with_file("f", "image")])
    async with served(embedded, session) as site:
        await site.log_in()
        for message in ((await ids(store, session))["f"], 99_999_999):
            assert (await site.get(f"{site.base}/messages/{message}/file")).status_code == 404

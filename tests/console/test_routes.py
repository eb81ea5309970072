"""What holds for every route: each test goes through all of them, so that a new one is tried, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from starlette.routing import Route

from console import viewer
from console.app import ROUTES
from tests.console.rows import ids, show, store_file, with_file
from tests.console.site import TOKEN, Site, served
from tests.integration.database import GROUP, rows, table, writer
from worker.ingest.parts import Item
from worker.store import Store
from worker.store.embedded import Endpoint

WITHOUT_LOGIN = {"/login", "/login/link", "/preferences"}
READING = {"/s/{session}/groups/{group:id}/export", "/s/{session}/health/refused"}  # forms that change nothing
FORM = {"monitor": "true", "phone": "491511234567", "do": "kill", "text": "x", "assertion": "{}", "code": "x"}
SECONDS = 30.0


def routes(method: str) -> list[str]:
    return [each.path for each in ROUTES if isinstance(each, Route) and method in (each.methods or ())]


def private(method: str) -> list[str]:
    return [path for path in routes(method) if path not in WITHOUT_LOGIN]


def filled(path: str, session: str, known: Mapping[str, int] | None = None) -> str:
    """The path with this session and the ids of these rows; 1 for others."""
    return re.sub(r"\{(\w+):id\}", lambda row: str((known or {}).get(row[1], 1)), path.replace("{session}", session))


async def traces(store: Store, session: str) -> list[Any]:
    """All that an action leaves behind."""
    flags: Any = await table(store, "runtime_flags").select("key").like("key", f"{session}:%").execute()
    return [*flags.data, *await rows(store, "audit_log", session)]


async def one_of_each(store: Store, session: str) -> dict[str, int]:
    """A message with a file in a group, and a refused one; the id of each."""
    held = await writer(store, session)
    refused = Item("message", {"chat_id": GROUP, "wa_msg_id": "b"}).as_base64("22007", "no time")
    await held.commit(messages=[with_file("f", "video")], refused=[refused])
    await store_file(store, held, b"x" * 1_000_000, "video/mp4", "mp4")
    await show(store, held, status="connecting", state="waiting_for_scan", say="Scan.", qr="2@code")
    (item,) = await rows(store, "wa_refused_stanzas", session)
    (group,) = [group.id for group in await store.console.groups(session) if group.monitor]
    return {"message": (await ids(store, session))["f"], "group": group, "item": item["id"]}


async def head_of(site: Site, method: str, path: str, **headers: str) -> httpx.Response:
    """An answer without its body, which may have no end."""
    with anyio.fail_after(SECONDS):
        async with site.http.stream(method, path, headers={"accept": "text/html", **headers}) as answer:
            return answer


@pytest.mark.parametrize("cookie", [None, "", "x" * 43, "ü"], ids=["none", "empty", "wrong", "no ascii"])
async def test_every_other_route_needs_a_login(
    embedded: Endpoint, store: Store, session: str, cookie: str | None
) -> None:
    await writer(store, session)
    before = await traces(store, session)
    async with served(embedded, session) as site:
        name = site.app.console.options.cookie
        given = {} if cookie is None else {"cookie": f"{name}={cookie}".encode()}
        for path in private("GET"):
            page = await head_of(site, "GET", filled(path, session), **given)  # type: ignore[arg-type]
            assert (page.status_code, page.headers.get("location")) == (303, "/login"), path
        for path in private("POST"):
            headers = {"origin": site.address, **given}
            answer = await site.http.post(filled(path, session), data=FORM, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == 401, path
    assert await traces(store, session) == before


async def test_an_ended_login_is_none(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        for login in site.app.console.logins._logins.values():
            login.seen -= 13 * 3600
        for path in private("GET"):
            page = await head_of(site, "GET", filled(path, session))
            assert page.headers.get("location") == "/login", path


async def test_no_route_is_served_under_another_name(embedded: Endpoint, store: Store, session: str) -> None:
    await writer(store, session)
    before = await traces(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        form = {**FORM, "csrf": await site.csrf()}
        for path in [*routes("GET"), "/static/console.js", "/nothing"]:
            assert (await head_of(site, "GET", filled(path, session), host="evil.example")).status_code == 421, path
        for path in routes("POST"):
            assert (await site.send(filled(path, session), form, host="evil.example")).status_code == 421, path
    assert await traces(store, session) == before


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "null"}, {"origin": "https://evil.example"}, {"origin": "http://127.0.0.1:1"}]
)
async def test_no_form_of_another_page_is_taken(
    embedded: Endpoint, store: Store, session: str, headers: dict[str, str]
) -> None:
    await writer(store, session)
    before = await traces(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        form = {**FORM, "csrf": await site.csrf(), "token": TOKEN}
        for path in routes("POST"):
            answer = await site.http.post(filled(path, session), data=form, headers=headers)
            assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None), path
        assert await site.read(f"{site.base}/link"), "still logged in"
        assert site.said == []
    assert await traces(store, session) == before


@pytest.mark.parametrize("site_is", ["cross-site", "same-site"])
async def test_another_page_can_link_to_every_page_but_load_none(
    embedded: Endpoint, store: Store, session: str, site_is: str
) -> None:
    """`same-site`: a page of another port of this host, to which browsers send our cookie."""
    known = await one_of_each(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        for path in [*routes("GET"), "/static/console.js"]:
            for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("navigate", "object")):
                how = {"sec-fetch-site": site_is, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
                assert (await head_of(site, "GET", filled(path, session, known), **how)).status_code == 403, path
        how = {"sec-fetch-site": site_is, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        for path in routes("GET"):
            assert (await head_of(site, "GET", filled(path, session, known), **how)).status_code != 403, path


async def test_reading_a_page_has_no_effect(embedded: Endpoint, store: Store, session: str) -> None:
    """A link on another page, a preview or a browser that reads ahead may ask for any of them."""
    known = await one_of_each(store, session)
    before = await traces(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        for path in routes("GET"):
            for method in ("GET", "HEAD"):
                await head_of(site, method, filled(path, session, known))
        for path in set(routes("POST")) - set(routes("GET")):
            for method in ("GET", "HEAD"):
                assert (await head_of(site, method, filled(path, session, known))).status_code == 405, path
        assert await site.read(f"{site.base}/link"), "still logged in"
    assert await traces(store, session) == before


async def test_every_route_answers_head_at_once_and_without_its_cost(
    embedded: Endpoint, store: Store, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await one_of_each(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        connection = httpx.AsyncClient(
            base_url=site.address, cookies=site.http.cookies, limits=httpx.Limits(max_connections=1), trust_env=False
        )
        async with connection as http:
            for _ in range(20):  # more than there are connections for files
                for path in routes("GET") if _ == 0 else ["/s/{session}/messages/{message:id}/file"]:
                    with anyio.fail_after(SECONDS):
                        answer = await http.head(filled(path, session, known))
                    assert answer.status_code < 500, path
                    assert answer.content == b"", path
            assert answer.headers["content-length"] == "1000000"
            assert len((await http.get(filled(path, session, known))).content) == 1_000_000
        assert site.app.console.live(session).viewers == 0


async def test_a_session_that_does_not_exist_has_no_page_and_takes_no_form(
    embedded: Endpoint, store: Store, session: str
) -> None:
    missing = f"{session}-missing"
    async with served(embedded, session) as site:
        await site.log_in()
        form = {**FORM, "csrf": await site.csrf()}
        for path in routes("GET"):
            if "{session}" in path:
                assert (await head_of(site, "GET", filled(path, missing))).status_code == 404, path
        for path in routes("POST"):
            if "{session}" in path:
                assert (await site.send(filled(path, missing), form)).status_code == 404, path
        assert await site.read(f"{site.base}/link"), "the one that the console waits for has no row yet, either"
        await writer(store, missing)
        assert await site.read(f"/s/{missing}/groups"), "created meanwhile"
    assert site.app.console.feeds == {}


async def test_no_session_s_rows_are_reached_through_another(embedded: Endpoint, store: Store, session: str) -> None:
    known, other = await one_of_each(store, session), f"{session}-other"
    await writer(store, other)
    before = await traces(store, session)
    async with served(embedded, other) as site:
        await site.log_in()
        form = {**FORM, "csrf": await site.csrf()}
        for path in routes("GET"):
            if ":id}" in path:
                assert (await head_of(site, "GET", filled(path, other, known))).status_code == 404, path
        for path in routes("POST"):
            if ":id}" in path:
                answer = await site.send(filled(path, other, known), form)
                nothing = ("retry_none", "not_taken")  # the database's own answer for what is not this session's
                assert answer.status_code == 404 or answer.headers["location"].endswith(nothing), path
    assert await traces(store, session) == before


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "CONNECT", "PROPFIND"])
async def test_no_route_has_another_method(embedded: Endpoint, session: str, method: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        for path in {*routes("GET"), *routes("POST"), "/static/console.js"}:
            answer = await site.http.request(method, filled(path, session), headers={"origin": site.address})
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST"), path


async def test_read_only_takes_no_form_that_changes_something(embedded: Endpoint, store: Store, session: str) -> None:
    known = await one_of_each(store, session)
    async with served(embedded, session, worker_console_read_only=True) as site:
        await site.log_in("Olga")
        form = {**FORM, "csrf": await site.csrf()}
        before = await traces(store, session)
        for path in private("POST"):
            if path not in (*READING, "/logout"):
                assert (await site.send(filled(path, session, known), form)).status_code == 403, path
        assert await traces(store, session) == before
        for path in READING:
            assert (await site.send(filled(path, session, known), form)).status_code == 200, path
        done = [row["payload"] for row in await rows(store, "audit_log", session) if row["event"] == "console"]
    assert sorted((entry["action"], entry["who"]) for entry in done) == [("export", "Olga"), ("refused_export", "Olga")]


async def test_every_form_needs_the_login_s_own_token(embedded: Endpoint, store: Store, session: str) -> None:
    await writer(store, session)
    before = await traces(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        other = site.app.console.logins.open("Otto")
        theirs = site.app.console.logins.find(other)
        assert theirs
        for csrf in ("", "x" * 43, "ü", "\0", theirs.csrf):
            for path in private("POST"):
                answer = await site.send(filled(path, session), {**FORM, "csrf": csrf})
                assert answer.status_code == 403, (path, csrf)
        assert await site.read(f"{site.base}/link"), "still logged in"
    assert await traces(store, session) == before


async def chunks(count: int) -> Any:
    for _ in range(count):
        yield b"x" * 1000


async def two_lengths(site: Site, path: str) -> bytes:
    """The first words of the answer to a form that says how long it is and yet comes in chunks, which count."""
    host = site.address.removeprefix("http://")
    name, _, port = host.partition(":")
    said = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {site.address}\r\nContent-Length: 5\r\n"
    with anyio.fail_after(SECONDS):
        async with await anyio.connect_tcp(name, int(port)) as connection:
            await connection.send(f"{said}Transfer-Encoding: chunked\r\n\r\n".encode())
            return (await connection.receive())[:12]


async def test_no_form_is_read_beyond_its_limit(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        origin = {"origin": site.address}
        for path in routes("POST"):
            where = filled(path, session)
            unsaid = await site.http.post(where, content=chunks(1), headers=origin)
            assert (unsaid.status_code, "how long" in unsaid.text) == (411, True), path
            assert await two_lengths(site, where) == b"HTTP/1.1 411", path
            large = await site.http.post(where, content=b"x" * 20_000, headers=origin)
            assert large.status_code == 413, path
            many = await site.send(where, {f"f{number}": "" for number in range(60)})
            assert many.status_code == 400 or path == "/login/link", path


PARAMETERS = (
    *("q", "group", "person", "kind", "since", "until", "offset", "file", "sort", "cursor", "before", "after", "at"),
    *("date", "part", "page", "days", "span", "who", "event", "refused_until", "refused_before", "files_until"),
    *("files_before", "did", "panel", "heard"),
)
ODD = {
    "nothing": "",
    "NUL": "\0",
    "no UTF-8": "\udcff",
    "large": "9" * 18,
    "larger than any row's": "9" * 30,
    "negative": "-1",
    "not a number": "NaN",
    "other digits": "٣",
    "first day": "0001-01-01",
    "last day": "9999-12-31T23:59:59-14:00",
    "filter": 'a,b)".eq.1&or=(',
    "pattern": "%_\\",
    "long": "🍊" * 50,
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
async def test_odd_values_are_no_faults(embedded: Endpoint, store: Store, session: str, value: str) -> None:
    known = await one_of_each(store, session)
    encoded = quote(value.encode("utf-8", "surrogateescape"))
    query = "&".join(f"{name}={encoded}" for name in PARAMETERS)
    form = "&".join(f"{name}={encoded}" for name in (*FORM, "same", "picture", "of", "what", "back", "name"))
    async with served(embedded, session) as site:
        await site.log_in()
        for path in routes("GET"):
            answer = await head_of(site, "GET", f"{filled(path, session, known)}?{query}", **{"last-event-id": "x"})
            assert answer.status_code in (200, 303, 403, 404), path
        csrf = await site.csrf()
        headers = {"origin": site.address, "content-type": "application/x-www-form-urlencoded"}
        for path in set(routes("POST")) - {"/logout", "/s/{session}/town"}:  # a town takes a minute
            content = f"csrf={csrf}&{form}"
            answer = await site.http.post(filled(path, session, known), content=content, headers=headers)
            assert answer.status_code in (200, 303, 403, 404), path


async def test_a_form_that_does_not_come_is_given_up(
    embedded: Endpoint, session: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(viewer, "FORM_SECONDS", 0.5)
    async with served(embedded, session) as site:
        await site.log_in()
        host = site.address.removeprefix("http://")
        name, _, port = host.partition(":")
        said = f"POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: {site.address}\r\nContent-Length: 9\r\n\r\nto"
        with anyio.fail_after(SECONDS):
            async with await anyio.connect_tcp(name, int(port)) as connection:
                await connection.send(said.encode())
                assert (await connection.receive()).startswith(b"HTTP/1.1 408 ")
            async with await anyio.connect_tcp(name, int(port)) as connection:
                await connection.send(said.encode())
        assert await site.read(f"{site.base}/link")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == [], "whoever leaves fills no log"


@pytest.mark.parametrize(
    "path",
    [
        "/s/%2e%2e/link",
        "/s/..%2f..%2fetc/link",
        "/s/%00/link",
        "/s/%0d%0ax/link",
        "/s/%ff%fe/link",
        f"/s/{'a' * 60_000}/link",
        "/s/SESSION/messages/9999999999999999999/file",
        "/s/SESSION/messages/%D9%A1/file",
        "/s/SESSION/messages/-1",
        "/s/SESSION/link/",
        "/login/",
        "//evil.example/login/",
        "/static",
        "/static/",
        "/static/%00",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        f"/static/{'a' * 60_000}",
    ],
)
async def test_no_trick_with_a_path_leads_anywhere(embedded: Endpoint, session: str, path: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        url = httpx.URL(site.address).copy_with(raw_path=path.replace("SESSION", session).encode())
        answer = await site.http.get(url)
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


async def test_read_only_pages_have_no_form_that_changes_something(
    embedded: Endpoint, store: Store, session: str
) -> None:
    known = await one_of_each(store, session)
    allowed = {"/preferences", "/logout", *(filled(path, session, known) for path in READING)}
    async with served(embedded, session, worker_console_read_only=True) as site:
        await site.log_in()
        for path in private("GET"):
            page = await head_of(site, "GET", filled(path, session, known))
            if page.headers.get("content-type", "").startswith("text/html"):
                text = await site.read(filled(path, session, known)) if page.status_code == 200 else ""
                forms = set(re.findall(r'method="post" action="([^"]+)"', text))
                assert {form for form in forms - allowed if not form.endswith("/switch")} == set(), path
                switches = re.findall(r'role="switch"[^>]*', text)
                assert [each for each in switches if not each.endswith(" disabled")] == [], path


async def test_no_page_holds_a_secret(embedded: Endpoint, store: Store, session: str) -> None:
    known = await one_of_each(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        cookie = site.http.cookies[site.app.console.options.cookie]
        for path in private("GET"):
            if path.endswith(("/events", "/file")):
                continue
            page = await site.get(filled(path, session, known))
            for secret in (TOKEN, embedded.key, cookie):
                assert secret not in page.text, path

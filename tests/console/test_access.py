"""Who gets in, from where, and what they may do."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

from console.access.guard import HEADERS
from console.access.logins import LINK_SECONDS, LINKS_MAX, SOURCES_MAX, Attempts, Logins, source_of
from tests.console.site import TOKEN, served
from tests.integration.database import rows, table, writer
from worker.errors import SettingsError
from worker.settings import load_settings
from worker.store import Store
from worker.store.embedded import Endpoint

ATTEMPTS = 5


async def flags(store: Store, session: str) -> dict[str, Any]:
    found: Any = await table(store, "runtime_flags").select("*").like("key", f"{session}:%").execute()
    return {row["key"].partition(":")[2]: row["value"] for row in found.data}


async def audited(store: Store, session: str) -> list[dict[str, Any]]:
    return [row["payload"] for row in await rows(store, "audit_log", session) if row["event"] == "console"]


async def test_wrong_tokens_are_refused_then_not_even_judged(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        for _ in range(ATTEMPTS):
            refused = await site.send("/login", {"token": "guessed-by-somebody"})
            assert refused.status_code == 403
            assert "set-cookie" not in refused.headers
        limited = await site.log_in()
        assert limited.status_code == 429
        assert 0 < int(limited.headers["retry-after"]) <= 60
        assert "set-cookie" not in limited.headers
        for _ in range(ATTEMPTS):
            assert (await site.get("/sessions", authorization="Bearer guessed")).status_code == 303
        proxied = await site.get("/sessions", authorization=f"Bearer {TOKEN}")
        assert proxied.headers["location"] == "/login"


async def test_a_stranger_s_wrong_tokens_shut_nobody_else_out(embedded: Endpoint, session: str) -> None:
    """All have one address: users of this machine, everybody behind a proxy or before a container."""
    async with served(embedded, session) as site:
        await site.log_in()
        await site.act("/logout")
        owner = dict(site.http.cookies)
        site.http.cookies.clear()
        for _ in range(ATTEMPTS + 1):
            await site.send("/login", {"token": "guessed-by-somebody"})
        assert (await site.log_in()).status_code == 429
        proxied = await site.get("/sessions", authorization=f"Bearer {TOKEN}")
        assert proxied.status_code == 200, "the proxy's users do not suffer from the form"
        assert (await site.send("/login/link", {})).status_code == 200
        assert len(site.said) == 1, "nor does a link for the terminal"

        site.http.cookies.update(owner)
        assert (await site.log_in()).status_code == 303, "a browser that was logged in before is judged alone"
        await site.act("/logout")
        for _ in range(ATTEMPTS):
            assert (await site.send("/login", {"token": "guessed-by-its-thief"})).status_code == 403
        assert (await site.log_in()).status_code == 429
        site.http.cookies.set(site.app.console.options.browser_cookie, "invented.by-somebody")
        assert (await site.log_in()).status_code == 429


async def test_a_link_opens_one_login_once(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session, worker_console_token=None) as site:
        assert (await site.send("/login/link", {})).status_code == 200
        link = site.said[0].split()[-1]
        assert link.startswith(f"{site.address}/login/link?code=")
        first = await site.http.get(link)
        assert (first.status_code, first.headers["location"]) == (303, "/")
        assert await site.read(f"{site.base}/link")
        site.http.cookies.clear()
        second = await site.http.get(link)
        assert second.status_code == 403
        assert "set-cookie" not in second.headers


async def test_a_link_that_several_open_at_once_lets_one_in(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        link = site.app.console.link()
        answers: list[int] = []

        async def use() -> None:
            async with httpx.AsyncClient(trust_env=False) as http:
                answers.append((await http.get(link)).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(use)
    assert sorted(answers) == [303, *[403] * 7]


@pytest.mark.parametrize("hosts", [("http://127.0.0.1",), ("https://h.example:8443", "https://h.example:9443")])
async def test_two_consoles_of_one_host_do_not_end_each_other_s_logins(
    embedded: Endpoint, session: str, hosts: tuple[str, ...]
) -> None:
    """Browsers send a cookie to every port of its host."""
    one, other = (host if len(hosts) > 1 else None for host in (hosts[0], hosts[-1]))
    async with (
        served(embedded, session, worker_console_origin=one) as first,
        served(embedded, session, worker_console_origin=other) as second,
    ):
        await first.log_in()
        second.http.cookies.update(first.http.cookies)
        await second.log_in()
        both = "; ".join(f"{cookie.name}={cookie.value}" for cookie in second.http.cookies.jar)
        assert (await first.get(f"{first.base}/link", cookie=both)).status_code == 200
        assert (await second.get(f"{second.base}/link", cookie=both)).status_code == 200


async def test_links_that_strangers_ask_for_take_none_from_the_owner(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        printed = site.app.console.link()
        for _ in range(20):
            answer = await site.send("/login/link", {})
            assert (answer.status_code, "newest link" in answer.text) == (200, True)
        assert site.said == [], "the newest is unused: another would be no better"
        assert (await site.http.get(printed)).status_code == 303
        assert (await site.send("/login/link", {})).status_code == 200
        assert len(site.said) == 1


def test_a_link_stays_valid_however_often_others_are_asked_for() -> None:
    now = 1000.0
    logins = Logins(None, clock=lambda: now)
    first = logins.make_link()
    asked = 0
    while now < 1000.0 + LINK_SECONDS - 1:
        now += 1
        if not logins.has_fresh_link:
            logins.make_link()
            asked += 1
    assert asked < LINKS_MAX
    assert logins.use_link(first)
    assert not logins.use_link(first)
    late = logins.make_link()
    now += LINK_SECONDS
    assert not logins.use_link(late)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),  # one customer's network
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),  # IPv4 at a socket for both
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("?", "?", True),  # a Unix socket has no address
    ],
)
def test_guesses_are_counted_by_who_can_have_made_them(one: str, other: str, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same


def test_guesses_from_many_sources_take_no_more_memory() -> None:
    attempts = Attempts(clock=lambda: 0.0)
    for _ in range(ATTEMPTS):
        attempts.note_wrong("the one that goes on")
    for number in range(SOURCES_MAX + 10):
        attempts.note_wrong(str(number))
        if number % 1000 == 0 and not attempts.wait_seconds("the one that goes on"):
            raise AssertionError(number)
        if number % 1000 == 0:
            attempts.note_wrong("the one that goes on")
    assert len(attempts._wrong) == SOURCES_MAX


async def test_without_a_token_no_token_opens_it(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session, worker_console_token=None) as site:
        for guess in ("", "None", TOKEN):
            assert (await site.send("/login", {"token": guess})).status_code == 403


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, {"wa_console_", "HttpOnly", "SameSite=strict"}),
        ("http://console.example.org", {"wa_console", "HttpOnly", "SameSite=strict"}),
        ("https://console.example.org", {"__Host-wa_console", "HttpOnly", "SameSite=strict", "Secure", "Path=/"}),
        ("https://console.example.org:8443", {"__Host-wa_console_8443", "HttpOnly", "SameSite=strict", "Path=/"}),
    ],
)
async def test_the_cookie_is_for_this_site_alone(
    embedded: Endpoint, session: str, origin: str | None, wanted: set[str]
) -> None:
    async with served(embedded, session, worker_console_origin=origin) as site:
        cookies = (await site.log_in()).headers.get_list("set-cookie")
    assert len(cookies) == 2, "the login, and the mark of a browser that was logged in"
    for cookie in cookies:
        assert {part for part in wanted if part in cookie} == wanted
        assert ("Secure" in cookie) is str(origin).startswith("https:")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:3002", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("[", 421),
        ("console.example.org.evil.example", 421),
        ("console.example.org", 200),
        ("localhost:3002", 200),
        ("[::1]:3002", 200),
        ("192.0.2.7:3002", 200),
    ],
)
async def test_only_addresses_and_the_own_name_are_served(
    embedded: Endpoint, session: str, host: str, status: int
) -> None:
    async with served(embedded, session, worker_console_origin="https://console.example.org") as site:
        assert (await site.get("/login", host=host)).status_code == status


async def test_every_action_is_in_the_audit_log_with_who_did_it(embedded: Endpoint, store: Store, session: str) -> None:
    await writer(store, session)
    async with served(embedded, session) as site:
        await site.log_in("Olga")
        group = (await store.console.groups(session))[0]
        await site.act(f"{site.base}/link/refresh")
        await site.act(f"{site.base}/link/code", phone="+49 151 / 123-4567")
        await site.act(f"{site.base}/link/passkey", assertion="{}")
        await site.act(f"{site.base}/link/compare", code="AB12", same="false")
        await site.act(f"{site.base}/link/disconnect")
        await site.act(f"{site.base}/town")
        await site.act(f"{site.base}/town/stop")
        await site.act(f"{site.base}/groups/fetch")
        await site.act(f"{site.base}/groups/{group.id}/switch", monitor="false")
        await site.act(f"{site.base}/health/retry")
        await site.act(f"{site.base}/health/refused/1")
        await site.act(f"{site.base}/health/refused")
        await site.act(f"{site.base}/groups/{group.id}/export")
    done = await audited(store, session)
    assert [entry["action"] for entry in done] == [
        *(
            "refresh",
            "pairing_code",
            "passkey_answered",
            "passkey_compared",
            "disconnect",
            "town_start",
            "town_stop",
            "fetch_groups",
            "switch",
            "media_retry",
            "refused_retry",
            "refused_export",
            "export",
        )
    ]
    assert {entry["who"] for entry in done} == {"Olga"}
    raised = await flags(store, session)
    assert raised["wa_passkey_answered"]["assertion"] == "{}"
    assert (raised["wa_passkey_compared"]["code"], raised["wa_passkey_compared"]["same"]) == ("AB12", False)
    assert set(raised) - {"wa_passkey_answered", "wa_passkey_compared"} == {
        *("wa_refresh_qr_requested", "wa_pairing_code_requested", "wa_disconnect_requested", "fetch_groups_requested")
    }
    assert raised["wa_pairing_code_requested"]["phone"] == "491511234567"
    assert [each.monitor for each in await store.console.groups(session) if each.id == group.id] == [False]


async def test_a_proxy_that_has_the_token_says_who_looks(embedded: Endpoint, store: Store, session: str) -> None:
    async with served(embedded, session) as site:
        headers = {"authorization": f"Bearer {TOKEN}", "x-forwarded-user": "ben@example.org\x07"}
        page = await site.get(f"{site.base}/link", **headers)
        csrf = page.text.split('name="csrf" value="')[1].split('"')[0]
        done = await site.send(f"{site.base}/link/refresh", {"csrf": csrf}, **headers)
        assert done.status_code == 303
        for names in (["olga@example.org", "ben@example.org"], ["", "ben@example.org"]):
            several = [("accept", "text/html"), ("authorization", f"Bearer {TOKEN}")]
            several += [("x-forwarded-user", name) for name in names]
            refused = await site.http.get(f"{site.base}/link", headers=several)
            assert refused.status_code == 303, "the proxy has added a name to what the visitor invented"
        named = {"authorization": f"Bearer {TOKEN}", "x-forwarded-user": "Jürgen".encode()}
        assert "Jürgen" in (await site.get(f"{site.base}/link", **named)).text  # type: ignore[arg-type]
        nameless = {"authorization": f"Bearer {TOKEN}", "x-forwarded-user": ""}
        assert "token, 127.0.0.1" in (await site.get(f"{site.base}/link", **nameless)).text
        unproved = await site.get(f"{site.base}/link", **{"x-forwarded-user": "ben@example.org"})
        assert unproved.status_code == 303, "the name alone proves nothing"
        assert unproved.headers["location"] == "/login"
    assert [entry["who"] for entry in await audited(store, session)] == ["ben@example.org"]


async def test_every_answer_carries_the_headers(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        answers = [
            await site.get("/login"),
            await site.get("/login", host="evil.example"),
            await site.get("/nothing-here"),
            await site.get("/static/console.js"),
            await site.get("/", accept="*/*"),
            await site.http.put("/login"),
            await site.http.post("/login", content=b"x" * 20_000, headers={"origin": site.address}),
        ]
        await site.log_in()
        answers += [await site.get(f"{site.base}/{name}") for name in ("link", "groups", "feed", "health")]
    assert [answer.status_code for answer in answers] == [200, 421, 404, 200, 401, 405, 413, *[200] * 4]
    for answer in answers:
        assert HEADERS.items() <= dict(answer.headers).items(), answer.url
    assert "unsafe" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize("back", ["https://evil.example", "//evil.example", "/\\evil.example", "/a\r\nset-cookie: b=c"])
async def test_preferences_lead_back_to_this_site_alone(embedded: Endpoint, session: str, back: str) -> None:
    async with served(embedded, session) as site:
        answer = await site.send("/preferences", {"theme": "dark", "language": "de", "back": back})
        assert answer.headers["location"] == "/"
        page = (await site.get("/login")).text
        assert 'lang="de" data-theme="dark"' in page
        assert "Anmelden" in page


async def test_logging_out_ends_the_login(embedded: Endpoint, session: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        kept = dict(site.http.cookies)
        await site.act("/logout")
        site.http.cookies.update(kept)
        assert (await site.get(f"{site.base}/link")).headers["location"] == "/login"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"WORKER_CONSOLE_HOST": "0.0.0.0"}, "WORKER_CONSOLE_TOKEN"),  # noqa: S104 - that it is refused
        ({"WORKER_CONSOLE_HOST": "::"}, "WORKER_CONSOLE_TOKEN"),
        ({"WORKER_CONSOLE_HOST": "console.example.org"}, "WORKER_CONSOLE_TOKEN"),
        ({"WORKER_CONSOLE_TOKEN": "short"}, "WORKER_CONSOLE_TOKEN"),
        ({"WORKER_CONSOLE_ORIGIN": "https://example.org/console"}, "WORKER_CONSOLE_ORIGIN"),
    ],
)
def test_an_open_console_needs_a_token(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], named: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{named}: "):
        load_settings({"_env_file": None})

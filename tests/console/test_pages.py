"""What the pages show: states in words, groups, messages at addresses of their own, and nobody's markup."""

from __future__ import annotations

import html
import io
import json
import re
import zipfile
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.routing import Route

from console import messages
from console.app import ROUTES
from console.templates import preview
from console.texts import texts
from tests.console.rows import connected, dropped, ids, recent, show, store_file, vote, with_file
from tests.console.site import served
from tests.integration.database import GROUP, OTHER_GROUP, Writer, at, rows, table, writer
from worker.ingest.parts import Item
from worker.store import Audit, GroupChange, Store
from worker.store.embedded import Endpoint

HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>"
SOON = timedelta(seconds=40)


class Active(HTMLParser):
    """Collects what a browser would run or fetch from elsewhere, as it reads the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.found += [name for name in given if name.startswith("on") or name in ("style", "srcdoc", "formaction")]
        if tag in ("iframe", "object", "embed", "base", "style", "template") or (
            tag == "meta" and "http-equiv" in given
        ):
            self.found.append(tag)
        source = given.get("src", given.get("href", ""))
        is_link_of_ours = (
            tag == "a" and source.startswith(("https://", "http://")) and "noopener" in given.get("rel", "")
        )
        if source and not source.startswith(("/", "#")) and not is_link_of_ours:
            self.found.append(f"{tag}: {source}")


def active(page: str) -> list[str]:
    parser = Active()
    parser.feed(page)
    return parser.found


async def test_the_code_is_drawn_with_its_time_and_goes_when_it_expires(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    code = {"status": "connecting", "state": "waiting_for_scan", "say": "Scan the QR code.", "qr": "2@secret,code"}
    async with served(embedded, session) as site:
        await site.log_in()
        await show(store, held, **code, expires_at=datetime.now(UTC) + SOON)
        page = await site.read(f"{site.base}/link")
        assert '<svg xmlns="http://www.w3.org/2000/svg"' in page
        assert "2@secret" not in page, "drawn, not written"
        seconds = re.search(r'data-countdown="([0-9.]+)"', page)
        assert seconds
        assert 0 < float(seconds[1]) <= 40
        await show(store, held, **code, expires_at=datetime.now(UTC) - SOON)
        page = await site.read(f"{site.base}/link")
        assert "<svg" not in page
        assert "The next code is on its way" in page
        await connected(store, held)
        page = await site.read(f"{site.base}/link")
        assert "Connected as Olga" in page
        await store.lease_release(session, "worker-1", held.fence)
        page = await site.read(f"{site.base}/link")
        assert "No worker is running" in page
        assert "Connected as" not in page, "what the last worker left behind is not the present"


async def test_a_number_that_is_none_raises_no_flag(embedded: Endpoint, store: Store, session: str) -> None:
    await writer(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        answer = await site.act(f"{site.base}/link/code", phone="call me")
        assert "This is not a phone number" in await site.read(answer.headers["location"])
    found = await table(store, "runtime_flags").select("key").like("key", f"{session}:%").execute()
    assert found.data == []


async def test_groups_are_listed_found_and_switched(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("a", text="the newest of the family")])
    await store.upsert_groups(session, held.fence, [GroupChange(wa_group_id=GROUP, name="Relatives")], complete=False)
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/groups")
        for words in ("Relatives", "was Family", "Work", "the newest of the family", "1 of 2 stored"):
            assert words in page
        found = await site.read(f"{site.base}/groups?q=wor")
        assert "Work" in found
        assert "Relatives" not in found
        work = next(group for group in await store.console.groups(session) if group.name == "Work")
        answer = await site.act(f"{site.base}/groups/{work.id}/switch", monitor="true", back="group")
        page = await site.read(answer.headers["location"])
        assert "Stored from now on" in page
        assert 'aria-checked="true"' in page
        assert (await site.get(f"{site.base}/groups/999999")).status_code == 404


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"kind": "text", "text": "two\nlines"}, "two lines"),
        ({"kind": "image", "text": None, "file_name": None}, "[Picture]"),
        ({"kind": "poll_vote", "text": "Friday\nSaturday"}, "Voted for Friday, Saturday"),
        ({"kind": "poll_vote", "text": None, "content": {"choices": []}}, "Withdrew the vote."),
        ({"kind": "pin", "text": None}, "Pinned or unpinned a message."),
        ({"kind": "text", "text": "gone", "revoked_at": "2026-11-27T10:00:00Z"}, "🚫"),
    ],
)
def test_a_message_is_told_on_one_line(row: dict[str, object], line: str) -> None:
    assert preview(row, texts("en")) == line


async def test_one_session_sees_nothing_of_another(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("a", text="of this session alone")])
    message = (await ids(store, session))["a"]
    (group,) = [group.id for group in await store.console.groups(session) if group.monitor]
    async with served(embedded, "somebody-else") as site:
        await site.log_in()
        for path in (
            f"messages/{message}",
            f"messages/{message}/file",
            f"groups/{group}",
            f"groups/{group}/export",
            f"groups/{group}/members",
        ):
            answer = site.act if path.endswith("/export") else site.get
            assert (await answer(f"{site.base}/{path}")).status_code == 404
        for path in ("feed", f"feed?group={group}", f"feed?before={message + 1}"):
            assert "of this session alone" not in await site.read(f"{site.base}/{path}")
        assert "of this session alone" in await site.read(f"/s/{session}/feed"), "the operator sees every session"


async def test_every_message_is_reached_page_by_page_and_at_its_own_address(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    wanted = [f"m{number}" for number in range(120)]
    await held.commit(messages=[recent(name, 1000 - 5 * place) for place, name in enumerate(wanted)])
    known = await ids(store, session)
    (group,) = [group.id for group in await store.console.groups(session) if group.monitor]
    async with served(embedded, session) as site:
        await site.log_in()
        for where in ("", f"&group={group}"):
            seen: list[int] = []
            page = await site.read(f"{site.base}/feed?{where}")
            while True:
                seen = [int(found) for found in re.findall(r'<article id="m(\d+)"', page)] + seen
                more = re.search(r"before=(\d+)", page)
                if not more:
                    break
                page = await site.read(f"{site.base}/feed?before={more[1]}{where}")
            assert seen == [known[name] for name in wanted]
        page = await site.read(f"{site.base}/messages/{known['m60']}")
        assert f'<article id="m{known["m60"]}" class="bubble marked"' in page
        assert f"m{known['m59']}" in page
        assert f"m{known['m61']}" in page
        part = await site.read(f"{site.base}/feed?before={known['m60']}&part=1")
        assert part.startswith("<div data-more=")


async def test_a_day_opens_at_its_first_message(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("old", 5 * 86_400), recent("new", 60)])
    known = await ids(store, session)
    day = (datetime.now(UTC) - timedelta(days=2)).date().isoformat()
    async with served(embedded, session) as site:
        await site.log_in()
        answer = await site.get(f"{site.base}/feed?date={day}&offset=-60")
        assert answer.headers["location"] == f"{site.base}/feed?at={known['new']}"
        answer = await site.get(f"{site.base}/feed?date=2020-01-01&offset=0")
        assert answer.headers["location"] == f"{site.base}/feed?at={known['old']}"
        assert (await site.get(f"{site.base}/feed?date=2999-01-01")).headers["location"] == f"{site.base}/feed"
        assert (await site.get(f"{site.base}/feed?date=yesterday")).status_code == 404


async def test_what_happened_to_a_message_is_shown(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    renamed = {"stub_type": "GROUP_CHANGE_SUBJECT", "stub_parameters": ["Town"]}
    rows = [
        recent("a", 90, text="first words"),
        recent("b", 80, text="As I said", quoted_msg_id="a", quoted_sender="ana@lid"),
        recent("c", 70, text="gone"),
        recent("d", 60, kind="system", text=None, raw=renamed),
        recent("e", 50, kind="undecryptable", text=None, pending=True),
    ]
    target = {"chat_id": GROUP, "target_sender": "ana@lid", "author": "ana@lid", "at": rows[-1]["ts"]}
    changes = [
        {**target, "kind": "edit", "target_id": "a", "change_id": "e1", "payload": {"text": "better words"}},
        {**target, "kind": "quote", "target_id": "a", "change_id": "b", "payload": {}},
        {**target, "kind": "revoke", "target_id": "c", "change_id": "r1", "payload": {}},
        {
            **target,
            "kind": "reaction",
            "target_id": "b",
            "change_id": "x1",
            "author": "ben@lid",
            "payload": {"emoji": "👍"},
        },
    ]
    await held.commit(messages=rows, changes=changes)
    known = await ids(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/feed")
    for words in (
        "better words",
        "first words",
        "👍 from",
        "Deleted for everyone by Ana",
        "The group is now called Town",
    ):
        assert words in page
    assert f'href="{site.base}/messages/{known["a"]}" data-jump="m{known["a"]}"' in page
    assert "Could not be read yet" in page


async def test_strangers_markup_is_text_wherever_it_stands(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    odd = {"stub_type": HOSTILE, "stub_parameters": [HOSTILE, 1, None]}
    card = {"contacts": [{"name": HOSTILE, "phones": [{"number": HOSTILE}]}]}
    rows = [
        recent(
            "text", 90, text=f"{HOSTILE} *{HOSTILE}* ```{HOSTILE}``` https://x.example/{HOSTILE}", push_name=HOSTILE
        ),
        recent("js", 89, text='javascript:alert(1) [x](javascript:alert(2)) http://a.example/"onmouseover=alert(3)'),
        recent("quote", 80, text=HOSTILE, quoted_msg_id="text", quoted_sender="ana@lid"),
        recent("poll", 70, kind="poll", text=f"{HOSTILE}\n{HOSTILE}"),
        recent("card", 60, kind="contact", text=HOSTILE, content=card),
        recent("odd", 50, kind=HOSTILE, text=None, raw={}),
        recent("system", 40, kind="system", text=None, raw=odd),
        with_file("file", "document", HOSTILE, 30),
    ]
    target = {"chat_id": GROUP, "target_sender": "ana@lid", "author": "ana@lid", "at": rows[-1]["ts"]}
    changes = [
        {**target, "kind": "edit", "target_id": "quote", "change_id": "e1", "payload": {"text": f"new {HOSTILE}"}},
        {**target, "kind": "reaction", "target_id": "quote", "change_id": "x1", "payload": {"emoji": HOSTILE}},
    ]
    refused = [{"chat_id": GROUP, "sender": HOSTILE, "wa_msg_id": HOSTILE, "code": "22P05", "reason": HOSTILE}]
    await held.commit(messages=rows, changes=changes, discards={HOSTILE: 1})
    await store_file(store, held, b"<svg onload=alert(1)>", "image/svg+xml", "svg")
    await store.upsert_groups(session, held.fence, [GroupChange(wa_group_id=GROUP, name=HOSTILE)], complete=False)
    await table(store, "wa_refused_stanzas").insert([{"session_id": session, **row} for row in refused]).execute()
    view = {
        "status": "disconnected",
        "detail": {"state": HOSTILE, "say": HOSTILE},
        "wa_name": HOSTILE,
        "wa_number": HOSTILE,
    }
    await store.set_session(session, held.fence, view, [Audit(event="error", payload={HOSTILE: HOSTILE})])
    known = await ids(store, session)
    (group,) = [group.id for group in await store.console.groups(session) if group.monitor]
    async with served(embedded, session) as site:
        await site.log_in(HOSTILE)
        paths = ["link", "groups", f"groups?q={HOSTILE}", f"groups/{group}", "feed", f"feed?group={group}", "health"]
        paths += [f"health?event={HOSTILE}", f"link?did={HOSTILE}", *(f"messages/{each}" for each in known.values())]
        pages = {path: await site.read(f"{site.base}/{path}") for path in paths} | {"all": await site.read("/sessions")}
    assert sum("&lt;img src=x" in page for page in pages.values()) > 10, "it is there, as text"
    for path, page in pages.items():
        assert active(page) == [], path


async def test_names_are_never_missing(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    rows = [
        recent("a", 90, sender="100200300@lid", sender_alt=None, push_name="Chika"),
        recent("b", 80, sender="100200300@lid", sender_alt=None, push_name=None),
        recent("c", 70, sender="4915112345@s.whatsapp.net", sender_alt=None, push_name=None),
        recent("d", 60, sender="987654321@lid", sender_alt=None, push_name=None, text="hello @100200300"),
    ]
    await held.commit(messages=rows)
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/feed")
    names = re.findall(r'<header id="m\d+-head">\s*<bdi[^>]*>([^<]+)<', page)
    assert names == ["Chika", "Chika", "+4915112345", "~4321"]
    assert '<span class="mention">@Chika</span>' in page


async def test_health_says_what_was_lost_and_what_to_do(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[with_file("f", "image")], discards={"waited_too_long": 7})
    (job,) = (await store.media_claim("tests", 10, 60.0, session)).jobs
    await store.media_abandon(job.id, "tests", "failed", "MEDIA_FAILED", "no answer")
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/health")
        for words in (
            "Messages are not received now",
            "waited_<wbr>too_<wbr>long",
            "Raise WORKER_CATCH_UP_S",
            "MEDIA_FAILED",
        ):
            assert words in page
        assert "The file could not be fetched" in page
        answer = await site.act(f"{site.base}/health/retry")
        page = await site.read(answer.headers["location"])
        assert "The file could not be fetched" not in page
        assert "1 due" in page
        assert "MEDIA_FAILED" not in await site.read(f"{site.base}/health?event=console")


async def test_one_failed_file_is_tried_again_and_the_others_are_left(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    ends = ["failed", "expired", "too_large", "refused"] + ["failed"] * 20
    await held.commit(messages=[with_file(f"f{n}", "document", f"{n}.{HOSTILE}", 900 - n) for n in range(len(ends))])
    found = await ids(store, session)
    for job in (await store.media_claim("tests", 100, 60.0, session)).jobs:
        end = ends[int(job.wa_msg_id.removeprefix("f"))]
        await store.media_abandon(job.id, "tests", end, "MEDIA_FAILED", f"because\n{HOSTILE}")
    async with served(embedded, session) as site:
        await site.log_in()
        path, listed, buttons = f"{site.base}/health", [], []
        while path:
            page = await site.read(path)
            assert active(page) == []
            listed += re.findall(rf'<td data-label="File"><span><a href="{site.base}/messages/(\d+)">', page)
            buttons += re.findall(rf'action="{site.base}/health/retry/(\d+)"', page)
            more = re.search(r'href="([^"]+files_before=\d+)#files"', page)
            path = html.unescape(more[1]) if more else ""
        assert sorted(map(int, listed)) == sorted(found.values())
        assert set(map(int, buttons)) == set(found.values()) - {found["f3"]}, "the worker's rules would refuse it again"
        for name in ("f2", "f3", "f2"):
            answer = await site.act(f"{site.base}/health/retry/{found[name]}")
            page = await site.read(answer.headers["location"])
            assert ("Nothing was left to try again." in page) == (answer.headers["location"].endswith("retry_none"))
        assert "1 due" in page
    waiting = await table(store, "media_jobs").select("message_id").eq("session_id", session).execute()
    assert [row["message_id"] for row in waiting.data] == [found["f2"]]


async def test_every_refused_message_is_reached_page_by_page(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    items = [Item("message", recent(f"r{n}")).as_base64("22P05", f"r{n}. {HOSTILE}") for n in range(50)]
    await held.commit(refused=items)
    async with served(embedded, session) as site:
        await site.log_in()
        path, listed = f"{site.base}/health", []
        while path:
            page = await site.read(path)
            assert active(page) == []
            listed += re.findall(r"<bdi>(r\d+)\.", page)
            more = re.search(r'href="([^"]+refused_before=\d+)#refused"', page)
            path = html.unescape(more[1]) if more else ""
    assert listed == [f"r{n}" for n in range(49, -1, -1)]


async def test_the_log_tells_what_one_person_did(embedded: Endpoint, store: Store, session: str) -> None:
    await writer(store, session)
    people = ["Ana", 'Bo, "the" (second)', "true", "null", "a&b=c", "%", HOSTILE]
    async with served(embedded, session) as site:
        await site.log_in()
        for person in people:
            payload = {"action": "export", "who": person, "mark": f"did-{people.index(person)}."}
            await store.audit(session, "console", payload)
        await store.audit(session, "error", {"who": "Ana", "mark": "did-x."})
        for place, person in enumerate(people):
            answer = await site.http.get(f"{site.base}/health", params={"who": person})
            assert answer.status_code == 200, person
            assert re.findall(r"mark: did-(\w+)\.", answer.text) == [str(place)], person
            assert active(answer.text) == []


PARAMETERS = (
    *(
        "after",
        "at",
        "before",
        "code",
        "cursor",
        "date",
        "days",
        "did",
        "event",
        "group",
        "heard",
        "files_before",
        "files_until",
        "offset",
        "page",
        "refused_before",
        "refused_until",
        "since",
        "who",
        "panel",
        "part",
        "q",
    ),
    *("span", "until"),
)


@pytest.mark.parametrize("value", ["--5", "٣", "9" * 18, "\0", "9999-12-31"])
async def test_no_parameter_breaks_a_page(embedded: Endpoint, store: Store, session: str, value: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("a")])
    (message,) = (await ids(store, session)).values()
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    async with served(embedded, session) as site:
        await site.log_in()
        for name in (
            *("link", "groups", f"groups/{group}", f"groups/{group}/members", f"groups/{group}/gallery"),
            *("coverage", "feed", f"messages/{message}", "search", "health"),
        ):
            answer = await site.http.get(f"{site.base}/{name}", params=dict.fromkeys(PARAMETERS, value))
            assert answer.status_code < 500, name


async def test_an_id_that_no_row_can_have_is_no_page(embedded: Endpoint, store: Store, session: str) -> None:
    await writer(store, session)
    routes = [route for route in ROUTES if isinstance(route, Route) and ":id}" in route.path]
    assert routes
    async with served(embedded, session) as site:
        await site.log_in()
        for route in routes:
            path = re.sub(r"{\w+:id}", "9" * 30, route.path).replace("{session}", session)
            for method in route.methods or ():
                answer = await (site.act(path) if method == "POST" else site.http.request(method, path))
                assert answer.status_code == 404, f"{method} {path}"


async def test_the_log_is_read_by_event_by_day_and_page_by_page(embedded: Endpoint, store: Store, session: str) -> None:
    """Entries of one commit have the same time; a page may end among them."""
    await writer(store, session)
    await table(store, "audit_log").delete().eq("session_id", session).execute()
    at = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    days = [
        {"session_id": session, "event": "error", "at": (at - timedelta(days=n // 40)).isoformat()} for n in range(120)
    ]
    await (
        table(store, "audit_log")
        .insert([row | {"payload": {"code": f"E{n}."}} for n, row in enumerate(days)])
        .execute()
    )
    async with served(embedded, session) as site:
        await site.log_in()

        async def listed(query: str) -> list[int]:
            """The entries of all pages."""
            path, found = f"{site.base}/health?{query}", list[int]()
            while path:
                page = await site.read(path)
                found += [int(number) for number in re.findall(r"E(\d+)\.", page)]
                more = re.search(r'href="([^"]+before=\d+)#log"', page)
                path = html.unescape(more[1]) if more else ""
            return found

        first, second, third = (list(range(last, last - 40, -1)) for last in (39, 79, 119))
        assert await listed("") == await listed("event=error") == [*first, *second, *third]
        assert await listed("event=connect") == []
        assert await listed("date=2026-02-28") == [*second, *third]
        assert await listed("date=2026-02-28&offset=-60") == third, "half past midnight, an hour east of UTC"
        assert await listed("since=2026-02-28") == [*first, *second]
        assert await listed("since=2026-02-28&date=2026-02-28") == second
        assert await listed("since=2026-03-01&date=2026-02-28&event=error") == []
        for nonsense in (  # a filter of the embedded Supabase reads `true` as no text, and PostgreSQL takes no NUL
            "event=true",
            "event=%00",
            "date=x",
            "date=9999-12-31",
            "date=0001-01-01&offset=-600",
            "before=5",
            "before=5&until=%00",
            "offset=--5",
        ):
            await site.read(f"{site.base}/health?{nonsense}")


async def test_health_shows_the_figures_that_the_worker_stored(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    now = datetime.now(UTC).isoformat()
    figures = {"from": now, "to": now, "count": 31, "p50_ms": 1234, "p95_ms": 2345, "max_ms": 3456}
    detail = {"state": "connected", "say": "ok", "heard": {"any": now, "group": None}, "commits": figures}
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/health")
        assert "Commit time" not in page, "none was stored yet"
        await store.set_session(session, held.fence, {"status": "connected", "detail": detail}, [])
        page = await site.read(f"{site.base}/health")
        assert "half within 1,234 ms, 95 % within 2,345 ms, slowest 3,456 ms" in page
        assert "Last heard from WhatsApp" in page
        assert "Last heard from a group" not in page


async def test_a_listed_message_is_exported_and_taken_back(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    listed = Item("message", recent("listed", text="kept although refused")).as_base64("22P05", "no", "waiting")
    gone = Item("message", {"chat_id": GROUP, "sender": "ana@lid", "wa_msg_id": "broken", "ts": "never"})
    await held.commit(refused=[listed, gone.as_base64("22007", "no time")])
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/health")
        assert "waiting: tried again by itself" in page
        exported = await site.act(f"{site.base}/health/refused")
        documents = {each["wa_msg_id"]: each for each in map(json.loads, exported.text.splitlines())}
        assert documents["listed"]["content"]["text"] == "kept although refused"

        taken = await site.act(f"{site.base}/health/refused/{documents['listed']['id']}")
        assert "Taken back" in await site.read(taken.headers["location"])
        not_taken = await site.act(f"{site.base}/health/refused/{documents['broken']['id']}")
        assert "could not be taken back" in await site.read(not_taken.headers["location"])
    assert [row["text"] for row in await rows(store, "messages", session)] == ["kept although refused"]
    assert [row["wa_msg_id"] for row in await rows(store, "wa_refused_stanzas", session)] == ["broken"]


async def list_members(store: Store, held: Writer, count: int, gone: int = 0) -> None:
    """A list of so many people, the first an admin; the last `gone` have left since."""
    people = [{"member": f"p{place}@lid", "role": "member"} for place in range(count)]
    people[0]["role"] = "superadmin"
    told = {"wa_group_id": GROUP, "at": at(0), "what": "list", "members": people, "complete": True}
    left = {"wa_group_id": GROUP, "at": at(9), "what": "left", "members": people[count - gone :]}
    await store.write_members(held.session, held.fence, [told, left])


async def test_an_export_has_every_message_and_member_and_says_so(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent(f"m{number}") for number in range(250)])
    (group,) = [group.id for group in await store.console.groups(session) if group.monitor]
    async with served(embedded, session) as site:
        await site.log_in()
        bare = await site.act(f"{site.base}/groups/{group}/export")
        await list_members(store, held, 3, gone=1)
        answer = await site.act(f"{site.base}/groups/{group}/export")
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(bare.content)) as archive:
        assert archive.namelist() == ["messages.jsonl", "export.json"], "no members are kept"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        manifest = json.loads(archive.read("export.json"))
        lines = archive.read("messages.jsonl")
        people = [json.loads(line) for line in archive.read("members.jsonl").splitlines()]
    assert len(lines.splitlines()) == 250
    assert [(one["member"], one["role"], one["left_at"] is None) for one in people] == [
        ("p0@lid", "superadmin", True), ("p1@lid", "member", True), ("p2@lid", "member", False)
    ]  # fmt: skip
    assert (manifest["wa_group_id"], manifest["messages"], manifest["members"]) == (GROUP, 250, 3)
    assert (manifest["complete"], manifest["bytes"]) == (True, len(lines))
    assert "not_monitored" in {gap["reason"] for gap in manifest["coverage"]["gaps"]}, "what is missing, and why"


async def test_members_are_shown_and_how_to_keep_them(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("a", sender="p1@lid", sender_alt="4917@s.whatsapp.net", push_name=HOSTILE)])
    groups = await store.console.groups(session)
    (group,) = [group.id for group in groups if group.monitor]
    (other,) = [group.id for group in groups if not group.monitor]
    async with served(embedded, session) as site:
        await site.log_in()
        assert "set <code>WORKER_GROUP_MEMBERS=true</code>" in await site.read(f"{site.base}/groups/{group}")
        assert "groups that are switched on" in await site.read(f"{site.base}/groups/{other}")

        await list_members(store, held, 1024, gone=4)
        page = await site.read(f"{site.base}/groups/{group}")
        assert "1,020 in the group." in page
        assert "4 have left." in page
        assert "founder" in page
        assert "WORKER_GROUP_MEMBERS" not in page
        assert page.count('<tr data-words="') == 12, "the others have a page of their own"
        assert active(page) == []

        page = await site.read(f"{site.base}/groups/{group}/members")
        assert page.count('<tr data-words="') == 1024
        assert page.count('class="gone"') == 4
        assert "+4917" in page
        assert active(page) == []
        assert (await site.get(f"{site.base}/groups/999999/members")).status_code == 404


@pytest.mark.parametrize("language", ["de", "de-AT,en;q=0.5", "fr,de;q=0.8"])
async def test_pages_speak_the_browser_s_language(embedded: Endpoint, session: str, language: str) -> None:
    async with served(embedded, session) as site:
        await site.log_in()
        for name in ("link", "groups", "feed", "health"):
            page = (await site.get(f"{site.base}/{name}", **{"accept-language": language})).text
            assert 'lang="de"' in page
        assert "Nachrichten" in page


async def test_a_group_says_since_when_its_archive_is_complete_and_what_is_missing(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await held.commit(dropped=[dropped(count=1234)])
    group = next(group.id for group in await store.console.groups(session) if group.wa_group_id == GROUP)
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/groups/{group}")
        every = await site.read(f"{site.base}/coverage")
    for shown in (page, every):
        assert "Not complete: not switched on." in shown, "no worker has heard of the switch"
        assert "dropped: came too late" in shown
        assert re.findall(r'<rect class="gap-(\w+)" x="\d', shown).count("lost") == 2, "a gap, and the legend"
        assert active(shown) == []
    assert '<td class="number">1,234</td>' in page
    assert f'href="{site.base}/groups/{group}"' in every


async def test_the_archive_of_many_groups_is_shown_page_by_page(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session, monitored=())
    groups = [GroupChange(wa_group_id=f"12036360{n:03}@g.us", name=f"Group {n:03}") for n in range(60)]
    await store.upsert_groups(session, held.fence, groups, complete=False)
    async with served(embedded, session) as site:
        await site.log_in()
        assert "No group was ever switched on." in await site.read(f"{site.base}/coverage")
        await (
            table(store, "groups").update({"monitor": True}).eq("session_id", session).like("name", "Group%").execute()
        )
        first, second = [await site.read(f"{site.base}/coverage?days=365&page={page}") for page in (1, 2)]
        odd = await site.read(f"{site.base}/coverage?days=0&page=99999999999999")
    found = [re.findall(r"<bdi>(Group \d+)</bdi>", page) for page in (first, second)]
    assert found[0] + found[1] == [f"Group {n:03}" for n in range(60)]
    assert "Page 1 of 2" in first
    assert 'days=365&amp;page=1" rel="prev"' in second
    assert "Group 001" not in odd


async def test_every_group_can_be_chosen_however_many_there_are(
    embedded: Endpoint, store: Store, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also more than one read gives."""
    monkeypatch.setattr(messages, "GROUPS_A_READ", 7)
    held = await writer(store, session, monitored=())
    names = [f"Group {n:03}" for n in range(20)]
    groups = [GroupChange(wa_group_id=f"12036370{n:03}@g.us", name=name) for n, name in enumerate(names)]
    await store.upsert_groups(session, held.fence, groups, complete=False)
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/search")
    assert re.findall(r">\s*(Group \d+)\s*</option>", page) == names


async def test_charts_show_what_came_when_and_say_it_as_a_table(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session, monitored=(GROUP, OTHER_GROUP))
    old = recent("old", 5 * 86_400)
    sent = [recent(f"m{n}", 7200) for n in range(3)] + [recent("o", 7200, chat_id=OTHER_GROUP), old]
    await held.commit(messages=sent, audits=[*(Audit(event=each) for each in ("connect", "disconnect", "reconnect"))])
    group = next(group.id for group in await store.console.groups(session) if group.wa_group_id == GROUP)
    async with served(embedded, session) as site:
        await site.log_in()
        day, month = [await site.read(f"{site.base}/health?span={span}") for span in ("day", "month")]
        own = await site.read(f"{site.base}/groups/{group}?span=month")
        odd = await site.read(f"{site.base}/health?span=century")
    assert "Messages: 4 in all, at most 4 in 10 minutes" in day
    assert "Messages: 4 in all, at most 4 in 10 minutes" in odd
    assert "Messages: 5 in all, at most 4 in 6 hours" in month
    assert "Messages: 4 in all, at most 3 in 6 hours" in own
    assert re.search(r"<bdi>Family</bdi> 3\b", day)
    assert re.search(r"<bdi>Work</bdi> 1\b", day)
    assert "Connection to WhatsApp: " in day
    for words in ("connected", "connection ended", "tried again"):
        assert re.search(rf"<bdi>{words}</bdi> \d", day), words
    for page in (day, month, own):
        assert active(page) == []


async def test_health_tells_the_age_of_what_is_stored_and_the_room_that_is_left(
    embedded: Endpoint, store: Store, session: str, tmp_path: Path
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("gone", kind="undecryptable", text=None, pending=True)])
    await table(store, "messages").update({"lost_at": recent("x")["ts"]}).eq("session_id", session).execute()
    mark = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    await table(store, "wa_sessions").update({"complete_to": mark}).eq("id", session).execute()
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/health")
        assert "Free disk space" not in page, "the database is not ours"
        site.app.console.folder = tmp_path
        page = await site.read(f"{site.base}/health")
        site.app.console.folder = tmp_path / "gone"
        assert "Free disk space" not in await site.read(f"{site.base}/health")
    assert "Free disk space" in page
    assert re.search(r"Everything stored until</dt><dd><time [^>]+>[^<]+</time> <span class=\"hint\">\d+ min ago", page)
    assert re.search(r"Never became readable</dt><dd>1</dd>", page)


async def test_pictures_are_paged(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[with_file("first", "image", None, 1000)])
    await store_file(store, held, b"picture", "image/jpeg", "jpg")
    (media,) = {row["media_id"] for row in await rows(store, "messages", session)}
    await held.commit(messages=[recent(f"m{n}", 500 - n, kind="image", text=None) for n in range(70)])
    stored = {"media_id": media, "media_status": "stored"}
    await table(store, "messages").update(stored).eq("session_id", session).execute()
    known = await ids(store, session)
    (group,) = [each.id for each in await store.console.groups(session) if each.monitor]
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/groups/{group}")
        assert len(re.findall(r'data-viewer data-message="[^"]+/messages/\d+"', page)) == 24
        path, seen = f"{site.base}/groups/{group}/gallery", []
        assert path in page
        while path:
            page = await site.read(path)
            seen += [int(number) for number in re.findall(r'data-viewer data-message="[^"]+/messages/(\d+)"', page)]
            more = re.search(r'href="([^"]+\?before=\d+)"', page)
            path = more[1] if more else ""
    assert seen == [known[f"m{n}"] for n in range(69, -1, -1)] + [known["first"]]


async def test_a_poll_shows_what_it_came_to(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("poll", 90, kind="poll", text="When?\nFriday\nSaturday\nNever")])
    known = await ids(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        assert "No votes that could be decrypted yet" in await site.read(f"{site.base}/feed")
        await held.commit(
            messages=[
                vote(known["poll"], "ana", "Friday"),
                vote(known["poll"], "ben", "Friday", "Saturday"),
                vote(known["poll"], "dana"),
            ]
        )
        page = await site.read(f"{site.base}/messages/{known['poll']}")
    votes = re.findall(r'<bdi>(\w+)</bdi> <span class="number">(\d+)</span>', page)
    assert votes == [("Friday", "2"), ("Saturday", "1"), ("Never", "0")]
    assert "People who voted: 2" in page
    assert "Withdrew the vote." in page
    assert "Voted for Friday, Saturday" in page
    assert active(page) == []


async def test_what_disappeared_or_is_asked_to_be_deleted_says_so(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("gone", 90), recent("asked", 80, text="still here"), recent("odd", kind="pin")])
    known = await ids(store, session)
    messages = table(store, "messages")
    await messages.update({"blanked": True, "text": None}).eq("id", known["gone"]).execute()
    await table(store, "messages").update({"text": None}).eq("id", known["odd"]).execute()
    claimed = {"revoke_claimed_at": recent("x")["ts"], "revoke_claimed_by": "ben@lid"}
    await table(store, "messages").update(claimed).eq("id", known["asked"]).execute()
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/feed")
    for words in (
        "This message has disappeared",
        "Somebody asked to delete it",
        "still here",
        "Pinned or unpinned a message",
    ):
        assert words in page


def _row_of(session: str, page: str) -> str:
    """The row of an account in the list of all."""
    return next(row for row in page.partition("<tbody>")[2].split("<tr>") if f"/s/{session}/link" in row)


async def test_each_account_is_told_in_the_words_of_its_own_page(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    idle = {"status": "disconnected", "state": "idle", "say": "Nobody scanned the QR code in time."}
    async with served(embedded, session) as site:
        await site.log_in()
        for view, words in (
            (idle, "Nicht verknüpft"),
            ({"status": "connecting", "state": "connecting", "say": "Connecting."}, "Verbindet"),
            ({"status": "connected", "state": "connected", "say": "ok", "wa_name": "Olga"}, "Verbunden"),
        ):
            await show(store, held, **view)
            pages = [await site.get(path, **{"accept-language": "de"}) for path in ("/sessions", f"{site.base}/link")]
            listed = _row_of(session, pages[0].text)
            assert words in listed
            assert f'">{words}</span>' in pages[1].text
            assert not re.search(r"\b(dis)?connect(ed|ing)\b", re.sub(r"<[^>]+>", "", listed))
        await store.lease_release(session, "worker-1", held.fence)
        gone = _row_of(session, await site.read("/sessions"))
    assert "No worker" in gone

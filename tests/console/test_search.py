"""The search page: what is asked stands in the address, what is found leads to the message."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from console.rules.days import day_begins
from tests.console.rows import ids, recent, with_file
from tests.console.site import Site, served
from tests.console.test_pages import HOSTILE, active
from tests.integration.database import GROUP, OTHER_GROUP, writer
from worker.store import Store
from worker.store.embedded import Endpoint


async def found(site: Site, **asked: str) -> list[int]:
    """Row ids that the results lead to, in their order."""
    page = await site.read(f"{site.base}/search?{urlencode(asked)}")
    return [int(number) for number in re.findall(rf'class="result" href="{site.base}/messages/(\d+)"', page)]


@pytest.mark.parametrize(
    "asked",
    [
        {"person": "%" * 5000},  # the database is asked by an address: longer ones are refused
        {"person": "🍊" * 1000},
        {"q": "a " * 20_000},
        {"q": "a", "cursor": "1e999 1 1"},
        {"q": "a", "cursor": "9.9.9 1 1"},
        {"q": "a", "cursor": "9" * 30},
        {"q": "a", "sort": "best", "cursor": "1e-99 1 1"},
        {"q": "a", "group": "9" * 18, "kind": "x" * 5000},
    ],
    ids=range(8),
)
async def test_a_search_that_makes_no_sense_is_a_page(
    embedded: Endpoint, store: Store, session: str, asked: dict[str, str]
) -> None:
    await writer(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        assert await site.read(f"{site.base}/search?{urlencode(asked)}")


async def test_each_field_narrows_what_is_found(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session, monitored=(GROUP, OTHER_GROUP))
    ben = {"sender": "ben@lid", "sender_alt": "4930@s.whatsapp.net", "push_name": "Ben 100%"}
    await held.commit(
        messages=[
            recent("a", 200_000, text="the invoice"),
            recent("b", 50, text="an invoice, paid", chat_id=OTHER_GROUP, **ben),
            with_file("c", "document", "Invoice_2026.pdf", 40),
            recent("d", 30, text="about lunch"),
        ]
    )
    await store.prune(session, stanza_seconds=3600)
    known = await ids(store, session)
    a, b, c, d = (known[name] for name in "abcd")
    other = next(group.id for group in await store.console.groups(session) if group.wa_group_id == OTHER_GROUP)
    async with served(embedded, session) as site:
        await site.log_in()
        yesterday = recent("x", 86_400)["ts"][:10]
        table: list[tuple[dict[str, str], list[int]]] = [
            ({"q": "invoice"}, [c, b, a]),
            ({"q": "invoice", "sort": "best"}, [c, b, a]),
            ({"q": "invo", "group": str(other)}, [b]),
            ({"q": "invoice", "kind": "document"}, [c]),
            ({"q": "invoice", "file": "1"}, [c]),
            ({"q": "invoice", "person": "ben"}, [b]),
            ({"q": "invoice", "person": "100%"}, [b]),
            ({"person": "+49 30"}, [b]),
            ({"q": "invoice", "person": "nobody of this name"}, []),
            ({"q": "invoice", "until": yesterday}, [a]),
            ({"q": "invoice", "since": yesterday}, [c, b]),
            ({"person": "ana"}, [d, c, a]),
            ({"q": "\0invoice\0", "group": "x"}, []),
            ({"q": "invoice", "cursor": "1; drop"}, [c, b, a]),
        ]
        for asked, wanted in table:
            got = await found(site, **asked)
            assert (sorted(got) if asked.get("sort") else got) == (sorted(wanted) if asked.get("sort") else wanted), (
                asked
            )
        assert await found(site) == [], "nothing is asked"
        assert (await site.get(f"{site.base}/search?since=yesterday")).status_code == 404
        assert (await site.get(f"{site.base}/search?until=9999-12-31")).status_code == 404


async def test_a_result_shows_who_where_and_the_words_in_their_context(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("a", text=f"before the Straße after {HOSTILE}"), recent("b", text="x")])
    await store.prune(session, stanza_seconds=3600)
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/search?q=strasse")
        for words in ("before the <mark>Straße</mark> after", "Ana", "Family", "&lt;script&gt;"):
            assert words in page
        assert active(page) == []
        assert active(await site.read(f"{site.base}/search?{urlencode({'q': HOSTILE, 'person': HOSTILE})}")) == []
        assert "Nothing found" in await site.read(f"{site.base}/search?q=nowhere")
        (number,) = await found(site, q="strasse")
        assert 'class="bubble marked"' in await site.read(f"{site.base}/messages/{number}")


async def test_pages_of_results_follow_each_other(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent(f"m{n}", n, text="fox") for n in range(70)])
    await store.prune(session, stanza_seconds=3600)
    async with served(embedded, session) as site:
        await site.log_in()
        for sort in ("newest", "best"):
            path, seen = f"{site.base}/search?q=fox&sort={sort}", []
            while path:
                page = await site.read(path)
                seen += re.findall(r"/messages/(\d+)", page)
                more = re.search(r'href="([^"]+cursor=[^"]+)"', page)
                path = more[1].replace("&amp;", "&") if more else ""
            assert len(seen) == len(set(seen)) == 70


@pytest.mark.parametrize(
    ("day", "offset", "begins"),
    [
        ("2026-11-26", 0, "2026-11-26T00:00:00+00:00"),
        ("2026-11-26", -60, "2026-11-25T23:00:00+00:00"),
        ("2026-11-26", 99_999, "2026-11-26T14:00:00+00:00"),
    ],
)
def test_a_day_begins_by_the_viewers_clock(day: str, offset: int, begins: str) -> None:
    assert day_begins(day, offset).isoformat() == begins


@pytest.mark.parametrize("day", ["yesterday", "0001-01-01", "2026-02-30"])
def test_a_day_that_there_is_not_is_an_error(day: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the library says of it
        day_begins(day, -60)

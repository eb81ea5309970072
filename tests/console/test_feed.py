"""The messages page: walked in both directions, whole albums, bounded whatever was written, and no silent hole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from console.live import WINDOW
from tests.console.rows import ids, recent, vote
from tests.console.site import Site, served
from tests.console.test_pages import HOSTILE, active
from tests.integration.database import GROUP, OTHER_GROUP, table, writer
from worker.store import Store
from worker.store.embedded import Endpoint

UNSEEN = "\u200b\u200d\u2060"


def articles(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'<article id="m(\d+)"', page)]


def parts(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'id="m(\d+)" data-part', page)]


async def test_one_goes_on_from_a_message_in_both_directions(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session, (GROUP, OTHER_GROUP))
    wanted = [f"m{number}" for number in range(160)]
    sent = [
        recent(name, 1000 - 5 * place, chat_id=GROUP if place % 4 else OTHER_GROUP) for place, name in enumerate(wanted)
    ]
    await held.commit(messages=sent)
    known = await ids(store, session)
    (family,) = [each.id for each in await store.console.groups(session) if each.wa_group_id == GROUP]
    of_family = [known[row["wa_msg_id"]] for row in sent if row["chat_id"] == GROUP]
    async with served(embedded, session) as site:
        await site.log_in()
        for start, where, all_of_them in (
            (f"feed?at={known['m80']}", "", [known[name] for name in wanted]),
            (f"messages/{known['m81']}", f"&group={family}", of_family),
        ):
            page = await site.read(f"{site.base}/{start}")
            assert page.count(" marked") == 1
            seen = articles(page)
            for name, direction in (("before", 0), ("after", 1)):
                more = re.search(rf"feed\?{name}=(\d+)", page)
                while more:
                    part = await site.read(f"{site.base}/feed?{name}={more[1]}{where}&part=1")
                    found = articles(part)
                    seen = seen + found if direction else found + seen
                    more = re.match(r'\s*<div data-more="(\d+)"', part)
            assert seen == all_of_them


async def test_a_day_of_all_groups_is_shown_among_all_groups(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session, (GROUP, OTHER_GROUP))
    await held.commit(messages=[recent("a", 90), recent("b", 80, chat_id=OTHER_GROUP), recent("c", 70)])
    known = await ids(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        answer = await site.get(f"{site.base}/feed?date=2020-01-01&offset=0")
        page = await site.read(answer.headers["location"])
        assert articles(page) == [known[name] for name in "abc"]
        (group,) = [each.id for each in await store.console.groups(session) if each.wa_group_id == GROUP]
        answer = await site.get(f"{site.base}/feed?date=2020-01-01&offset=0&group={group}")
        assert articles(await site.read(answer.headers["location"])) == [known["a"], known["c"]]


async def test_an_album_is_whole_wherever_a_page_begins_or_ends(embedded: Endpoint, store: Store, session: str) -> None:
    """Of 30 pictures: before 35 messages, so that the newest page would begin among them."""
    held = await writer(store, session)
    early = [recent(f"e{n}", 900 - n) for n in range(40)]
    album = [
        recent("album", 800, kind="album", text=None),
        *(recent(f"p{n}", 700 - n, kind="image") for n in range(30)),
    ]
    await held.commit(messages=[*early, *album, *(recent(f"l{n}", 600 - n) for n in range(35))])
    known = await ids(store, session)
    pictures = [known[f"p{n}"] for n in range(30)]
    await table(store, "messages").update({"album_id": known["album"]}).in_("id", pictures).execute()
    await table(store, "messages").update({"parent_id": None}).eq("session_id", session).execute()
    async with served(embedded, session) as site:
        await site.log_in()
        newest = await site.read(f"{site.base}/feed")
        older = re.search(r"before=(\d+)", newest)
        assert older
        assert int(older[1]) == known["album"]
        earlier = await site.read(f"{site.base}/feed?before={older[1]}")
        assert articles(earlier) == [known[f"e{n}"] for n in range(40)]
        for name in ("album", "p29", "p15"):
            page = await site.read(f"{site.base}/messages/{known[name]}")
            assert parts(page) == pictures, name
            assert re.search(rf'<article id="m{known["album"]}" class="bubble marked"', page), name
        before = await site.read(f"{site.base}/messages/{known['e30']}")
    assert parts(newest) == pictures
    assert parts(before) == pictures, "its end"


async def test_what_people_pile_up_on_a_message_is_summed_up(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    long = "word *bold* " * 5_000
    await held.commit(messages=[recent("a", 90, text="v"), recent("b", 80, text="```" * 20_000)])
    target: dict[str, Any] = {"chat_id": GROUP, "target_sender": "ana@lid", "target_id": "a"}
    react = target | {"kind": "reaction", "at": recent("x")["ts"]}
    for first in range(0, 900, 300):
        people = range(first, first + 300)
        emoji = ["🍊" if n % 3 else f"e{n % 60}" for n in people]
        given = [
            react | {"author": f"r{n}@lid", "change_id": f"r{n}", "payload": {"emoji": each}}
            for n, each in zip(people, emoji, strict=True)
        ]
        await held.commit(changes=given)
    edit = target | {"kind": "edit", "author": "ana@lid"}
    for n in range(50):
        payload = {"text": f"version {n} {long}"}
        await held.commit(changes=[edit | {"at": recent("x", 70 - n)["ts"], "change_id": f"e{n}", "payload": payload}])
    known = await ids(store, session)
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/feed")
        own = await site.read(f"{site.base}/messages/{known['a']}")
    assert page.count('aria-label="🍊') == 1
    assert '<bdi>🍊</bdi> <span class="number">600</span>' in page
    assert "and 590 more" in page
    assert page.count("<li title=") == 12, "the most frequent"
    assert re.findall(r'class="former">(?:version )?(\w+)', page) == ["44", "45", "46", "47", "48"]
    assert "All earlier texts" in page
    assert page.count("<pre>") == 0, "blocks without content are text"
    assert len(page) < 100_000
    assert re.findall(r'class="former">(?:version )?(\w+)', own) == ["v", *(str(n) for n in range(49))]
    assert "All earlier texts" not in own
    assert len(own) < 600_000
    assert active(page) == []


async def test_nobody_and_nothing_is_called_by_characters_that_cannot_be_seen(
    embedded: Endpoint, store: Store, session: str
) -> None:
    held = await writer(store, session)
    card = {"contacts": [{"name": UNSEEN, "phones": [{"number": "+49 151"}]}]}
    await held.commit(
        messages=[
            recent("a", 90, sender="4915112399@s.whatsapp.net", sender_alt=None, push_name=UNSEEN),
            recent("b", 80, kind="poll", text=f"{UNSEEN}\n{UNSEEN}\nFriday"),
            recent("c", 70, kind="contact", text=UNSEEN, content=card),
        ]
    )
    known = await ids(store, session)
    await held.commit(messages=[vote(known["b"], "ben", UNSEEN)])
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/feed")
    assert '<bdi class="person c' in page
    assert "+4915112399</bdi>" in page
    assert "<bdi>Poll</bdi>" in page
    assert '<bdi>?</bdi> <span class="number">1</span>' in page
    assert "<strong><bdi>Contact</bdi></strong>" in page


async def test_a_poll_with_more_voters_than_are_counted_says_so(embedded: Endpoint, store: Store, session: str) -> None:
    """The votes of a community's announcement group."""
    held = await writer(store, session)
    await held.commit(messages=[recent("poll", 90, kind="poll", text="When?\nFriday")])
    poll = (await ids(store, session))["poll"]
    for first in range(0, 2_500, 500):
        await held.commit(messages=[vote(poll, f"v{n}", "Friday") for n in range(first, first + 500)])
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/messages/{poll}")
    assert "at least 2,000" in page
    assert len(page) < 100_000


async def test_the_preview_of_a_link_is_shown_as_words(embedded: Endpoint, store: Store, session: str) -> None:
    held = await writer(store, session)
    link = {"url": "javascript:alert(1)", "title": f"Plan {HOSTILE}", "description": "All the stalls"}
    said = {"text": "See https://example.org/market", "content": {"link": link}}
    await held.commit(messages=[recent("a", 90, **said), recent("b", 80, **said)])
    gone = (await ids(store, session))["b"]
    await table(store, "messages").update({"blanked": True, "text": None}).eq("id", gone).execute()
    async with served(embedded, session) as site:
        await site.log_in()
        page = await site.read(f"{site.base}/feed")
    assert page.count("Plan &lt;img src=x") == 1, "not of a message that has disappeared"
    assert page.count("All the stalls") == 1
    assert active(page) == []


async def told(site: Site, query: str, **headers: str) -> Sequence[str]:
    """The names of a stream's events until the newest message of those that are there."""
    names: list[str] = []
    async with site.http.stream("GET", f"{site.base}/events?{query}", headers=headers) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if line.startswith("id: ") and names and names[-1] == "bubble":
                return names
    return names


async def test_a_page_is_told_when_it_has_missed_messages(embedded: Endpoint, store: Store, session: str) -> None:
    """More than the stream keeps: before it was opened, or while the browser was away."""
    held = await writer(store, session, (GROUP, OTHER_GROUP))
    await held.commit(messages=[recent(f"m{n}", 900 - n) for n in range(20)])
    known = await ids(store, session)
    first, seen = known["m0"], known["m19"]
    groups = {each.wa_group_id: each.id for each in await store.console.groups(session)}
    await held.commit(messages=[recent(f"n{n}", 800 - n) for n in range(WINDOW + 20)])
    last = (await ids(store, session))[f"n{WINDOW + 19}"]
    async with served(embedded, session) as site:
        await site.log_in()
        of_group = f"after={first}&group={groups[GROUP]}"
        assert "gap" in await told(site, f"after={first}")
        assert "gap" not in await told(site, f"after={last}")
        assert "gap" not in await told(site, f"after={first}", **{"last-event-id": str(last)}), "it had them all"
        assert "gap" not in await told(site, f"after={first}&heard={last}")
        assert "gap" not in await told(site, of_group), "a quiet group's newest message is old"
        assert "gap" in await told(site, of_group, **{"last-event-id": str(seen)})
        assert "gap" in await told(site, f"{of_group}&heard={seen}")

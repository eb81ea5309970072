"""Full-text search: what is found, what is shown of it, and that nothing of it outlives the message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.database import GROUP, OTHER_GROUP, at, message, photo, writer
from tests.integration.test_sql_races import Connection, batch, call, connect, session
from tests.integration.test_store_changes import change
from worker.store import Store

BY_ANA: dict[str, Any] = {"author": "ana@lid", "target_sender": "ana@lid"}

__all__ = ["connect", "session"]  # fixtures


@pytest.fixture
def mine(connect: Callable[[], Connection]) -> Connection:
    return connect()


def store(connection: Connection, session: str, *messages: dict[str, Any], **parts: Any) -> None:
    row = connection.execute("select seq + 1 from public.wa_sessions where id = %s", (session,)).fetchone()
    assert row is not None
    call(connection, "wa_commit", session, batch(row[0], messages=messages, **parts))
    connection.commit()


def pages(connection: Connection, session: str, query: str | None, limit: int = 100, **more: Any) -> Iterator[Any]:
    cursor = None
    while True:
        page = connection.execute(
            "select public.search_messages(%s, %s, %s, %s, %s, %s)",
            (session, query, json.dumps(more.get("filter", {})), more.get("sort", "newest"), cursor, limit),
        ).fetchone()
        assert page is not None
        yield page[0]["results"]
        cursor = page[0]["next"]
        if cursor is None:
            return


def fill(connection: Connection, session: str) -> None:
    """Makes all entries, in as many steps as the machine needs."""
    while call(connection, "wa.search_fill", session, 1000):
        pass


def find(connection: Connection, session: str, query: str | None, limit: int = 100, **more: Any) -> list[str]:
    """WhatsApp's ids of what is found, in its order, once the entries are made."""
    fill(connection, session)
    found = [result["message_id"] for page in pages(connection, session, query, limit, **more) for result in page]
    names = dict(
        connection.execute("select id, wa_msg_id from public.messages where id = any(%s)", (found,)).fetchall()
    )
    return [names[number] for number in found]


def excerpt(connection: Connection, session: str, query: str) -> str:
    """The excerpt of the only result, with [hits] in brackets."""
    fill(connection, session)
    [[result]] = pages(connection, session, query)
    return "".join(f"[{part['text']}]" if part["hit"] else part["text"] for part in result["excerpt"])


@pytest.mark.parametrize(
    ("text", "query", "found", "why"),
    [
        ("The invoice is late", "invoice", True, "a word"),
        ("The invoice is late", "LATE invoice", True, "all words, in any order and case"),
        ("The invoice is late", "invoice paid", False, "not all of them"),
        ("The invoice is late", "paid or invoice", True, "one of them"),
        ("The invoice is late", "invoice -late", False, "without"),
        ("The invoice is late", '"invoice is"', True, "a phrase"),
        ("The invoice is late", '"is invoice"', False, "words of a phrase in another order"),
        ("The invoice is late", "inv", True, "an unfinished word"),
        ("The invoice is late", "inv ", False, "a word that is finished"),
        ("The invoice is late", "late inv", True, "an unfinished last word"),
        ("The invoice is late", "la invoice", False, "an unfinished word that is not the last"),
        ("The invoice is late", "invoice", True, "again, from the plan that is kept"),
        ("Das Café in der Straße", "cafe strasse", True, "accents, sharp s"),
        ("cafe", "CAFÉ", True, "an accent in the query"),
        ("Привет, ёлка", "привет елка", True, "Cyrillic"),
        ("ΟΔΟΣ", "οδός", True, "Greek, its last sigma"),
        ("東京タワーに行く", "京タ", True, "Japanese, inside of a run"),
        ("한국어 문장", "한국", True, "Korean, the beginning of a word"),
        ("ﬁle №5 \uff37\uff49\uff44\uff45", "file wide", True, "ligatures and wide letters"),
        ("שָׁלוֹם", "שלום", True, "Hebrew points"),
        ("call +49 170/123-4567 now", "+49 170 1234567", True, "a phone number written in another way"),
        ("call +49 170/123-4567 now", "491701234567", True, "its digits"),
        ("call +49 170/123-4567 now", "+49 1701", True, "its beginning"),
        ("call +49 170/123-4567 now", "1234567", False, "a part that is no word"),
        ("call 0170 1234567", "01701234567", True, "a number without a country"),
        ("on 2026-11-22 at noon", "2026-11-22", True, "a date is no phone number"),
        ("mail x.y@example.org", "x.y@example.org", True, "an address"),
        ("https://example.org/a?b=c", "example.org", True, "a part of an address"),
        ("don't", "don't", True, "an apostrophe"),
        ("nothing", "!!! & | ( :* \\ '", False, "signs of a query's own language are no words"),
        ("nothing", "no\\thing'", False, "nor inside of one"),
    ],
)
def test_a_query_finds(mine: Connection, session: str, text: str, query: str, found: bool, why: str) -> None:
    store(mine, session, message("A1", text=text, push_name=None), message("A2", text="else", push_name=None))
    assert find(mine, session, query) == (["A1"] if found else []), why


def test_everything_that_was_written_is_looked_into(mine: Connection, session: str) -> None:
    card = {"contacts": [{"name": "Bert", "organisation": "Lighthouse"}]}
    link = {"link": {"url": "https://example.org", "title": "Harbour news"}}
    store(
        mine,
        session,
        photo("A1") | {"text": "a caption"},
        photo("A2") | {"media": {"kind": "document", "file_name": "Quarter.Report_2026.pdf", "descriptor": {}}},
        message("A3", kind="contact", text="Bert\n+49 170 1234567", content=card),
        message("A4", content=link),
        message("A5", kind="undecryptable", text=None, pending=True),
    )
    asked = ["caption", "report 2026", "lighthouse", "49170123", "harbour"]
    assert [find(mine, session, query) for query in asked] == [["A1"], ["A2"], ["A3"], ["A3"], ["A4"]]


def test_names_and_numbers_find_what_their_people_wrote(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", push_name="Zoë Müller"), message("A2", 1, sender="ben@lid", sender_alt=None))
    store(mine, session, message("A3", 2, text="about zoe", sender="ben@lid", sender_alt=None, push_name="Ben"))
    assert find(mine, session, "zoe") == ["A3", "A1"]
    assert find(mine, session, "zoe muller a1") == ["A1"]
    assert find(mine, session, "4917") == ["A1"]
    store(mine, session, message("A4", 3, push_name="Renamed"))
    assert find(mine, session, "muller") == [], "the newest name counts"
    assert find(mine, session, "renamed") == ["A4", "A1"]


def test_the_filters_narrow_alone_and_together(mine: Connection, session: str) -> None:
    call(mine, "wa_upsert_groups", session, 1, json.dumps([{"wa_group_id": OTHER_GROUP}]), False)
    mine.execute("update public.groups set monitor = true where session_id = %s", (session,))
    store(
        mine,
        session,
        message("A1", text="fox"),
        photo("A2", 10, sender="ben@lid", push_name="Ben") | {"text": "fox"},
        message("A3", 20, text="fox", chat_id=OTHER_GROUP),
        message("A4", 30, text="hen"),
    )
    groups = dict(
        mine.execute("select wa_group_id, id from public.groups where session_id = %s", (session,)).fetchall()
    )
    table: list[tuple[str | None, dict[str, Any], list[str]]] = [
        (None, {}, ["A4", "A3", "A2", "A1"]),
        ("ana", {}, ["A4", "A3", "A1"]),
        ("fox", {"groups": [groups[GROUP]]}, ["A2", "A1"]),
        ("", {"groups": [groups[GROUP], groups[OTHER_GROUP]]}, ["A4", "A3", "A2", "A1"]),
        ("fox", {"people": ["ben@lid"]}, ["A2"]),
        ("fox", {"people": []}, ["A3", "A2", "A1"]),
        ("fox", {"people": ["x' | 'y"]}, []),
        ("fox", {"kinds": ["image", "video"]}, ["A2"]),
        ("fox", {"has_file": True}, ["A2"]),
        ("fox", {"has_file": False}, ["A3", "A1"]),
        ("fox", {"since": at(10)}, ["A3", "A2"]),
        ("fox", {"since": at(10), "until": at(20)}, ["A2"]),
        ("fox", {"until": at(10)}, ["A1"]),
        ("-fox", {"groups": [groups[GROUP]]}, ["A4"]),
    ]
    for query, narrow, wanted in table:
        assert find(mine, session, query, filter=narrow) == wanted, narrow


@pytest.mark.parametrize("sort", ["newest", "best"])
def test_pages_follow_each_other_without_a_gap_while_messages_arrive(mine: Connection, session: str, sort: str) -> None:
    store(mine, session, *[message(f"A{n}", n, text="fox " * (n % 5 + 1)) for n in range(20)])
    assert len(find(mine, session, "fox")) == 20
    seen: list[int] = []
    for number, page in enumerate(pages(mine, session, "fox", 3, sort=sort)):
        seen += [result["message_id"] for result in page]
        store(mine, session, message(f"B{number}", 100 + number, text="fox"))
        call(mine, "wa.search_fill", session, 1000)
    assert len(seen) == len(set(seen)) == 20
    if sort == "newest":
        assert seen == sorted(seen, reverse=True)


def test_the_best_come_first(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", text="fox fox fox"), message("A2", 1, text="a fox among many other animals"))
    assert find(mine, session, "fox", sort="best") == ["A1", "A2"]
    assert find(mine, session, "fox") == ["A2", "A1"]


def test_a_frequent_word_and_a_rare_one_are_both_found(mine: Connection, session: str) -> None:
    """The first among the newest messages, the other by the index, which those before it hide."""
    rows = [message(f"A{n}", n, text="common") for n in range(2500)]
    rows[5]["text"] = rows[9]["text"] = "common rare"
    store(mine, session, *rows)
    assert find(mine, session, "rare") == ["A9", "A5"]
    assert find(mine, session, "rare", 1) == ["A9", "A5"]
    assert next(pages(mine, session, "common", 2))[0]["excerpt"] == [{"text": "common", "hit": True}]


def test_another_session_finds_nothing(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", text="fox"))
    assert find(mine, session + "x", "fox") == []
    assert find(mine, session + "x", "ana") == []


@pytest.mark.parametrize(
    ("text", "query", "shown"),
    [
        ("The Fox and the fox.", "fox", "The [Fox] and the [fox]."),
        ("Große Straße, café", "strasse caf", "Große [Straße], [café]"),
        ("no -fox here", "here -hen", "no -fox [here]"),
        ("<b>fox</b> & 'hen' ] [", "b fox", "<[b]>[fox]</[b]> & 'hen' ] ["),
        ("東京タワー", "京", "東[京]タワー"),
        ("👩‍👩‍👧 fox", "fox", "👩‍👩‍👧 [fox]"),
        ("line one\nfox two", "fox", "line one\n[fox] two"),
    ],
)
def test_an_excerpt_is_the_text_itself_in_pieces(
    mine: Connection, session: str, text: str, query: str, shown: str
) -> None:
    store(mine, session, message("A1", text=text, push_name=None))
    assert excerpt(mine, session, query) == shown


def test_a_long_text_is_shown_around_its_first_hit(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", text="word " * 500 + "fox " + "word " * 500))
    shown = excerpt(mine, session, "fox")
    assert shown.startswith("…")
    assert "[fox]" in shown
    assert shown.endswith("…")
    assert len(shown) < 300


@pytest.mark.parametrize(
    "text",
    ["x" * 3_000_000, "ﷺ" * 300_000, "a b " * 500_000, " ".join(map(str, range(200_000))), "+1 " * 200_000, "'\\ " * 9],
    ids=["one word", "grows when folded", "short words", "many words", "numbers", "quotes"],
)
def test_a_text_of_any_size_is_stored_and_searched(mine: Connection, session: str, text: str) -> None:
    store(mine, session, message("A1", text="fox " + text))
    assert find(mine, session, "fox") == ["A1"]
    assert excerpt(mine, session, "fox").startswith("[fox] ")


def test_any_bytes_of_a_query_are_taken(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", text="fox"))
    for query in [
        "'",
        '"',
        '"fox',
        "-",
        "--fox",
        "\\",
        "fox\\",
        "\x01\x02",
        "\x01p",
        "or",
        "or or",
        "+",
        "<->",
        "*" * 9,
    ]:
        find(mine, session, query)
    assert find(mine, session, "x" * 100_000) == []
    assert find(mine, session, " ".join(f"a{n}" for n in range(5000))) == []


REMOVALS: dict[str, Callable[[Connection, str], object]] = {
    "revoked and blanked": lambda c, s: store(
        c, s, changes=[change("revoke", "A1", "R1", payload={"blank": True}, **BY_ANA)]
    ),
    "disappeared, blanked": lambda c, s: call(c, "wa_expire", s, "blank", 10),
    "disappeared, deleted": lambda c, s: call(c, "wa_expire", s, "delete", 10),
    "deleted": lambda c, s: c.execute("delete from public.messages where session_id = %s", (s,)),
}


@pytest.mark.parametrize("how", REMOVALS)
def test_nothing_of_the_search_outlives_the_message(mine: Connection, session: str, how: str) -> None:
    store(mine, session, message("A1", text="secretword", expires_at="2020-01-01T00:00:00Z"))
    assert find(mine, session, "secretword") == ["A1"]
    REMOVALS[how](mine, session)
    left = mine.execute("select count(*) from public.message_search where session_id = %s", (session,)).fetchone()
    assert left == (0,)
    assert find(mine, session, "secretword") == []


def test_an_edit_is_found_by_its_new_words_only(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", text="old"))
    store(mine, session, changes=[change("edit", "A1", "E1", payload={"text": "new"}, **BY_ANA)])
    assert (find(mine, session, "old"), find(mine, session, "new")) == ([], ["A1"])


def test_a_good_copy_is_found_in_the_place_of_its_stub(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", kind="undecryptable", text=None, pending=True))
    store(mine, session, photo("A1") | {"text": "fox"})
    assert find(mine, session, "fox", filter={"kinds": ["image"], "has_file": True}) == ["A1"]


def test_people_who_become_one_are_found_as_one(mine: Connection, session: str) -> None:
    number = "49170@s.whatsapp.net"
    store(mine, session, message("A1", text="fox", sender=number, sender_alt=None))
    store(mine, session, message("A2", 1, text="fox", sender="zoe@lid"), identities=[{"lid": "zoe@lid", "pn": number}])
    assert find(mine, session, "fox", filter={"people": ["zoe@lid"]}) == ["A2", "A1"]
    assert find(mine, session, "fox", filter={"people": [number]}) == []


def test_a_language_ignores_endings_and_changes_what_is_stored(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", text="two houses"), message("A2", 1, text="gone", push_name="Will"))
    assert find(mine, session, "house ") == []
    assert call(mine, "wa_set_search_language", session, "english") == {"changed": True}
    assert call(mine, "wa_set_search_language", session, "english") == {"changed": False}
    assert find(mine, session, "house ") == ["A1"]
    assert excerpt(mine, session, "house ") == "two [houses]"
    store(mine, session, message("A3", 2, text="my house"))
    assert find(mine, session, "houses the ") == ["A3", "A1"]
    assert find(mine, session, "the ") == [], "words that the language leaves out find nothing, not everything"


def entries(connection: Connection, session: str) -> int:
    row = connection.execute("select count(*) from public.message_search where session_id = %s", (session,)).fetchone()
    assert row is not None
    return int(row[0])


def test_the_poll_and_the_housekeeping_make_the_entries(mine: Connection, session: str) -> None:
    store(mine, session, *[message(f"A{n}", n, text="fox") for n in range(600)], message("B1", 999, text="hen"))
    store(mine, session, changes=[change("revoke", "B1", "R1", payload={"blank": True}, **BY_ANA)])
    held = json.dumps([{"session": session, "fence": "1", "monitored": None, "media": 0}])
    counted = [0]
    while counted[-1] < 600:
        assert call(mine, "wa_host_poll", "a", 0, held)["alive"] == 1
        counted.append(entries(mine, session))
        assert counted[-2] < counted[-1] <= counted[-2] + 500
    assert call(mine, "wa_host_poll", "a", 0, held)["alive"] == 1
    assert entries(mine, session) == 600, "none for what was blanked"
    mine.execute("update public.wa_sessions set search_done = 0 where id = %s", (session,))
    mine.execute("delete from public.message_search where session_id = %s", (session,))
    while call(mine, "wa_prune", session, 3600, None)["more"]:
        pass
    assert entries(mine, session) == 600
    assert len(find(mine, session, "fox")) == 600


def test_the_fill_does_nothing_while_somebody_removes_a_message_or_commits(
    connect: Callable[[], Connection], session: str
) -> None:
    mine, other = connect(), connect()
    store(mine, session, message("A1", text="fox"), message("A2", 1, text="fox"))
    row = mine.execute("select min(id) from public.messages where session_id = %s", (session,)).fetchone()
    assert row is not None
    call(mine, "wa.blank_message", row[0])
    assert call(other, "wa.search_fill", session, 100) is False
    assert entries(other, session) == 0
    other.commit()
    mine.commit()
    call(mine, "wa.lock_session", session, 1)
    assert call(other, "wa.search_fill", session, 100) is False
    other.commit()
    mine.commit()
    assert find(other, session, "fox") == ["A2"]


# A run of combining marks, of which normalize() took the square: 13 s, and no timeout stopped it.
MARKS = "a" + "\u0301\u0323" * 32767 + "\u0301"


def entry_of(connection: Connection, session: str, name: str) -> str:
    row = connection.execute(
        "select s.words::text from public.message_search as s inner join public.messages as m on m.id = s.message_id"
        " where m.session_id = %s and m.wa_msg_id = %s",
        (session, name),
    ).fetchone()
    assert row is not None
    return str(row[0])


def test_marks_stop_neither_the_poll_nor_a_commit_nor_the_search(mine: Connection, session: str) -> None:
    """Each of the statements below took 13 s or more."""
    mine.execute("set statement_timeout = '8s'")
    texts = [
        MARKS,
        "fox " + MARKS,
        "fox\u00a0" + "\u0301" * 65_535,
        "\u200b\u0301" * 32_767,
        "\U0001d15e\u0323" * 30_000,
    ]
    store(mine, session, *[message(f"A{n}", n, text=text) for n, text in enumerate(texts)], message("A9", 9, text="é"))
    while call(mine, "wa_prune", session, 3600, None)["more"]:
        pass
    assert find(mine, session, "é") == ["A9"]
    store(mine, session, changes=[change("edit", "A9", "E9", payload={"text": "fox " + MARKS}, **BY_ANA)])
    assert find(mine, session, "fox") == ["A9", "A2", "A1"]
    find(mine, session, MARKS)
    call(mine, "wa.search_excerpt", "simple", "'fox'", MARKS)


def replaced(connection: Connection, body: str) -> None:
    """Another wa.plain_words until the transaction ends."""
    connection.execute("reset role")
    connection.execute(
        "create or replace function wa.plain_words(p_text text) returns text language plpgsql immutable parallel safe"
        f" security invoker set search_path = '' as $$ begin {body} end $$"
    )


def test_an_excerpt_takes_a_few_words_to_pieces_wherever_the_hit_is(mine: Connection, session: str) -> None:
    words = [f"w{n}w" for n in range(1400)] + ["x" * 700, "last"]
    asked = [*words[::13], "last"]
    replaced(mine, "if length(p_text) > 2000 then raise 'too much'; end if; return lower(p_text);")
    rows = mine.execute(
        "select wa.search_excerpt('simple', plainto_tsquery('simple', w), %s) from unnest(%s::text[]) as w",
        (" ".join(words), asked),
    ).fetchall()
    for word, [parts] in zip(asked, rows, strict=True):
        shown = "".join(f"[{part['text']}]" if part["hit"] else part["text"] for part in parts)
        place = words.index(word)
        around = " " * (place > 0) + f"[{word}]"
        assert around in shown
        assert shown.count("[") == 1
        assert (shown[0] == "…") == (place > 13), shown
        if 0 < place < 1399:
            assert f"{words[place - 1]}{around} {words[place + 1]}" in shown
    mine.rollback()


def test_a_sign_that_stands_for_many_characters_has_a_bound(mine: Connection) -> None:
    for text in ["\ufdfa" * 60_000, "+49 170/123-4567 " * 4000]:
        row = mine.execute(
            "select length(wa.fold(left(%s, 10000))), length(wa.plain_words(%s))", (text, text)
        ).fetchone()
        assert row is not None
        assert max(row) <= 30_000
    row = mine.execute("select right(wa.fold(%s), 1)", ("\uac00" * 9999 + "x",)).fetchone()
    assert row == ("x",), "a Korean text of this length is whole"


def done(connection: Connection, session: str) -> int:
    row = connection.execute("select search_done from public.wa_sessions where id = %s", (session,)).fetchone()
    assert row is not None
    return int(row[0])


def test_a_text_that_raises_an_error_has_marks_only(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", text="bomb"), message("A2", 1, text="fox"))
    replaced(mine, "if p_text ~ 'bomb' then raise 'no'; end if; return p_text;")
    fill(mine, session)
    assert ("fox" in entry_of(mine, session, "A2"), "bomb" in entry_of(mine, session, "A1")) == (True, False)
    mine.execute(
        "update public.messages set text = 'another bomb' where wa_msg_id = 'A2' and session_id = %s", (session,)
    )
    assert "fox" not in entry_of(mine, session, "A2")
    mine.rollback()


def test_all_sessions_of_a_poll_share_the_time_for_entries(mine: Connection, session: str) -> None:
    sessions = [session, f"{session}-b", f"{session}-c"]
    for name in sessions:
        if name != session:
            call(mine, "wa_lease_acquire", name, "a", 60)
            call(mine, "wa_begin_epoch", name, 1)
            call(mine, "wa_upsert_groups", name, 1, json.dumps([{"wa_group_id": GROUP}]), False)
            mine.execute("update public.groups set monitor = true where session_id = %s", (name,))
        store(mine, name, message("A1", text="fox"))
    held = json.dumps([{"session": name, "fence": "1", "monitored": None, "media": 0} for name in sessions])
    replaced(mine, "perform pg_sleep(0.3); return p_text;")  # each is longer than a poll's time
    filled = []
    for _ in sessions:
        assert call(mine, "wa_host_poll", "a", 0, held)["alive"] == 3
        filled.append(sum(entries(mine, name) for name in sessions))
    assert filled == [1, 2, 3], "one session's a poll, and none twice while another waits"
    mine.rollback()


def test_a_fill_whose_time_is_over_keeps_what_it_did(mine: Connection, session: str) -> None:
    store(mine, session, *[message(f"A{n}", n, text="fox") for n in range(3)])
    replaced(mine, "perform pg_sleep(0.3); return p_text;")  # each is longer than a fill
    numbers = []
    for _ in range(3):
        numbers.append((call(mine, "wa.search_fill", session, 100), entries(mine, session), done(mine, session)))
    ids = [
        row[0] for row in mine.execute("select id from public.messages where session_id = %s order by id", (session,))
    ]
    assert numbers == [(True, 1, ids[0]), (True, 2, ids[1]), (False, 3, ids[2])]
    mine.rollback()


def test_a_quiet_session_passes_the_messages_of_others_by_and_writes_nothing(mine: Connection, session: str) -> None:
    other = f"{session}-other"
    call(mine, "wa_lease_acquire", other, "a", 60)
    call(mine, "wa_begin_epoch", other, 1)
    call(mine, "wa_upsert_groups", other, 1, json.dumps([{"wa_group_id": GROUP}]), False)
    mine.execute("update public.groups set monitor = true where session_id = %s", (other,))
    store(mine, session, message("A1", text="fox"))
    assert find(mine, session, "fox") == ["A1"]
    for count, wrote in [(5, False), (1100, True), (5, False)]:
        before = done(mine, session)
        store(mine, other, *[message(f"{before}-{n}", n, text="hen") for n in range(count)])
        assert call(mine, "wa.search_fill", session, 500) is False
        row = mine.execute("select pg_current_xact_id_if_assigned() is not null").fetchone()
        assert (row, done(mine, session) > before) == ((wrote,), wrote), count
        mine.commit()
    store(mine, session, message("A2", 1, text="fox"))
    assert find(mine, session, "fox") == ["A2", "A1"], "what comes later is not passed by"


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        ("-infinity", None, True),
        ("-infinity", "infinity", True),
        ("2020-01-01", "infinity", True),
        (None, "infinity", True),
        ("infinity", None, False),
        ("infinity", "-infinity", False),
        (None, "-infinity", False),
        ("4714-11-24 BC", "294276-12-31", True),
    ],
)
def test_a_time_without_an_end_is_a_filter_like_others(
    mine: Connection, session: str, since: str | None, until: str | None, found: bool
) -> None:
    mine.execute("set statement_timeout = '5s'")
    store(mine, session, message("A1", text="fox"))
    assert find(mine, session, "fox", filter={"since": since, "until": until}) == (["A1"] if found else [])


def test_only_a_new_text_is_folded_again(mine: Connection, session: str) -> None:
    store(mine, session, message("A1", text="fox"))
    assert find(mine, session, "fox") == ["A1"]
    replaced(mine, "return 'folded again';")
    mine.execute("set role service_role")
    mine.execute(
        "update public.messages set sender = 'zoe@lid', ts = ts - interval '1 year', kind = 'image',"
        " media_status = 'pending' where session_id = %s",
        (session,),
    )
    for narrow in [{"people": ["zoe@lid"]}, {"kinds": ["image"]}, {"has_file": True}, {"until": at(-1000)}]:
        assert find(mine, session, None, filter=narrow) == ["A1"], narrow
    for narrow in [{"people": ["ana@lid"]}, {"kinds": ["text"]}, {"has_file": False}, {"since": at(0)}]:
        assert find(mine, session, None, filter=narrow) == [], narrow
    words = entry_of(mine, session, "A1")
    assert ("fox" in words, "folded" in words, words.count("\x01")) == (True, False, 6)
    mine.execute("update public.messages set text = 'hen' where session_id = %s", (session,))
    assert "folded" in entry_of(mine, session, "A1")
    mine.rollback()


async def test_the_embedded_database_searches_too(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[message("A1", text="Große Straße"), message("A2", 1, text="東京タワー")])
    await store.prune(session, stanza_seconds=3600)
    for query, shown in [("strass", "Straße"), ("京", "京")]:
        args: Any = {"p_session": session, "p_query": query, "p_filter": {"kinds": ["text"]}}
        answer: Any = await store._database.rpc("search_messages", args).execute()
        [result] = answer.data["results"]
        assert [part["text"] for part in result["excerpt"] if part["hit"]] == [shown]
        assert answer.data["next"] is None

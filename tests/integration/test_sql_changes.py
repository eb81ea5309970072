"""Edits, revokes, reactions, quotes, albums and merged identities, checked against a reference that knows no order.

The reference looks at everything that was said at once. The database gets it in any order, in any batches, with a
person's two addresses mixed until they are learned to be one: it must end in the same rows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.database import GROUP, at, message, photo, stub
from tests.integration.test_sql_parents import Said, Session
from tests.integration.test_sql_parents import reference as parents_of

ANA, ANA_PN = "1001@lid", "4911@s.whatsapp.net"
BEN, BEN_PN = "1002@lid", "4912@s.whatsapp.net"
ADDRESSES = [ANA, ANA_PN, BEN, BEN_PN]
SECRET = {"secret": "c2VjcmV0"}
PAIRS = {ANA_PN: ANA, BEN_PN: BEN}
ADMINS = (BEN, BEN_PN)
Name = tuple[str, str]  # sender, message id


@dataclass(frozen=True)
class Text:
    """A message, or its stub. What it quotes and when it was sent follow from its id, so that copies agree."""

    sender: str
    id: str
    readable: bool
    copy: int

    @property
    def seconds(self) -> int:
        return {"m1": 0, "m2": 30, "m3": 60, "album": 400, "p1": 401}[self.id]

    @property
    def quoted(self) -> Name | None:
        return {"m2": (ANA, "m1"), "m3": (BEN_PN, "m2")}.get(self.id)

    @property
    def kind(self) -> str:
        return {"m2": "image", "p1": "image", "album": "album"}.get(self.id, "text")


@dataclass(frozen=True)
class Change:
    kind: str
    author: str
    target: Name
    id: str
    seconds: int
    word: str = ""
    blank: bool = False
    by_admin: bool = False

    def allowed(self, author: str, sender: str) -> bool:
        return author == sender or (self.kind == "revoke" and self.by_admin and author in ADMINS)


@dataclass(frozen=True)
class Learned:
    """The two addresses are one person's."""

    pn: str


Event = Text | Change | Learned


def events(senders: list[str], ids: list[str], numbers: list[str]) -> st.SearchStrategy[list[Event]]:
    """What these people say and change about these messages; the fewer there are, the more of it meets."""
    who, id_ = st.sampled_from(senders), st.sampled_from(ids)
    texts = st.builds(Text, sender=who, id=id_, readable=st.sampled_from([True, True, False]), copy=st.integers(0, 1))
    changes = st.builds(
        Change,
        kind=st.sampled_from(["edit", "edit", "revoke", "reaction"]),
        author=who,
        target=st.tuples(who, id_),
        id=st.sampled_from([f"c{n}" for n in range(12)]),
        seconds=st.integers(100, 103),
        word=st.sampled_from(["", "a", "b"]),
        blank=st.sampled_from([False, False, True]),
        by_admin=st.booleans(),
    )
    some: list[st.SearchStrategy[Event]] = [texts, texts, changes, changes]
    if numbers:
        some.append(st.builds(Learned, pn=st.sampled_from(numbers)))
    return st.lists(
        st.one_of(some),
        min_size=4,
        max_size=16,
        unique_by=lambda event: event.id if isinstance(event, Change) else event,
    )


CASTS = st.one_of(
    events([ANA, BEN], ["m1"], []),
    events([ANA, ANA_PN], ["m1"], [ANA_PN]),
    events([ANA, ANA_PN], ["m1", "m2", "album", "p1"], [ANA_PN]),
    events(ADDRESSES, ["m1", "m2", "m3", "album", "p1"], [ANA_PN, BEN_PN]),
)


@dataclass
class Row:
    """A message as the reference has it."""

    order: int
    text: str | None = None
    kind: str = "undecryptable"
    edited: int | None = None
    former: set[tuple[str, str | None]] = field(default_factory=set)
    reactions: dict[str, str | None] = field(default_factory=dict)
    revoked: tuple[int, str] | None = None
    quoted: Name | None = None
    album: Name | None = None
    mentions: list[str] | None = None


def reference(events: list[Event], everybody: dict[str, str]) -> dict[Name, Row]:
    """What must be stored in the end; `everybody`: number → LID, all that is ever learned."""

    def who(address: str) -> str:
        return everybody.get(address, address)

    rows: dict[Name, Row] = {}
    for order, event in enumerate(events):
        if isinstance(event, Text):
            row = rows.setdefault((who(event.sender), event.id), Row(order))
            if event.readable and row.kind == "undecryptable":
                row.kind, row.text = event.kind, said(event)
                row.mentions = list(dict.fromkeys(who(address) for address in ADDRESSES))
    for (sender, id_), row in rows.items():
        about = [e for e in events if isinstance(e, Change) and (who(e.target[0]), e.target[1]) == (sender, id_)]
        _edit(row, [e for e in about if e.kind == "edit" and who(e.author) == sender])
        for e in sorted((e for e in about if e.kind == "reaction"), key=lambda e: (e.seconds, e.id)):
            row.reactions[who(e.author)] = e.word or None
        revokes = [e for e in about if e.kind == "revoke" and e.allowed(who(e.author), sender)]
        row.revoked = min(((e.seconds, who(e.author)) for e in revokes), default=None)
        if any(e.blank for e in revokes):
            row.text, row.edited, row.former, row.mentions = None, None, set(), None
        if row.kind == "undecryptable":
            continue
        if (quoted := Text(sender, id_, True, 0).quoted) and (who(quoted[0]), quoted[1]) in rows:
            row.quoted = (who(quoted[0]), quoted[1])
        if id_ == "p1" and rows.get((sender, "album"), row).kind == "album":
            row.album = (sender, "album")
    return rows


def _edit(row: Row, edits: list[Change]) -> None:
    if row.kind == "undecryptable" or not edits:
        return
    versions: list[tuple[str, str | None]] = [("", row.text)]
    versions += [(e.id, e.word or None) for e in sorted(edits, key=lambda e: (e.seconds, e.id))]
    row.edited = max(e.seconds for e in edits)
    row.text = versions[-1][1]
    row.former = set(versions[:-1])


def said(text: Text) -> str | None:
    return f"{text.id}-{text.copy}" if text.kind == "text" else None


class Talk(Session):
    """A session that is told events as the worker would tell them."""

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        super().__init__(database)
        self.known: dict[str, str] = {}
        self.tell_admins(ADMINS)

    def tell_admins(self, admins: Sequence[str]) -> None:
        groups = [{"wa_group_id": GROUP, "admins": list(admins)}]
        self._call("wa_upsert_groups(%s, 1, %s, false)", self.id, json.dumps(groups))

    def tell(self, events: list[Event]) -> Any:
        self.known |= {e.pn: PAIRS[e.pn] for e in events if isinstance(e, Learned)}
        messages = [self._message(e) for e in events if isinstance(e, Text)]
        changes = [change for e in events if isinstance(e, Text | Change) for change in self._changes(e)]
        identities = [{"lid": PAIRS[e.pn], "pn": e.pn} for e in events if isinstance(e, Learned)]
        return self.batch(messages=messages, changes=changes, identities=identities)

    def batch(self, **parts: Any) -> Any:
        self.seq += 1
        batch = {"fence": "1", "epoch": "1", "seq": str(self.seq), **parts}
        answer = self._call("wa_commit(%s, %s)", self.id, json.dumps(batch))
        again = self._call("wa_commit(%s, %s)", self.id, json.dumps(batch))  # every function twice
        assert again["duplicate"] is True
        return answer

    def _who(self, address: str) -> str:
        return self.known.get(address, address)

    def _message(self, text: Text) -> dict[str, Any]:
        columns: dict[str, Any] = {"sender": self._who(text.sender), "sender_alt": None}
        if not text.readable:
            return stub(text.id, text.seconds, **columns)
        columns |= SECRET
        columns["mentions"] = list(dict.fromkeys(self._who(address) for address in ADDRESSES))
        if text.quoted:
            columns |= {"quoted_sender": self._who(text.quoted[0]), "quoted_msg_id": text.quoted[1]}
        if text.kind == "image":
            return photo(text.id, text.seconds, content={"title": "a photo"}, **columns)
        return message(text.id, text.seconds, kind=text.kind, **columns | {"text": said(text)})

    def _changes(self, event: Text | Change) -> Iterator[dict[str, Any]]:
        author = self._who(event.author if isinstance(event, Change) else event.sender)
        common = {"chat_id": GROUP, "author": author, "change_id": event.id, "at": at(event.seconds)}
        if isinstance(event, Change):
            payload: dict[str, Any] = {"text": event.word, "emoji": event.word, "blank": event.blank}
            payload["by_admin"] = event.by_admin
            target = {"target_sender": self._who(event.target[0]), "target_id": event.target[1]}
            yield common | target | {"kind": event.kind, "payload": payload}
        elif event.readable:
            if event.quoted:
                quoted = {"target_sender": self._who(event.quoted[0]), "target_id": event.quoted[1]}
                yield common | quoted | {"kind": "quote"}
            if event.id == "p1":
                yield common | {"kind": "album", "target_sender": author, "target_id": "album"}

    def all(self, query: str) -> list[Any]:
        return self.database.execute(query, {"session": self.id}).fetchall()

    def rows(self) -> dict[Name, Row]:
        found: dict[int, tuple[Name, Row]] = {}
        seconds = "extract(epoch from {} - '2026-11-22 12:00Z')::integer"
        columns = f"id, sender, wa_msg_id, text, kind, {seconds.format('edited_at')}, {seconds.format('revoked_at')}"
        for id_, sender, name, text, kind, edited, revoked, by, mentions in self.all(
            f"select {columns}, revoked_by, mentions from public.messages "  # noqa: S608
            "where session_id = %(session)s order by id"
        ):
            row = Row(0, text, kind, edited, mentions=mentions)
            row.revoked = None if revoked is None else (revoked, by)
            found[id_] = ((sender, name), row)
        for id_, quoted, album in self.all(
            "select id, quoted_id, album_id from public.messages where session_id = %(session)s"
        ):
            found[id_][1].quoted = found[quoted][0] if quoted else None
            found[id_][1].album = found[album][0] if album else None
        for id_, edit, text in self.all(
            "select message_id, edit_msg_id, text from public.message_edits where session_id = %(session)s"
        ):
            found[id_][1].former.add((edit, text))
        for id_, sender, emoji in self.all(
            "select message_id, sender, emoji from public.message_reactions where session_id = %(session)s"
        ):
            found[id_][1].reactions[sender] = emoji
        return {name: Row(order, **_without_order(row)) for order, (name, row) in enumerate(found.values())}

    def links(self) -> dict[Name, Name]:
        found = self.all(
            "select m.sender, m.wa_msg_id, p.sender, p.wa_msg_id from public.messages as m "
            "inner join public.messages as p on m.parent_id = p.id where m.session_id = %(session)s"
        )
        return {(sender, id_): (parent, parent_id) for sender, id_, parent, parent_id in found}

    def held(self) -> set[tuple[str, str]]:
        found = self.all("select kind, change_id from public.wa_held_changes where session_id = %(session)s")
        return {(kind, id_) for kind, id_ in found if kind not in ("quote", "album")}


def _without_order(row: Row) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if name != "order"}


def must_wait(events: list[Event], everybody: dict[str, str], rows: dict[Name, Row]) -> set[tuple[str, str]]:
    """Changes whose target is not there, or not readable yet, or perhaps not theirs to make."""
    waiting = set()
    for e in (e for e in events if isinstance(e, Change)):
        author, sender = everybody.get(e.author, e.author), everybody.get(e.target[0], e.target[0])
        row = rows.get((sender, e.target[1]))
        foreign = e.kind in ("edit", "revoke") and not e.allowed(author, sender)
        number_known = not {author, sender}.isdisjoint(everybody.values())
        perhaps = foreign and author.split("@")[1] != sender.split("@")[1] and not number_known
        if row is None or perhaps or (e.kind == "edit" and not foreign and row.kind == "undecryptable"):
            waiting.add((e.kind, e.id))
    return waiting


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=CASTS, cuts=st.sets(st.integers(1, 15)))
def test_any_order_and_any_batches_end_in_the_rows_of_the_reference(
    database: psycopg.Connection[Any], events: list[Event], cuts: set[int]
) -> None:
    compare(database, events, cuts)


def compare(database: psycopg.Connection[Any], events: list[Event], cuts: set[int]) -> None:
    """Tell these events in batches cut at these places; the database must have what the reference has."""
    talk = Talk(database)
    places = [0, *sorted(cut for cut in cuts if cut < len(events)), len(events)]
    for first, last in pairwise(places):
        talk.tell(events[first:last])
    everybody = {e.pn: PAIRS[e.pn] for e in events if isinstance(e, Learned)}
    expected = reference(events, everybody)
    found = talk.rows()
    in_order = sorted(expected, key=lambda name: expected[name].order)
    assert {name: _without_order(row) for name, row in found.items()} == {
        name: _without_order(row) for name, row in expected.items()
    }
    lines = [
        Said(GROUP, sender, Text(sender, id_, True, 0).seconds, expected[sender, id_].kind) for sender, id_ in in_order
    ]
    assert talk.links() == {in_order[a]: in_order[b] for a, b in parents_of(lines).items()}
    assert talk.held() == must_wait(events, everybody, expected)


HELLO, TWIN = Text(ANA_PN, "m1", True, 0), Text(ANA, "m1", True, 1)
HELLO_AGAIN = Text(ANA, "m1", True, 0)
MERGES: dict[str, list[Event]] = {
    "the quoted row goes": [HELLO, TWIN, Text(ANA, "m2", True, 0), Learned(ANA_PN)],
    "the row whose quote still waits goes": [
        Text(ANA_PN, "m2", True, 0),
        Text(ANA, "m2", True, 0),
        Learned(ANA_PN),
        TWIN,
    ],
    "the row whose quote still waits gives its content to a stub": [
        Text(ANA_PN, "m2", False, 0),
        Text(ANA, "m2", True, 0),
        Learned(ANA_PN),
        TWIN,
    ],
    "a stub gets its content and with it a parent": [
        TWIN,
        Text(ANA, "m2", False, 0),
        Text(ANA_PN, "m2", True, 0),
        Learned(ANA_PN),
    ],
    "the stub's content came after the other copy's": [
        Text(ANA, "m1", False, 0),
        Text(ANA_PN, "m1", True, 1),
        HELLO_AGAIN,
        Learned(ANA_PN),
    ],
    "the stub's content came before the other copy's": [
        Text(ANA, "m1", False, 0),
        HELLO_AGAIN,
        Text(ANA_PN, "m1", True, 1),
        Learned(ANA_PN),
    ],
    "both copies of a stub's message are edited": [
        Text(ANA, "m1", False, 0),
        Text(ANA_PN, "m1", True, 1),
        HELLO_AGAIN,
        Change("edit", ANA, (ANA, "m1"), "c1", 101, "new"),
        Change("edit", ANA_PN, (ANA_PN, "m1"), "c2", 100, "older"),
        Learned(ANA_PN),
    ],
    "the album goes": [
        Text(ANA_PN, "album", True, 0),
        Text(ANA, "album", True, 0),
        Text(ANA, "p1", True, 0),
        Learned(ANA_PN),
    ],
    "the revoked row goes": [HELLO, TWIN, Change("revoke", ANA, (ANA, "m1"), "c1", 100), Learned(ANA_PN)],
    "the blanked row goes": [HELLO, TWIN, Change("revoke", ANA, (ANA, "m1"), "c1", 100, blank=True), Learned(ANA_PN)],
    "the blanked stub stays": [
        Text(ANA_PN, "m1", False, 0),
        Change("revoke", ANA_PN, (ANA_PN, "m1"), "c1", 100, blank=True),
        TWIN,
        Learned(ANA_PN),
    ],
    "the edited row goes": [
        HELLO,
        TWIN,
        Change("edit", ANA, (ANA, "m1"), "c1", 101, "new"),
        Change("edit", ANA, (ANA, "m1"), "c2", 100, "older"),
        Change("edit", ANA_PN, (ANA_PN, "m1"), "c3", 102, "newest"),
        Learned(ANA_PN),
    ],
    "the edited row gives its content to a stub": [
        Text(ANA_PN, "m1", False, 0),
        TWIN,
        Change("edit", ANA, (ANA, "m1"), "c1", 101, "new"),
        Learned(ANA_PN),
    ],
    "both have reactions": [
        HELLO,
        TWIN,
        Change("reaction", BEN, (ANA, "m1"), "c1", 101, "new"),
        Change("reaction", BEN_PN, (ANA_PN, "m1"), "c2", 100, "older"),
        Learned(ANA_PN),
        Learned(BEN_PN),
    ],
    "who revoked it is learned": [
        TWIN,
        Change("revoke", BEN_PN, (ANA, "m1"), "c1", 100, by_admin=True),
        Learned(BEN_PN),
    ],
    "whose revoke it was is learned": [TWIN, Change("revoke", ANA_PN, (ANA, "m1"), "c1", 100), Learned(ANA_PN)],
    "whose revoke it was not is learned": [TWIN, Change("revoke", BEN_PN, (ANA, "m1"), "c1", 100), Learned(BEN_PN)],
    "whose edit it was is learned": [TWIN, Change("edit", ANA_PN, (ANA, "m1"), "c1", 100, "new"), Learned(ANA_PN)],
    "whose edit it was not is learned": [TWIN, Change("edit", BEN_PN, (ANA, "m1"), "c1", 100, "x"), Learned(BEN_PN)],
}


@pytest.mark.parametrize("name", MERGES)
def test_rows_that_turn_out_to_be_one(database: psycopg.Connection[Any], name: str) -> None:
    said = MERGES[name]
    for count in range(len(said)):
        compare(database, said, set(range(1, count + 1)))


def test_a_change_of_a_chat_that_is_not_monitored_is_dropped(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    database.execute("update public.groups set monitor = false where session_id = %s", (talk.id,))
    answer = talk.tell([Change("edit", ANA, (ANA, "m1"), "c1", 100, "x"), Text(ANA, "m1", True, 0)])
    assert (answer["changed"], answer["held"], talk.held(), talk.rows()) == (0, 0, set(), {})


def test_a_stub_that_turns_out_to_be_a_reaction_goes(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Text(ANA, "m1", True, 0), Text(BEN, "m3", False, 0)])
    talk.tell([Change("reaction", BEN, (ANA, "m1"), "m3", 100, "👍")])
    assert set(talk.rows()) == {(ANA, "m1")}


def test_a_change_that_postgres_refuses_is_kept_apart_and_the_rest_is_applied(
    database: psycopg.Connection[Any],
) -> None:
    talk = Talk(database)
    good: dict[str, Any] = {
        "chat_id": GROUP,
        "author": BEN,
        "target_sender": ANA,
        "target_id": "m1",
        "kind": "reaction",
    }
    good |= {"payload": {"emoji": "👍"}, "change_id": "c1", "at": at(1)}
    bad: list[dict[str, Any]] = [
        {"at": "yesterday-ish"},
        {"at": "infinity", "target_id": "?"},
        {"kind": "curse"},
        {"author": None},
    ]
    bad += [{"change_id": None}, {"payload": {"emoji": "x" * 65}}, {"target_id": "x" * 300}]
    changes = [good | {"change_id": f"b{n}"} | columns for n, columns in enumerate(bad)]
    answer = talk.batch(messages=[message("m1", sender=ANA)], changes=[*changes, good])
    assert answer["changed"] == 1
    refused = talk.all("select code from public.wa_refused_stanzas where session_id = %(session)s order by id")
    assert [code for (code,) in refused] == ["22007", "23514", "22023", "23502", "23502", "23514", "23514"]


def test_who_sends_changes_about_nothing_is_bounded(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    for part in range(3):
        talk.tell([Change("reaction", BEN, (ANA, f"n{n}"), f"c{part}-{n}", 1, "x") for n in range(400)])
    talk.tell([Change("reaction", ANA, (BEN, "n"), "c", 1, "x")])
    assert len(talk.held()) == 1001
    flood = "select count from public.wa_discards where session_id = %(session)s and reason = 'change_flood'"
    assert talk.all(flood) == [(200,)]


def test_of_many_edits_the_newest_hundred_and_the_original_are_kept(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    edits = [Change("edit", ANA, (ANA, "m1"), f"c{n}", n, str(n)) for n in range(150)]
    talk.tell([Text(ANA, "m1", True, 0), *edits[::-2], *edits[::2]])
    row = talk.rows()[ANA, "m1"]
    assert (row.text, row.edited) == ("149", 149)
    assert {text for _, text in row.former} == {"m1-0", *(str(n) for n in range(49, 149))}


@pytest.mark.parametrize("order", [1, -1])
def test_a_blanking_revoke_leaves_nothing_of_a_file_in_either_order(
    database: psycopg.Connection[Any], order: int
) -> None:
    talk = Talk(database)
    events: list[Event] = [Text(ANA, "m2", True, 0), Change("revoke", ANA, (ANA, "m2"), "c1", 100, blank=True)]
    for event in events[::order]:
        talk.tell([event])
    (row,) = talk.all(
        "select text, raw, content, media_id, media_status, file_name, mentions, mention_count from public.messages "
        "where session_id = %(session)s"
    )
    assert row == (None, {}, None, None, "revoked", None, None, 0)
    for table in ("media_jobs", "message_secrets"):
        assert talk.all(f"select 1 from public.{table} where session_id = %(session)s") == []  # noqa: S608


def test_a_child_of_anothers_album_is_refused_and_counted(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Text(ANA, "album", True, 0), Text(BEN, "p1", True, 0)])
    link = {"chat_id": GROUP, "author": BEN, "change_id": "p1", "at": at(1), "kind": "album"}
    assert talk.batch(changes=[link | {"target_sender": ANA, "target_id": "album"}])["changed"] == 0
    assert talk.rows()[BEN, "p1"].album is None
    discarded = "select reason, count from public.wa_discards where session_id = %(session)s"
    assert talk.all(discarded) == [("album_by_other", 1)]


def test_a_stored_file_stays_when_two_rows_become_one(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Text(ANA_PN, "m2", True, 0), Text(ANA, "m2", True, 0)])
    (_, second) = talk.all("select id from public.messages where session_id = %(session)s order by id")
    stored = (
        "insert into public.media (sha256, mime, bytes, storage_path) values (%s, 'image/jpeg', 1, 'x') returning id"
    )
    (media,) = database.execute(stored, (uuid4().hex * 2,)).fetchone() or (None,)
    linked = "update public.messages set media_id = %s, media_status = 'stored' where id = %s"
    database.execute(linked, (media, second[0]))
    database.execute("delete from public.media_jobs where message_id = %s", second)
    talk.tell([Learned(ANA_PN)])
    found = "select sender, sender_alt, media_id, media_status from public.messages where session_id = %(session)s"
    assert talk.all(found) == [(ANA, ANA_PN, media, "stored")]
    assert talk.all("select 1 from public.media_jobs where session_id = %(session)s") == []


def test_the_job_of_a_file_moves_to_the_stub_that_it_belongs_to(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Text(ANA, "m2", False, 0), Text(ANA_PN, "m2", True, 0)])
    talk.tell([Learned(ANA_PN)])
    jobs = "select m.sender, m.kind from public.media_jobs as j inner join public.messages as m on j.message_id = m.id "
    assert talk.all(jobs + "where j.session_id = %(session)s") == [(ANA, "image")]
    assert talk.all("select pending from public.messages where session_id = %(session)s") == [(False,)]


def give_up(talk: Talk) -> None:
    """The one job of this session ends without a file."""
    (job,) = talk.all("select id from public.media_jobs where session_id = %(session)s")
    leased = "update public.media_jobs set lease_owner = 'w', lease_expires_at = now() + interval '1 minute' "
    talk.database.execute(leased + "where id = %s", job)
    talk._call("wa_media_abandon(%s, 'w', 'expired', 'MEDIA_EXPIRED', 'gone')", *job)


JOBS = (
    "select m.sender, m.media_status, j.descriptor from public.media_jobs as j inner join public.messages as m "
    "on j.message_id = m.id where j.session_id = %(session)s"
)


def test_what_a_given_up_file_needs_again_moves_to_the_stub_that_it_belongs_to(
    database: psycopg.Connection[Any],
) -> None:
    talk = Talk(database)
    talk.tell([Text(ANA, "m2", False, 0), Text(ANA_PN, "m2", True, 0)])
    give_up(talk)
    talk.tell([Learned(ANA_PN)])
    requeued = talk._call("wa_media_requeue(%s, %s)", talk.id, json.dumps(["expired"]))
    assert (requeued["requeued"], requeued["without"]) == (1, 0)
    assert talk.all(JOBS) == [(ANA, "pending", {"media_key": "c2VjcmV0"})]


@pytest.mark.parametrize(
    "said",
    [
        [Text(ANA, "m2", False, 0), Text(ANA_PN, "m2", True, 0), Text(ANA, "m2", True, 0)],
        [Text(ANA_PN, "m2", True, 0), Text(ANA, "m2", True, 0)],
    ],
    ids=["the younger row's content stays", "the older row's content stays"],
)
def test_a_file_that_one_row_gave_up_is_still_fetched_for_the_other(
    database: psycopg.Connection[Any], said: list[Event]
) -> None:
    talk = Talk(database)
    talk.tell(said[:-1])
    give_up(talk)
    talk.tell(said[-1:])
    talk.tell([Learned(ANA_PN)])
    assert talk.all(JOBS) == [(ANA, "pending", {"media_key": "c2VjcmV0"})]
    assert talk.all("select 1 from public.wa_media_abandoned where session_id = %(session)s") == []


@pytest.mark.parametrize(
    ("first", "second", "stays"), [("Zmlyc3Q=", "c2Vjb25k", "Zmlyc3Q="), (None, "c2Vjb25k", "c2Vjb25k")]
)
@pytest.mark.parametrize("stub_first", [True, False])
def test_the_secret_of_the_content_stays_or_else_the_others(
    database: psycopg.Connection[Any], stub_first: bool, first: str | None, second: str, stays: str
) -> None:
    talk = Talk(database)
    if stub_first:
        talk.tell([Text(ANA, "m1", False, 0)])
    talk.batch(messages=[message("m1", sender=ANA_PN, secret=first)])
    talk.batch(messages=[message("m1", sender=ANA, secret=second)])
    talk.tell([Learned(ANA_PN)])
    assert talk.all("select secret from public.message_secrets where session_id = %(session)s") == [(stays,)]


@pytest.mark.parametrize("stub_first", [True, False])
def test_what_only_the_copy_that_goes_quoted_is_not_quoted(database: psycopg.Connection[Any], stub_first: bool) -> None:
    talk = Talk(database)
    if stub_first:
        talk.tell([Text(ANA, "m1", False, 0)])
    talk.batch(messages=[message("m1", sender=ANA_PN)])
    quote = {"chat_id": GROUP, "author": ANA, "change_id": "m1", "at": at(0), "kind": "quote"}
    quote |= {"target_sender": BEN, "target_id": "m3"}
    quoting = message("m1", sender=ANA, quoted_sender=BEN, quoted_msg_id="m3")
    talk.batch(messages=[quoting], changes=[quote])
    talk.tell([Learned(ANA_PN)])
    talk.tell([Text(BEN, "m3", True, 0)])
    row = talk.rows()[ANA, "m1"]
    assert row.quoted is None


def test_content_from_before_the_order_was_kept_counts_as_the_earliest(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Text(ANA, "m1", False, 0), HELLO])
    database.execute("update public.messages set content_order = null where session_id = %s", (talk.id,))
    talk.tell([TWIN])
    talk.tell([Learned(ANA_PN)])
    assert talk.rows()[ANA, "m1"].text == "m1-0"


def test_a_change_that_was_held_under_both_addresses_is_applied_once(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    for author in (ANA_PN, ANA):
        talk.tell([Change("edit", author, (author, "m1"), "c1", 100, "new")])
    talk.tell([Learned(ANA_PN)])
    assert len(talk.all("select 1 from public.wa_held_changes where session_id = %(session)s")) == 1
    talk.tell([Text(ANA, "m1", True, 0)])
    row = talk.rows()[ANA, "m1"]
    assert (row.text, row.former, talk.held()) == ("new", {("", "m1-0")}, set())


def test_a_quote_of_a_number_becomes_one_of_the_lid(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Text(ANA, "m3", True, 0)])
    for quoted in (BEN_PN, BEN):
        assert talk.all("select quoted_sender from public.messages where session_id = %(session)s") == [(quoted,)]
        talk.tell([Learned(BEN_PN)])


def test_a_pair_that_is_known_is_not_merged_again(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Learned(ANA_PN)])
    talk.batch(messages=[message("m1", sender=ANA_PN)])  # no worker does this
    talk.tell([Learned(ANA_PN)])
    assert set(talk.rows()) == {(ANA_PN, "m1")}


def sealed(talk: Talk) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = talk._call("wa_sealed_edits(%s, 10)", talk.id)["edits"]
    return found


@pytest.mark.parametrize("order", [1, -1])
def test_a_sealed_edit_waits_for_message_and_secret_and_becomes_an_edit(
    database: psycopg.Connection[Any], order: int
) -> None:
    talk = Talk(database)
    envelope: dict[str, Any] = {
        "chat_id": GROUP,
        "author": ANA,
        "target_sender": ANA,
        "target_id": "m1",
        "kind": "sealed_edit",
    }
    envelope |= {"change_id": "c1", "at": at(5), "payload": {"iv": "x"}}
    parts: list[dict[str, Any]] = [
        {"changes": [envelope]},
        {"messages": [message("m1", sender=ANA, sender_alt=ANA_PN) | SECRET]},
    ]
    answers = [talk.batch(**part) for part in parts[::order]]
    assert [answer["sealed"] for answer in answers] == [0, 1]
    (edit,) = sealed(talk)
    assert (edit["target_id"], edit["secret"], edit["sender"], edit["sender_alt"]) == ("m1", "c2VjcmV0", ANA, ANA_PN)
    opened = json.dumps([{"id": edit["id"], "text": "new", "at": at(7)}])
    assert talk._call("wa_open_edits(%s, 1, %s)", talk.id, opened) == {"changed": 1}
    assert talk._call("wa_open_edits(%s, 1, %s)", talk.id, opened) == {"changed": 0}
    assert (talk.rows()[ANA, "m1"].text, talk.rows()[ANA, "m1"].edited, talk.held()) == ("new", 7, set())


@pytest.mark.parametrize("order", [1, -1])
def test_an_event_is_what_its_newest_edit_says_in_whatever_order_they_are_opened(
    database: psycopg.Connection[Any], order: int
) -> None:
    talk = Talk(database)
    event = message("m1", sender=ANA, kind="event", text="Fair", content={"name": "Fair", "starts_at": "x"}) | SECRET
    text = message("m2", sender=ANA) | SECRET
    envelope: dict[str, Any] = {"chat_id": GROUP, "author": ANA, "target_sender": ANA, "kind": "sealed_edit"}
    envelope |= {"at": at(5), "payload": {"event": True}}
    changes = [
        envelope | {"target_id": "m1", "change_id": "c1"},
        envelope | {"target_id": "m1", "change_id": "c2", "at": at(9)},
        envelope | {"target_id": "m2", "change_id": "c3"},
    ]
    talk.batch(messages=[event, text], changes=changes)
    opened = [
        {"id": held["id"], "text": name, "content": {"name": name}}
        for held, name in zip(sealed(talk), ("Autumn fair", "Winter fair", "no event"), strict=True)
    ]
    for each in opened[::order]:
        assert talk._call("wa_open_edits(%s, 1, %s)", talk.id, json.dumps([each])) == {"changed": 1}
    found = database.execute(
        "select wa_msg_id, text, content from public.messages where session_id = %s order by wa_msg_id", (talk.id,)
    ).fetchall()
    assert found == [("m1", "Winter fair", {"name": "Winter fair"}), ("m2", "no event", None)]
    assert talk.held() == set()


def test_a_sealed_edit_that_cannot_be_opened_is_not_tried_again_and_one_by_another_is_refused(
    database: psycopg.Connection[Any],
) -> None:
    talk = Talk(database)
    envelope = {"chat_id": GROUP, "target_sender": ANA, "target_id": "m1", "kind": "sealed_edit", "at": at(5)}
    changes = [envelope | {"author": ANA, "change_id": "c1"}, envelope | {"author": BEN, "change_id": "c2"}]
    talk.batch(messages=[message("m1", sender=ANA) | SECRET], changes=changes)
    first, second = sealed(talk)
    opened = [{"id": first["id"], "unreadable": True}, {"id": second["id"], "text": "Ben's"}]
    assert talk._call("wa_open_edits(%s, 1, %s)", talk.id, json.dumps(opened)) == {"changed": 0}
    assert (sealed(talk), talk.held()) == ([], {("sealed_edit", "c1")})
    assert talk.rows()[ANA, "m1"].text == "text of m1"
    with pytest.raises(psycopg.ProgrammingError, match="stale_fence"):
        talk._call("wa_open_edits(%s, 2, '[]')", talk.id)


def test_one_opened_edit_that_postgres_refuses_holds_up_none_of_its_round(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    envelope = {"chat_id": GROUP, "author": ANA, "target_sender": ANA, "kind": "sealed_edit", "at": at(5)}
    changes = [envelope | {"target_id": f"m{n}", "change_id": f"c{n}"} for n in (1, 2, 3)]
    talk.batch(messages=[message(f"m{n}", sender=ANA) | SECRET for n in (1, 2, 3)], changes=changes)
    times = {"m1": at(7), "m2": "3000-01-01T00:00:00+00:00", "m3": at(7)}  # no change may be of the year 3000
    opened = [{"id": edit["id"], "text": "new", "at": times[edit["target_id"]]} for edit in sealed(talk)]
    assert talk._call("wa_open_edits(%s, 1, %s)", talk.id, json.dumps(opened)) == {"changed": 2}
    assert [talk.rows()[ANA, name].text for name in ("m1", "m2", "m3")] == ["new", "text of m2", "new"]
    assert (sealed(talk), talk.held()) == ([], {("sealed_edit", "c2")})
    discarded = "select reason, count from public.wa_discards where session_id = %(session)s"
    assert talk.all(discarded) == [("sealed_edit_refused", 1)]


def test_a_plain_edit_that_is_held_under_the_name_of_a_sealed_one_gives_way(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    envelope = {"chat_id": GROUP, "author": ANA, "target_sender": ANA, "change_id": "c1", "at": at(5)}
    plain = envelope | {"kind": "edit", "target_id": "never sent", "payload": {"text": "plain"}}
    talk.batch(
        messages=[message("m1", sender=ANA) | SECRET],
        changes=[plain, envelope | {"kind": "sealed_edit", "target_id": "m1"}],
    )
    (edit,) = sealed(talk)
    opened = json.dumps([{"id": edit["id"], "text": "new", "at": at(7)}])
    assert talk._call("wa_open_edits(%s, 1, %s)", talk.id, opened) == {"changed": 1}
    assert (talk.rows()[ANA, "m1"].text, talk.held()) == ("new", set())


def test_a_sealed_edit_that_was_handed_out_is_put_off_for_longer_each_time(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    envelope = {"chat_id": GROUP, "author": ANA, "target_sender": ANA, "target_id": "m1", "kind": "sealed_edit"}
    changes = [envelope | {"change_id": "c1", "at": at(5)}]
    assert talk.batch(messages=[message("m1", sender=ANA) | SECRET], changes=changes)["sealed"] == 1
    for minutes in (1, 2, 4):
        assert len(sealed(talk)) == 1
        assert (sealed(talk), talk.batch()["sealed"]) == ([], 0)
        left = (
            "select round(extract(epoch from next_at - held_at) / 60) from public.wa_held_changes where session_id = "
        )
        assert talk.all(left + "%(session)s") == [(minutes,)]
        database.execute("update public.wa_held_changes set next_at = now() where session_id = %s", [talk.id])
        assert talk.batch()["sealed"] == 1


def test_an_error_that_an_apps_trigger_raises_is_no_verdict_on_a_message_that_is_taken_back(
    database: psycopg.Connection[Any],
) -> None:
    talk = Talk(database)
    body = base64.b64encode(json.dumps(message("m1", sender=ANA, text="not on Sundays")).encode()).decode()
    listed = {"chat_id": GROUP, "sender": ANA, "wa_msg_id": "m1", "state": "waiting", "code": "57014", "reason": ""}
    talk.batch(refused=[listed | {"encoding": "base64", "body": body}])
    ((id_,),) = talk.all("select id from public.wa_refused_stanzas where session_id = %(session)s")
    database.execute(
        "create function public.no_sundays() returns trigger language plpgsql as $$ begin "
        "if new.text = 'not on Sundays' then raise exception 'closed'; end if; return new; end $$; "
        "create trigger no_sundays before insert on public.messages for each row execute function public.no_sundays()"
    )
    try:
        assert talk._call("wa_retry_refused(%s, %s)", talk.id, id_) == {"taken": False, "code": "P0001"}
    finally:
        database.execute("drop function public.no_sundays() cascade")
    state = "select state, code, reason from public.wa_refused_stanzas where session_id = %(session)s"
    assert talk.all(state) == [("waiting", "P0001", "closed")]
    assert talk._call("wa_retry_refused(%s, %s)", talk.id, id_) == {"taken": True}


def test_what_waits_longer_than_a_week_is_dropped_and_counted(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Text(ANA, "m2", True, 0), Change("edit", ANA, (ANA, "m9"), "c1", 1, "x")])
    database.execute("update public.wa_held_changes set held_at = now() - interval '8 days'")
    database.execute("update public.message_secrets set at = now() - interval '8 days'")
    talk.tell([Change("reaction", ANA, (ANA, "m9"), "c2", 1, "x")])
    pruned = talk._call("wa_prune(%s, 1209600, null)", talk.id)
    assert (pruned["changes"], pruned["secrets"], pruned["more"]) == (2, 1, False)  # the edit, and a quote of m2's
    again = talk._call("wa_prune(%s, 1209600, null)", talk.id)
    assert (again["changes"], again["secrets"]) == (0, 0)
    assert talk.held() == {("reaction", "c2")}
    discarded = "select reason, count from public.wa_discards where session_id = %(session)s"
    assert talk.all(discarded) == [("edit_unmatched", 1)]


ZED = "1003@lid"


def told(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"identities": [{"lid": lid, "pn": pn} for lid, pn in pairs]}


@pytest.mark.parametrize(
    ("before", "because"),
    [
        ([told(("", BEN_PN))], "a notice said that his number changed"),
        ([told((BEN, BEN_PN)), told((BEN, "4999@s.whatsapp.net"))], "his LID has another number"),
        ([told((BEN, BEN_PN))], "the number had another LID"),
    ],
)
def test_a_number_that_passes_to_somebody_else_takes_no_rows_along(
    database: psycopg.Connection[Any], before: list[dict[str, Any]], because: str
) -> None:
    talk = Talk(database)
    talk.tell([Text(BEN_PN, "m1", True, 0)])
    for parts in before:
        talk.batch(**parts)
    owner = next(iter(talk.rows()))
    talk.batch(**told((ZED, BEN_PN)))
    assert set(talk.rows()) == {owner}, because
    assert owner[0] in (BEN, BEN_PN)
    talk.tell([Text(BEN_PN, "m2", True, 0)])
    talk.batch(**told((ZED, BEN_PN)))
    assert (BEN_PN, "m2") in talk.rows(), "who held the number then is not known"
    assert talk._call("wa_get_identities(%s, %s)", talk.id, json.dumps([BEN_PN]))["identities"] == {BEN_PN: ""}


def test_the_rows_under_a_number_that_somebody_takes_over_are_not_theirs(database: psycopg.Connection[Any]) -> None:
    talk = Talk(database)
    talk.tell([Text(BEN_PN, "m1", True, 0)])
    talk.batch(**told((ANA, ANA_PN)))
    talk.batch(**told((ANA, BEN_PN)))
    assert set(talk.rows()) == {(BEN_PN, "m1")}

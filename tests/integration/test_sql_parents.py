"""Parent links (contract 7), checked against a reference that is short enough to be believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.database import GROUP, OTHER_GROUP, message, photo, stub


@dataclass(frozen=True)
class Said:
    chat: str
    sender: str
    seconds: int
    kind: str


def reference(messages: list[Said]) -> dict[int, int]:
    """Who points to whom, by place in the order of arrival."""
    parents: dict[int, int] = {}
    last: dict[tuple[str, str], int] = {}
    for i in sorted(range(len(messages)), key=lambda place: (messages[place].seconds, place)):
        here = messages[i]
        if here.kind not in {"text", "image"}:
            continue
        before = last.get((here.chat, here.sender))
        last[here.chat, here.sender] = i
        if before is None or before in parents or here.seconds - messages[before].seconds > 90:
            continue
        if messages[before].kind != here.kind:
            parents[i] = before
    return parents


@st.composite
def conversations(draw: st.DrawFn, longest: int) -> list[Said]:
    """Mostly one person's texts and photos in one chat, with gaps around the limit; in order, or in any order."""
    seconds = 0
    said = []
    for _ in range(draw(st.integers(1, longest))):
        seconds += draw(st.sampled_from([0, 1, 30, 45, 89, 90, 91]))
        chat = draw(st.sampled_from([GROUP, GROUP, GROUP, OTHER_GROUP]))
        sender = draw(st.sampled_from(["ana@lid", "ana@lid", "ana@lid", "ben@lid"]))
        kind = draw(st.sampled_from(["text", "image", "text", "image", "location", "undecryptable"]))
        said.append(Said(chat, sender, seconds, kind))
    return draw(st.just(said) | st.permutations(said))


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


class Session:
    """A session on the real PostgreSQL, both groups monitored."""

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        self.database = database
        self.id = f"t-{uuid4().hex}"
        self.seq = 0
        self._call("wa_lease_acquire(%s, 'w', 60)", self.id)
        self._call("wa_begin_epoch(%s, 1)", self.id)
        groups = json.dumps([{"wa_group_id": GROUP}, {"wa_group_id": OTHER_GROUP}])
        self._call("wa_upsert_groups(%s, 1, %s, false)", self.id, groups)
        database.execute("update public.groups set monitor = true where session_id = %s", (self.id,))

    def _call(self, call: str, *args: object) -> Any:
        row = self.database.execute(f"select public.{call}", args).fetchone()
        assert row is not None
        return row[0]

    def commit(self, messages: list[dict[str, Any]]) -> Any:
        self.seq += 1
        batch = {"fence": "1", "epoch": "1", "seq": str(self.seq), "messages": messages}
        return self._call("wa_commit(%s, %s)", self.id, json.dumps(batch))

    def parents(self) -> dict[int, int]:
        """By the number in the message id."""
        found = self.database.execute(
            "select m.wa_msg_id::integer, p.wa_msg_id::integer from public.messages as m "
            "inner join public.messages as p on m.parent_id = p.id where m.session_id = %s",
            (self.id,),
        )
        return dict(found.fetchall())


def as_row(place: int, said: Said) -> dict[str, Any]:
    where = {"chat_id": said.chat, "sender": said.sender}
    match said.kind:
        case "image":
            return photo(str(place), said.seconds, **where)
        case "undecryptable":
            return stub(str(place), said.seconds, **where)
        case kind:
            return message(str(place), said.seconds, kind=kind, **where)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=conversations(14), cuts=st.sets(st.integers(1, 13)))
def test_links_are_those_of_the_reference_for_any_split_into_batches(
    database: psycopg.Connection[Any], said: list[Said], cuts: set[int]
) -> None:
    session = Session(database)
    rows = [as_row(place, one) for place, one in enumerate(said)]
    edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for start, end in pairwise(edges):
        session.commit(rows[start:end])
    assert session.parents() == reference(said)


@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=conversations(10), data=st.data())
def test_links_are_right_after_stubs_got_their_content(
    database: psycopg.Connection[Any], said: list[Said], data: st.DataObject
) -> None:
    """Each message may have come as a stub first, and its content in any later batch."""
    session = Session(database)
    late = data.draw(st.lists(st.sampled_from(range(len(said))), unique=True))
    session.commit(
        [
            stub(str(i), one.seconds, chat_id=one.chat, sender=one.sender) if i in late else as_row(i, one)
            for i, one in enumerate(said)
        ]
    )
    for place in late:
        session.commit([as_row(place, said[place])])
    assert session.parents() == reference(said)


@pytest.mark.parametrize(
    ("second", "gap", "linked", "reason"),
    [
        ("image", 90, True, "90 s are within 90 s"),
        ("image", 91, False, "91 s are not"),
        ("image", 0, True, "in the same second the order of arrival counts"),
        ("text", 5, False, "two texts are no pair"),
        ("location", 5, False, "neither text nor media"),
        ("undecryptable", 5, False, "nobody knows what it is"),
    ],
)
def test_a_text_and_what_follows(
    database: psycopg.Connection[Any], second: str, gap: int, linked: bool, reason: str
) -> None:
    session = Session(database)
    session.commit([as_row(0, Said(GROUP, "ana@lid", 0, "text"))])
    session.commit([as_row(1, Said(GROUP, "ana@lid", gap, second))])
    assert session.parents() == ({1: 0} if linked else {}), reason


def test_media_first_links_the_next_text_back_to_it(database: psycopg.Connection[Any]) -> None:
    session = Session(database)
    session.commit([photo("0", 0), message("1", 30)])
    assert session.parents() == {1: 0}


def test_a_message_in_a_pair_takes_no_other_in_a_later_batch(database: psycopg.Connection[Any]) -> None:
    session = Session(database)
    session.commit([message("0", 0), photo("1", 10)])
    session.commit([message("2", 20)])
    session.commit([photo("3", 30)])
    assert session.parents() == {1: 0, 3: 2}


def test_a_message_that_arrives_late_moves_the_pairs_behind_it(database: psycopg.Connection[Any]) -> None:
    session = Session(database)
    session.commit([message("0", 10), photo("1", 20), message("2", 30)])
    assert session.parents() == {1: 0}
    session.commit([photo("3", 5)])
    assert session.parents() == {0: 3, 2: 1}

"""What one member says changes no row of another: every kind of change, in the database's own words."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.integration.database import GROUP
from tests.integration.test_sql_revokes import ANA, BEN, MALLORY, Chat, database  # noqa: F401 - a fixture

ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("edit", {"text": "forged"}),
    ("edit", {"text": None}),
    ("revoke", {"blank": True, "by_admin": False}),
    ("revoke", {"blank": True, "by_admin": True}),
    ("album", {}),
    ("quote", {}),
]


def change(author: str, kind: str, payload: dict[str, Any], number: int, *, id: str | None = None) -> dict[str, Any]:
    return {
        "chat_id": GROUP,
        "author": author,
        "change_id": id or f"x{number}",
        "at": f"2026-11-22T12:{number:02d}:00Z",
        "kind": kind,
        "target_sender": ANA,
        "target_id": "m1",
        "payload": payload,
    }


def row_of_ana(chat: Chat) -> Any:
    return chat.all("select to_jsonb(m) - 'cursor' from public.messages as m where session_id = %s")


def test_the_same_changes_by_its_sender_do(database: psycopg.Connection[Any]) -> None:  # noqa: F811
    for kind, payload in ATTACKS[:3]:
        chat = Chat(database)
        before = row_of_ana(chat)
        chat.batch(changes=[change(ANA, kind, payload, 1)])
        assert row_of_ana(chat) != before, kind


@pytest.mark.parametrize(("kind", "payload"), ATTACKS)
@pytest.mark.parametrize("name", ["a new id", "the id of the message itself"])
def test_no_change_by_another_member_touches_a_message(
    database: psycopg.Connection[Any],  # noqa: F811
    kind: str,
    payload: dict[str, Any],
    name: str,
) -> None:
    chat = Chat(database)
    chat.admins(BEN)
    before = row_of_ana(chat)
    assert len(before) == 1
    chat.batch(changes=[change(MALLORY, kind, payload, 1, id="m1" if name != "a new id" else None)])
    assert row_of_ana(chat) == before


def test_a_reaction_is_its_authors_alone(database: psycopg.Connection[Any]) -> None:  # noqa: F811
    chat = Chat(database)
    before = row_of_ana(chat)
    chat.batch(changes=[change(BEN, "reaction", {"emoji": "👍"}, 1)])
    chat.batch(changes=[change(MALLORY, "reaction", {"emoji": "👎"}, 2, id="x1")])
    chat.batch(changes=[change(MALLORY, "reaction", {"emoji": ""}, 3, id="x1")])
    found = chat.all("select sender, emoji from public.message_reactions where session_id = %s order by sender")
    assert {sender: emoji for sender, emoji in found if emoji} == {BEN: "👍"}
    assert row_of_ana(chat) == before

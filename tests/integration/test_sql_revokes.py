"""Who may revoke: the message's sender, and an admin by the group's metadata. All others change nothing for good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.database import GROUP, at, message
from tests.integration.test_sql_parents import Session

ANA, ANA_PN = "1001@lid", "4911@s.whatsapp.net"
BEN, BEN_PN = "1002@lid", "4912@s.whatsapp.net"
MALLORY, MALLORY_PN = "1009@lid", "4919@s.whatsapp.net"
REVOKED, CLAIMED, UNTOUCHED = "revoked", "claimed", "untouched"


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


class Chat(Session):
    """A chat in which Ana has written one message."""

    def __init__(self, database: psycopg.Connection[Any], sender: str = ANA) -> None:
        super().__init__(database)
        self.sender = sender
        self.commit([message("m1", sender=sender)])

    def batch(self, **parts: Any) -> Any:
        self.seq += 1
        batch = {"fence": "1", "epoch": "1", "seq": str(self.seq), **parts}
        return self._call("wa_commit(%s, %s)", self.id, json.dumps(batch))

    def revoke(self, author: str, *, by_admin: bool = True, blank: bool = True, id: str = "c1") -> Any:
        change = {
            "chat_id": GROUP,
            "author": author,
            "change_id": id,
            "at": at(100),
            "kind": "revoke",
            "target_sender": self.sender,
            "target_id": "m1",
            "payload": {"blank": blank, "by_admin": by_admin},
        }
        return self.batch(changes=[change])

    def admins(self, *admins: str) -> None:
        groups = json.dumps([{"wa_group_id": GROUP, "admins": list(admins)}])
        self._call("wa_upsert_groups(%s, 1, %s, false)", self.id, groups)

    def known_admins(self) -> list[str] | None:
        (row,) = self.all("select admins from public.groups where session_id = %s order by id limit 1")
        admins: list[str] | None = row[0]
        return admins

    def all(self, query: str) -> list[Any]:
        return self.database.execute(query.encode(), (self.id,)).fetchall()

    @property
    def state(self) -> str:
        ((text, blanked, revoked, claimed),) = self.all(
            "select text, blanked, revoked_at, revoke_claimed_at from public.messages where session_id = %s"
        )
        assert blanked == (text is None)
        assert not blanked or revoked is not None
        assert revoked is None or claimed is None
        return REVOKED if revoked else CLAIMED if claimed else UNTOUCHED

    @property
    def counted(self) -> int:
        rows = self.all("select count from public.wa_discards where session_id = %s and reason = 'revoke_by_other'")
        return sum(count for (count,) in rows)


@pytest.mark.parametrize(
    ("author", "by_admin", "admins", "state", "because"),
    [
        (ANA, False, None, REVOKED, "one's own, whoever the admins are"),
        (ANA, True, [BEN], REVOKED, "one's own"),
        (BEN, True, [BEN, BEN_PN], REVOKED, "an admin"),
        (BEN_PN, True, [BEN, BEN_PN], REVOKED, "an admin under the number"),
        (BEN, False, [BEN, BEN_PN], UNTOUCHED, "an admin who does not say so"),
        (MALLORY, True, [BEN, BEN_PN], UNTOUCHED, "no admin, who claims to be one"),
        (MALLORY, False, [BEN], UNTOUCHED, "no admin"),
        (MALLORY, False, None, UNTOUCHED, "no claim, so the admins do not matter"),
        (MALLORY, True, None, CLAIMED, "the admins are not known"),
        (MALLORY_PN, True, [BEN], CLAIMED, "a number, and the admins are named by LID"),
        (MALLORY_PN, False, [BEN], CLAIMED, "a number that may be Ana's"),
        (MALLORY, True, [], UNTOUCHED, "a group without admins"),
    ],
)
def test_who_may_revoke(
    database: psycopg.Connection[Any], author: str, by_admin: bool, admins: list[str] | None, state: str, because: str
) -> None:
    chat = Chat(database)
    if admins is not None:
        chat.admins(*admins)
    answer = chat.revoke(author, by_admin=by_admin)
    assert (chat.state, chat.counted, answer["held"]) == (state, state == UNTOUCHED, state == CLAIMED), because


@pytest.mark.parametrize(("admins", "state"), [([BEN, MALLORY], REVOKED), ([BEN], UNTOUCHED)])
def test_a_claim_is_judged_when_the_admins_are_told(
    database: psycopg.Connection[Any], admins: list[str], state: str
) -> None:
    chat = Chat(database)
    chat.revoke(MALLORY)
    assert chat.state == CLAIMED
    chat.admins(*admins)
    assert (chat.state, chat.counted) == (state, state == UNTOUCHED)
    assert chat.all("select 1 from public.wa_held_changes where session_id = %s") == []


def test_the_admins_are_kept_current(database: psycopg.Connection[Any]) -> None:
    chat = Chat(database)
    chat.batch(groups=[{"wa_group_id": GROUP, "promoted": [MALLORY], "demoted": []}])
    assert chat.known_admins() is None, "one promotion does not tell who else is one"
    chat.admins(BEN)
    chat.batch(groups=[{"wa_group_id": GROUP, "promoted": [MALLORY, MALLORY_PN], "demoted": []}])
    assert chat.known_admins() == sorted([BEN, MALLORY, MALLORY_PN])
    chat.batch(groups=[{"wa_group_id": GROUP, "promoted": [], "demoted": [MALLORY, MALLORY_PN]}])
    chat.batch(groups=[{"wa_group_id": GROUP, "name": "New name"}])
    assert chat.known_admins() == [BEN]
    chat.revoke(MALLORY)
    assert chat.state == UNTOUCHED


def test_a_refused_revoke_is_audited_once_an_hour_for_its_author(database: psycopg.Connection[Any]) -> None:
    chat = Chat(database)
    chat.admins(BEN)
    for n in range(5):
        chat.revoke(MALLORY, id=f"c{n}")
    chat.revoke("1008@lid", id="c9")
    audits = chat.all("select payload from public.audit_log where session_id = %s and event = 'revoke_by_other'")
    assert [payload["by"] for (payload,) in audits] == [MALLORY, "1008@lid"]
    assert audits[0][0] == {"chat_id": GROUP, "wa_msg_id": "m1", "sender": ANA, "by": MALLORY}
    assert chat.counted == 6

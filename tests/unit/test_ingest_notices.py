"""What happened to a group: a row with a sentence and the facts, for every tag and every child."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.stanzas import ANA, GROUP, NOW_MS, NOW_S, OTHER_GROUP, ingested, make_key, make_rules
from worker.bridge.protocol import Notice, NoticeEvent
from worker.ingest.rules.normalise import Discard, MessageRow, normalise_notices

BEN = {"tag": "participant", "attrs": {"jid": "1002@lid", "phone_number": "4915199999999@s.whatsapp.net"}}
BENS_FACTS = {"who": "1002@lid", "also": "4915199999999@s.whatsapp.net"}


def notice(tag: str, attrs: dict[str, str] | None = None, *children: dict[str, Any], text: str | None = None) -> Notice:
    below = [notice(child["tag"], child.get("attrs"), text=child.get("text")) for child in children]
    return Notice(tag=tag, attrs=attrs or {}, text=text, children=below)


def told(*notices: Notice, **key: Any) -> list[MessageRow | Discard]:
    event = NoticeEvent(type="notice", key=make_key(id="77", **key), notices=list(notices), t=str(NOW_S))
    return normalise_notices(event, NOW_MS, make_rules())


@pytest.mark.parametrize(
    ("given", "text", "facts"),
    [
        (
            notice("ephemeral", {"expiration": "604800"}),
            "New messages disappear after 7 days.",
            {"expires_after_s": 604_800},
        ),
        (
            notice("ephemeral", {"expiration": "86400"}),
            "New messages disappear after 24 hours.",
            {"expires_after_s": 86_400},
        ),
        (notice("ephemeral", {"expiration": "x"}), "New messages no longer disappear.", {}),
        (notice("not_ephemeral"), "New messages no longer disappear.", {}),
        (notice("subject", {"subject": "Mar\u202eket"}), "The group is now called “Market”.", {"name": "Market"}),
        (
            notice("create", {}, {"tag": "group", "attrs": {"subject": "Market"}}),
            "The group “Market” was created.",
            {"name": "Market"},
        ),
        (
            notice("description", {}, {"tag": "body", "text": "fruit"}),
            "The description is now: fruit",
            {"description": "fruit"},
        ),
        (notice("description", {"delete": "true"}), "The description was removed.", {}),
        (notice("add", {}, BEN), "+4915199999999 was added.", {"people": [BENS_FACTS]}),
        (
            notice("add", {}, BEN, BEN),
            "+4915199999999, +4915199999999 were added.",
            {"people": [BENS_FACTS, BENS_FACTS]},
        ),
        (notice("remove", {}, BEN), "+4915199999999 was removed.", {"people": [BENS_FACTS]}),
        (notice("promote", {}, BEN), "+4915199999999 is now an admin.", {"people": [BENS_FACTS]}),
        (notice("modify", {}, BEN), "+4915199999999 has a new number.", {"people": [BENS_FACTS]}),
        (notice("change_number"), "Somebody has a new number.", {}),
        (notice("delete"), "The group was deleted.", {}),
        (notice("suspended"), "WhatsApp has suspended the group.", {}),
        (
            notice("growth_locked", {"type": "invite"}),
            "WhatsApp lets nobody join the group for now.",
            {"type": "invite"},
        ),
        (
            notice(
                "link", {"link_type": "parent_group"}, {"tag": "group", "attrs": {"jid": "9@g.us", "subject": "Town"}}
            ),
            "The group was linked to “Town”.",
            {"link_type": "parent_group", "groups": [{"group": "9@g.us", "name": "Town"}]},
        ),
        (notice("member_add_mode", text="admin_add"), "Who may add members was changed.", {"mode": "admin_add"}),
        (
            notice("membership_approval_mode", {}, {"tag": "group_join", "attrs": {"state": "on"}}),
            "Admins approve new members.",
            {"mode": "on"},
        ),
        (notice("hologram"), "Something changed in the group: hologram.", {}),
    ],
)
def test_a_notice_is_a_row_with_a_sentence_and_the_facts(given: Notice, text: str, facts: dict[str, Any]) -> None:
    (row,) = told(given)
    assert isinstance(row, MessageRow)
    assert (row.kind, row.sender, row.wa_msg_id, row.text) == ("system", ANA, "77", text)
    assert row.content == {"notice": given.tag, **facts}
    assert row.raw["notice"]["tag"] == given.tag


def test_who_removes_only_themselves_has_left() -> None:
    (row,) = told(
        notice("remove", {}, {"tag": "participant", "attrs": {"jid": "1001:7@lid"}}), participant="1001:7@lid"
    )
    assert isinstance(row, MessageRow)
    assert (row.content or {})["notice"] == "leave"
    assert row.text == "1001@lid left."


def test_every_child_is_a_row_and_none_takes_anothers_place() -> None:
    rows = told(notice("locked"), notice("announcement"), notice("locked"))
    assert [row.wa_msg_id for row in rows if isinstance(row, MessageRow)] == ["77", "77:1", "77:2"]
    stored = ingested([], [NoticeEvent(type="notice", key=make_key(), notices=[notice("locked")] * 2, t=str(NOW_S))])
    assert len(stored["messages"]) == 2


def test_a_new_groups_members_are_not_listed() -> None:
    (row,) = told(notice("create", {}, BEN, BEN))
    assert isinstance(row, MessageRow)
    assert row.content == {"notice": "create"}


@pytest.mark.parametrize(
    ("key", "notices", "reason"),
    [
        ({}, [], "malformed"),
        ({"remoteJid": OTHER_GROUP}, [notice("locked")], "unmonitored"),
        ({"remoteJid": "49@s.whatsapp.net"}, [notice("locked")], "not_a_group"),
    ],
)
def test_what_is_no_row_is_counted(key: dict[str, Any], notices: list[Notice], reason: str) -> None:
    assert told(*notices, **key) == [Discard(reason=reason)]  # type: ignore[arg-type]


def test_a_notice_without_an_author_is_the_groups() -> None:
    (row,) = told(notice("suspended"), participant=None, participantAlt=None)
    assert isinstance(row, MessageRow)
    assert row.sender == GROUP

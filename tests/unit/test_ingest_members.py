"""Who is in a group: what notices and lists say, and when a list proves to be whole."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.stanzas import ANA, ANA_PHONE, BEN, GROUP, NOW_MS, NOW_S, OTHER_GROUP, ingested, make_key
from worker.bridge.protocol import Group, Member, Notice, NoticeEvent
from worker.ingest.rules.live import iso
from worker.ingest.rules.members import LIST_MARGIN_S, told_by_list

BEN_PHONE = "4915199999999@s.whatsapp.net"
OWN = ("2001@lid", "4915100000000@s.whatsapp.net")
US = {"id": "2001:7@lid", "also": "4915100000000@s.whatsapp.net", "role": "member"}


def notice(tag: str, *people: dict[str, str]) -> Notice:
    below = [Notice(tag="participant", attrs=attrs, text=None, children=[]) for attrs in people]
    return Notice(tag=tag, attrs={}, text=None, children=below)


def event(*notices: Notice, t: int = NOW_S, **key: Any) -> NoticeEvent:
    return NoticeEvent(type="notice", key=make_key(**key), notices=list(notices), t=str(t))


BOTH = {"jid": "1002:3@lid", "phone_number": BEN_PHONE}


@pytest.mark.parametrize(
    ("given", "what", "members"),
    [
        (notice("add", BOTH, {"jid": ANA}), "joined", [{"member": jid, "role": "member"} for jid in (BEN, ANA)]),
        (notice("add", {"jid": BEN_PHONE, "lid": BEN}), "joined", [{"member": BEN, "role": "member"}]),
        (notice("add", BOTH, BOTH), "joined", [{"member": BEN, "role": "member"}]),
        (notice("remove", {"jid": BEN_PHONE}), "left", [{"member": BEN_PHONE, "role": None}]),
        (notice("leave", {"jid": BEN}), "left", [{"member": BEN, "role": None}]),
        (notice("promote", {"jid": BEN}), "role", [{"member": BEN, "role": "admin"}]),
        (notice("demote", {"jid": BEN}), "role", [{"member": BEN, "role": "member"}]),
    ],
)  # fmt: skip
def test_a_notice_says_who_joined_left_or_became_what(given: Notice, what: str, members: list[Any]) -> None:
    (entry,) = ingested([], [event(given)], members=True)["members"]
    assert entry == {"wa_group_id": GROUP, "at": iso(NOW_S), "what": what, "members": members}


@pytest.mark.parametrize(
    ("given", "because"),
    [
        (event(notice("create", BOTH)), "a new group is not switched on, and its members are not listed"),
        (event(notice("subject", BOTH)), "it says nothing of members"),
        (event(notice("add", {"jid": "?"}, {})), "nobody is named"),
        (event(notice("add", BOTH), remoteJid=OTHER_GROUP), "the group is not switched on"),
        (event(notice("add", BOTH), remoteJid="no group"), "it is no group"),
    ],
)
def test_other_notices_say_nothing_of_members(given: NoticeEvent, because: str) -> None:
    assert ingested([], [given], members=True)["members"] == [], because


def test_without_the_setting_nothing_is_kept() -> None:
    assert ingested([], [event(notice("add", BOTH))])["members"] == []


def test_a_notice_counts_however_late_it_comes_though_it_makes_no_message() -> None:
    found = ingested([], [event(notice("add", BOTH), t=NOW_S - 90_000)], members=True)
    assert found["messages"] == []
    assert [entry["at"] for entry in found["members"]] == [iso(NOW_S - 90_000)]


def test_a_notice_from_the_future_is_of_now() -> None:
    (entry,) = ingested([], [event(notice("add", BOTH), t=NOW_S + 900_000)], members=True)["members"]
    assert entry["at"] == iso(NOW_S)


def listed(*members: dict[str, Any], size: int | None = None, **more: Any) -> Any:
    fields: dict[str, Any] = {"id": GROUP, "subject": "", "addressing_mode": "lid", "admins": [], **more}
    made = [Member(**member) for member in members]
    return told_by_list(Group(**fields, size=len(members) if size is None else size, members=made), NOW_MS, OWN)


def member(id_: str, also: str | None = None, role: str = "member") -> dict[str, Any]:
    return {"id": id_, "also": also, "role": role}


def test_a_list_gives_everybody_a_role_at_a_time_before_it_was_asked_for() -> None:
    entry = listed(member(ANA_PHONE, ANA, "admin"), member(BEN), US)
    assert entry == {
        "wa_group_id": GROUP,
        "at": iso(NOW_S - LIST_MARGIN_S),
        "what": "list",
        "members": [
            {"member": ANA, "role": "admin"},
            {"member": BEN, "role": "member"},
            {"member": "2001@lid", "role": "member"},
        ],
        "complete": True,
    }


@pytest.mark.parametrize(
    ("people", "size", "whole", "because"),
    [
        ([member(ANA), US], 2, True, "as many as the group has, and ourselves"),
        ([member(ANA), member(OWN[1])], 2, True, "we are named by our number"),
        ([member(ANA), US], 3, False, "WhatsApp says that there are more"),
        ([member(ANA), US], 1, False, "WhatsApp says that there are fewer"),
        ([member(ANA), member(BEN)], 2, False, "we are not in it, though we are in the group"),
        ([member(ANA), member(ANA), US], 3, False, "one is named twice, so that somebody is missing"),
        ([member(ANA), member("?"), US], 3, False, "one cannot be read"),
    ],
)
def test_a_list_closes_others_only_if_it_proves_to_be_whole(
    people: list[dict[str, Any]], size: int, whole: bool, because: str
) -> None:
    assert listed(*people, size=size)["complete"] is whole, because


def test_an_empty_list_and_one_that_was_not_asked_for_say_nothing() -> None:
    assert listed() is None
    group = Group(id=GROUP, subject="", addressing_mode=None, size=3, admins=[])
    assert told_by_list(group, NOW_MS, OWN) is None

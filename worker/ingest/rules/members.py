"""Group members, from notices and from discovery's lists, as entries for `wa.write_members`. Pure.

Sends no queries. Only with WORKER_GROUP_MEMBERS, and only for groups that are switched on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from worker.bridge.protocol import Group, Notice, NoticeEvent
from worker.ingest.rules.jids import Person, canonical, parse_jid
from worker.ingest.rules.live import clock_at, iso, sent_at
from worker.ingest.rules.normalise import Rules

Entry = dict[str, Any]
What = Literal["joined", "left", "role"]

# Tag of a notice → what it says, and the role that it gives. A new group (`create`) is not switched on, so no entry.
_TOLD: dict[str, tuple[What, str | None]] = {
    "add": ("joined", "member"),
    "remove": ("left", None),
    "leave": ("left", None),
    "promote": ("role", "admin"),
    "demote": ("role", "member"),
}
# A notice has the server's time, a list only our estimate of it: a notice from about the same time takes precedence.
LIST_MARGIN_S = 5


def told_by_notices(event: NoticeEvent, received_at_ms: float, rules: Rules) -> list[Entry]:
    """An entry for each child about joins, leaves or roles. However old: membership is a state."""
    chat = parse_jid(event.key.get("remoteJid"))
    clock = clock_at(received_at_ms, None)
    if not rules.members or chat is None or str(chat) not in rules.monitored or clock is None:
        return []
    at = iso(sent_at(event.t, clock))
    entries = []
    for notice in event.notices:
        what, role = _TOLD.get(notice.tag, (None, None))
        members = [{"member": person.sender, "role": role} for person in _people(notice, rules)] if what else []
        if members:
            entries.append({"wa_group_id": str(chat), "at": at, "what": what, "members": members})
    return entries


def _people(notice: Notice, rules: Rules) -> list[Person]:
    named = (
        canonical(child.attrs.get("jid"), child.attrs.get("phone_number") or child.attrs.get("lid"), rules.lids)
        for child in notice.children
        if child.tag == "participant"
    )
    return list({person.sender: person for person in named if person is not None}.values())


def told_by_list(group: Group, asked_at_ms: float, own: Collection[str | None]) -> Entry | None:
    """The entry of a group's list; None without one.

    `complete` means that members missing from the list have left. Set only if the list is provably whole: it is as long
    as the size that WhatsApp states, and contains the account itself.
    """
    clock = clock_at(asked_at_ms, None)
    if not group.members or clock is None:
        return None
    people = [(canonical(member.id, member.also), member.role) for member in group.members]
    members = [{"member": person.sender, "role": role} for person, role in people if person is not None]
    ours = {str(jid) for jid in map(parse_jid, own) if jid is not None}
    named = {person.sender for person, _ in people if person} | {person.alt for person, _ in people if person}
    whole = len({member["member"] for member in members}) == group.size and not ours.isdisjoint(named)
    at = iso(clock - LIST_MARGIN_S)
    return {"wa_group_id": group.id, "at": at, "what": "list", "members": members, "complete": whole}

"""JIDs: WhatsApp's addresses, and which one stands for a person.

Owns parsing, the forms that mean the same, and the rule of the canonical sender. Knows no network and no table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

GROUP_SERVER = "g.us"
MOVED = ""  # in place of the LID of a number that has passed from one person to another
PHONE_SERVER = "s.whatsapp.net"
LID_SERVER = "lid"

# Forms of one person: `c.us` is the old name, `hosted…` the same account on Meta's own servers
# (docs/whatsapp.md, "Who sent it").
_SAME_SERVER = {"c.us": PHONE_SERVER, "hosted": PHONE_SERVER, "hosted.lid": LID_SERVER}
# user, perhaps `_agent`, perhaps `:device`; lengths are far above WhatsApp's, far below an index's limit
_JID = re.compile(
    r"(?P<user>[0-9A-Za-z.+-]{1,64})(?:_[0-9]{1,3})?(?::[0-9]{1,5})?@(?P<server>[a-z][a-z.]{0,31})", re.ASCII
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Jid:
    """A user or a chat, without a device."""

    user: str
    server: str

    def __str__(self) -> str:
        return f"{self.user}@{self.server}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Who sent something: the canonical form, and the other one where it is known."""

    sender: str
    alt: str | None


def parse_jid(value: object) -> Jid | None:
    """The JID without its device, in the form that stands for all equal ones; None if it is none."""
    match = _JID.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    server = match["server"]
    return Jid(user=match["user"], server=_SAME_SERVER.get(server, server))


def is_group(value: object) -> bool:
    """Whether this is a group's address."""
    jid = parse_jid(value)
    return jid is not None and jid.server == GROUP_SERVER


def canonical(first: object, second: object = None, lids: Mapping[str, str] | None = None) -> Person | None:
    """One person from the one or two addresses that a stanza carries, in any order.

    The LID where it is known (from the stanza or from `lids`, phone number → LID or `MOVED`), else the phone number,
    else whatever user address there is (a bot). Never the push name, which anybody may choose. None if neither is a
    person's address.
    """
    jids = [jid for jid in (parse_jid(first), parse_jid(second)) if jid is not None and jid.server != GROUP_SERVER]
    lid = next((str(jid) for jid in jids if jid.server == LID_SERVER), None)
    phone = next((str(jid) for jid in jids if jid.server == PHONE_SERVER), None)
    if lid is None and phone is not None and lids:
        lid = lids.get(phone) or None
    if lid is not None:
        return Person(sender=lid, alt=phone)
    if phone is not None:
        return Person(sender=phone, alt=None)
    return Person(sender=str(jids[0]), alt=None) if jids else None

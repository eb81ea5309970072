"""JIDs: WhatsApp's addresses, and which one identifies a person.

Owns parsing, equivalent forms, and the rule for the canonical sender. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

GROUP_SERVER = "g.us"
MOVED = ""  # instead of a LID, for a number that passed from one person to another
PHONE_SERVER = "s.whatsapp.net"
LID_SERVER = "lid"

# Forms of one person: `c.us` is the old name, `hosted…` the same account on Meta's servers
# (docs/whatsapp.md, "Who sent it").
_SAME_SERVER = {"c.us": PHONE_SERVER, "hosted": PHONE_SERVER, "hosted.lid": LID_SERVER}
# user, optional `_agent`, optional `:device`. Lengths are far above WhatsApp's and far below an index's limit
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
    """A sender: the canonical address, and the other one if known."""

    sender: str
    alt: str | None


def parse_jid(value: object) -> Jid | None:
    """The JID without its device, in its normal form; None if it is not a JID."""
    match = _JID.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    server = match["server"]
    return Jid(user=match["user"], server=_SAME_SERVER.get(server, server))


def canonical(first: object, second: object = None, lids: Mapping[str, str] | None = None) -> Person | None:
    """The person behind the one or two addresses of a stanza, in any order.

    Prefers the LID (from the stanza or from `lids`: phone number → LID or `MOVED`), then the phone number, then any
    other user address (a bot). Never the push name, which anybody can choose. None if neither is a person's address.
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

"""What a message says about other messages and people: quote, mentions, forwarding, album, rendition, secret.

Read from the content's `contextInfo` and the `messageContextInfo` beside it. Everything is the sender's claim:
addresses are canonicalised, numbers bounded, unparsable values dropped.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.ingest.rules.classify import unwrap
from worker.ingest.rules.jids import PHONE_SERVER, canonical, parse_jid
from worker.text import bounded_id

Json = Mapping[str, Any]

MAX_MENTIONS = 100  # kept by name; more are only counted. Each takes up to 100 bytes, in the row and in an index
MAX_MENTION_COUNT = 100_000
MAX_FORWARD_SCORE = 1_000_000  # WhatsApp shows "forwarded many times" from 5, and sends 127
SECRET_BYTES = 32
MAX_EXPIRATION_S = 366 * 86_400  # WhatsApp offers a day, a week and 90 days
MEDIA_ALBUM = "album"
# Associations that link a file to another message, by name and number of `AssociationType`.
ASSOCIATIONS: Mapping[object, str] = {
    "MEDIA_ALBUM": MEDIA_ALBUM, 1: MEDIA_ALBUM,
    "HD_VIDEO_DUAL_UPLOAD": "hd", 5: "hd",
    "HD_IMAGE_DUAL_UPLOAD": "hd", 10: "hd",
    "HEVC_VIDEO_DUAL_UPLOAD": "hevc", 19: "hevc",
    "MOTION_PHOTO": "motion", 12: "motion",
}  # fmt: skip
# Fields with keys of other messages, whose participants may be known only by number.
_TARGETS = ("key", "targetMessageKey", "pollCreationMessageKey")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Another message of the same chat: its canonical sender and its id."""

    sender: str
    wa_msg_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What surrounds a content.

    Attributes:
        mentions: canonical, each once, at most `MAX_MENTIONS`. `mention_count`: how many there were.
        rendition: how it relates to `rendition_of`: a better copy (`hd`), another codec (`hevc`), its film (`motion`).
        expires_after_s: seconds after which the message disappears from phones; 0: it does not.
    """

    quoted: Reference | None = None
    mentions: tuple[str, ...] = ()
    mention_count: int = 0
    forwarded: bool = False
    forward_score: int = 0
    album: Reference | None = None
    rendition: str | None = None
    rendition_of: Reference | None = None
    expires_after_s: int = 0
    secret: str | None = field(default=None, repr=False)

    def columns(self) -> dict[str, Any]:
        """The columns of `messages` taken from the context. Links to other messages are also sent as changes."""
        return {
            "quoted_msg_id": self.quoted.wa_msg_id if self.quoted else None,
            "quoted_sender": self.quoted.sender if self.quoted else None,
            "mentions": list(self.mentions) or None,
            "mention_count": self.mention_count,
            "forwarded": self.forwarded,
            "forward_score": self.forward_score,
            "rendition": self.rendition,
            "secret": self.secret,
        }


def read_context(message: Json, author: str, lids: Mapping[str, str]) -> Context:
    """The context of a message that `author` (canonical) wrote; `lids`: phone number → LID."""
    info = _info(message)
    beside = list(_beside(message))
    mentions = _list(info.get("mentionedJid"))
    found = (canonical(jid, None, lids) for jid in mentions[: MAX_MENTIONS * 4])
    names = dict.fromkeys(person.sender for person in found if person is not None)
    tie, parent = _association(beside, author, lids)
    score = _whole(info.get("forwardingScore"), MAX_FORWARD_SCORE)
    return Context(
        quoted=reference(info.get("stanzaId"), info.get("participant"), None, lids),
        mentions=tuple(names)[:MAX_MENTIONS],
        mention_count=min(len(mentions), MAX_MENTION_COUNT),
        forwarded=info.get("isForwarded") is True or score > 0,
        forward_score=score,
        album=parent if tie == MEDIA_ALBUM else None,
        rendition=tie if parent and tie != MEDIA_ALBUM else None,
        rendition_of=parent if tie != MEDIA_ALBUM else None,
        expires_after_s=_whole(info.get("expiration"), MAX_EXPIRATION_S),
        secret=next((secret for each in beside if (secret := _secret(each.get("messageSecret")))), None),
    )


def reference(
    wa_msg_id: object, participant: object, otherwise: str | None, lids: Mapping[str, str]
) -> Reference | None:
    """A message by its sender's address and id; without an address, the sender is `otherwise`, if given."""
    if not isinstance(wa_msg_id, str) or not wa_msg_id:
        return None
    person = canonical(participant, None, lids)
    sender = otherwise if person is None else person.sender
    return None if sender is None else Reference(sender=sender, wa_msg_id=bounded_id(wa_msg_id))


def numbers_in(message: Json) -> Iterator[str]:
    """Every phone number that this message names: to be looked up before reading it."""
    field, inner, _ = unwrap(message)
    info = _info(message)
    named = [info.get("participant"), *_list(info.get("mentionedJid"))[: MAX_MENTIONS * 4]]
    body = inner.get(field) if field else None
    keys = [body.get(name) for name in _TARGETS] if isinstance(body, Mapping) else []
    keys += [_at(beside, "messageAssociation", "parentMessageKey") for beside in _beside(message)]
    named += [key.get("participant") for key in keys if isinstance(key, Mapping)]
    for address in named:
        jid = parse_jid(address)
        if jid is not None and jid.server == PHONE_SERVER:
            yield str(jid)


def _info(message: Json) -> Json:
    field, inner, _ = unwrap(message)
    info = _at(inner, field, "contextInfo") if field else None
    return info if isinstance(info, Mapping) else {}


def _beside(message: Json) -> Iterator[Json]:
    """The `messageContextInfo` of the message and of those it wraps; innermost first: it is the content's own."""
    _, inner, _ = unwrap(message)
    for each in (inner, message):
        info = each.get("messageContextInfo")
        if isinstance(info, Mapping):
            yield info


def _association(beside: list[Json], author: str, lids: Mapping[str, str]) -> tuple[str | None, Reference | None]:
    """How this file belongs to another message, and to which."""
    for each in beside:
        association = each.get("messageAssociation")
        if not isinstance(association, Mapping):
            continue
        kind, key = association.get("associationType"), association.get("parentMessageKey")
        tie = ASSOCIATIONS.get(kind) if isinstance(kind, str | int) else None
        if tie and isinstance(key, Mapping):
            participant = None if key.get("fromMe") is True else key.get("participant")
            return tie, reference(key.get("id"), participant, author, lids)
    return None, None


def _secret(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > 2 * SECRET_BYTES:
        return None
    try:
        secret = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(secret).decode() if len(secret) == SECRET_BYTES else None


def _whole(value: object, most: int) -> int:
    return min(value, most) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(value: object, *names: str) -> object:
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value

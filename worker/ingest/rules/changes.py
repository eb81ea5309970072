"""Messages about messages: edits, revokes, reactions; and links: quotes, album children, renditions.

None of these is its own row of `messages`. The commit function applies each to its target, or holds it until the
target arrives. This module only reads what is meant, by whom and when. What cannot be read as a change stays a row.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from worker.ingest.rules.classify import unwrap
from worker.ingest.rules.context import Reference, reference
from worker.ingest.rules.live import FUTURE_TOLERANCE_S, iso
from worker.ingest.rules.normalise import MessageRow, Rules
from worker.text import clean_text

Json = Mapping[str, Any]
Kind = Literal["edit", "sealed_edit", "revoke", "reaction", "quote", "album", "rendition"]

MAX_EMOJI_CHARS = 64  # the longest family emoji has about 30
MAX_ENCRYPTED_BYTES = 256 * 1024  # WhatsApp's longest text is 65,536 characters
IV_BYTES = 12
MESSAGE_EDIT, EVENT_EDIT = ("MESSAGE_EDIT", 2), ("EVENT_EDIT", 1)
EDIT_BY_ADMIN = "8"  # the stanza's `edit`; 7 means by the sender (docs/whatsapp.md, "The real server in 2026")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change, in the commit function's form.

    Attributes:
        author: who makes the change (canonical). `change_id`: the id of the message that carries it.
        late: it only replaces its stub (see `MessageRow`).
        at: by the author's clock where WhatsApp sends it (edits, reactions), else the server's. The latest edit, each
            person's latest reaction and the earliest revoke win.
    """

    kind: Kind
    chat_id: str
    target_sender: str
    target_id: str
    author: str
    change_id: str
    at: str
    late: bool = False

    @property
    def payload(self) -> dict[str, Any]:
        return {}

    def as_json(self) -> dict[str, Any]:
        fields = ("kind", "chat_id", "target_sender", "target_id", "author", "change_id", "at", "payload")
        return {name: getattr(self, name) for name in fields} | ({"late": True} if self.late else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit(Change):
    text: str

    @property
    def payload(self) -> dict[str, Any]:
        return {"text": self.text}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncryptedEdit(Change):
    """An edit that only the original's secret decrypts. With `use`: content that completes its own row (e.g. a vote).

    `forms`: addresses of the author. `event`: it edits an event.
    """

    ciphertext: str
    iv: str
    forms: tuple[str, ...]
    use: str | None = None
    event: bool = False

    @property
    def payload(self) -> dict[str, Any]:
        sealed: dict[str, Any] = {"ciphertext": self.ciphertext, "iv": self.iv, "forms": list(self.forms)}
        sealed |= {"event": True} if self.event else {}
        return sealed if self.use is None else sealed | {"use": self.use}


@dataclass(frozen=True, kw_only=True, slots=True)
class Revoke(Change):
    """`blank`: remove the message's content (WORKER_REVOKE). `by_admin`: as the revoking client claims."""

    blank: bool
    by_admin: bool

    @property
    def payload(self) -> dict[str, Any]:
        return {"blank": self.blank, "by_admin": self.by_admin}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaction(Change):
    """`emoji` empty: the reaction is removed."""

    emoji: str

    @property
    def payload(self) -> dict[str, Any]:
        return {"emoji": self.emoji}


def change_of(row: MessageRow, message: Json, rules: Rules) -> Change | None:
    """The change behind a row of kind edit, revoke or reaction; None if it cannot be read as one."""
    field, inner, _ = unwrap(message)
    if row.kind not in ("edit", "revoke", "reaction") or field is None:
        return None
    body = inner[field]
    key = body.get("targetMessageKey") if field == "secretEncryptedMessage" else body.get("key")
    target = _target(key, row, rules)
    if target is None:
        return None
    named: dict[str, Any] = {
        "chat_id": row.chat_id,
        "target_sender": target.sender,
        "target_id": target.wa_msg_id,
        "author": row.sender,
        "change_id": row.wa_msg_id,
        "late": row.late,
    }
    match row.kind, field:
        case "edit", "protocolMessage" if row.text is not None:
            return Edit(kind="edit", at=_at(body.get("timestampMs"), row), text=row.text, **named)
        case "edit", "secretEncryptedMessage":
            return _encrypted(body, row, named)
        case "revoke", "protocolMessage":
            return Revoke(
                kind="revoke", at=row.ts, blank=rules.blank_revoked, by_admin=_claims_to_be_admin(row), **named
            )
        case "reaction", "reactionMessage":
            emoji = clean_text(row.text or "")[:MAX_EMOJI_CHARS]
            return Reaction(kind="reaction", at=_at(body.get("senderTimestampMs"), row), emoji=emoji, **named)
        case _:
            return None


def links_of(row: MessageRow) -> Iterator[Change]:
    """Links from this row to others: quoted message, album, original of a rendition, poll of a vote."""
    kinds: tuple[tuple[Kind, Reference | None], ...] = (
        ("quote", row.quoted), ("album", row.album), ("rendition", row.rendition_of),
    )  # fmt: skip
    for kind, target in kinds:
        if target is not None:
            yield Change(
                kind=kind,
                chat_id=row.chat_id,
                target_sender=target.sender,
                target_id=target.wa_msg_id,
                author=row.sender,
                change_id=row.wa_msg_id,
                at=row.ts,
            )
    sealed, about = row.sealed, row.target
    if sealed is None or about is None or about.sender is None:
        return
    named = {"chat_id": row.chat_id, "target_sender": about.sender, "target_id": about.wa_msg_id}
    named |= {"author": row.sender, "change_id": row.wa_msg_id}
    if (change := _sealed(sealed.payload, sealed.iv, row, named, sealed.use)) is not None:
        yield change


def _claims_to_be_admin(row: MessageRow) -> bool:
    """Judged by the stanza's `edit` attribute, which resends from the owner's phone lack."""
    return bool(row.raw.get("resend")) or row.raw.get("attrs", {}).get("edit") == EDIT_BY_ADMIN


def _target(key: object, row: MessageRow, rules: Rules) -> Reference | None:
    """The target. It is the writer's own message if the writer says `fromMe` or names nobody, as in Baileys."""
    if not isinstance(key, Mapping):
        return None
    participant = None if key.get("fromMe") is True else key.get("participant")
    return reference(key.get("id"), participant, row.sender, rules.lids)


def _encrypted(body: Json, row: MessageRow, named: dict[str, Any]) -> EncryptedEdit | None:
    event = body.get("secretEncType") in EVENT_EDIT
    if not event and body.get("secretEncType") not in MESSAGE_EDIT:
        return None
    return _sealed(body.get("encPayload"), body.get("encIv"), row, named, event=event)


def _sealed(
    payload: object, iv: object, row: MessageRow, named: dict[str, Any], use: str | None = None, event: bool = False
) -> EncryptedEdit | None:
    ciphertext, nonce = _bytes(payload, MAX_ENCRYPTED_BYTES), _bytes(iv, IV_BYTES)
    if ciphertext is None or nonce is None or len(nonce) != IV_BYTES:
        return None
    return EncryptedEdit(
        kind="sealed_edit",
        at=row.ts,
        ciphertext=base64.b64encode(ciphertext).decode(),
        iv=base64.b64encode(nonce).decode(),
        forms=tuple(dict.fromkeys(form for form in (row.sender, row.sender_alt) if form)),
        use=use,
        event=event,
        **named,
    )


def _at(milliseconds: object, row: MessageRow) -> str:
    """The author's time; the server's if it is missing, impossible or in the future."""
    stamp = millisecond_time(milliseconds, datetime.fromisoformat(row.received_at).timestamp())
    return row.ts if stamp is None else stamp


def millisecond_time(value: object, clock_s: float) -> str | None:
    """A WAProto `timestampMs` as ISO 8601; None if invalid, or later than `clock_s` allows."""
    if isinstance(value, str) and len(value) <= 15 and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return iso(value / 1000) if 0 < value <= (clock_s + FUTURE_TOLERANCE_S) * 1000 else None


def _bytes(value: object, most: int) -> bytes | None:
    if not isinstance(value, str) or len(value) > most * 2:
        return None
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if 0 < len(decoded) <= most else None

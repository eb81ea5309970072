"""Arguments and answers of the SQL functions. Plain values, no I/O.

64-bit integers are strings on the wire (the embedded Supabase passes JSON numbers through JavaScript), and ints here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal

Json = Mapping[str, Any]


def known(shape: type[Any], row: Json) -> dict[str, Any]:
    """The fields of `row` that `shape` has. A newer schema may return more than an older worker knows.

    Raises:
        KeyError: `row` lacks a required field (`UnexpectedAnswer` if `row` is the database's answer).
    """
    return {f.name: row[f.name] for f in fields(shape) if f.name in row or not _has_default(f)}


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The answer to an attempt to take a session's lease. `fence` is ours only if `acquired`."""

    acquired: bool
    fence: int
    epoch: int
    holder: str
    expires_at: datetime
    now: datetime


@dataclass(frozen=True, kw_only=True)
class AccountState:
    """The committed credentials, or None. `has_keys` without credentials means torn state."""

    creds: str | None
    has_keys: bool


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A stanza that sidecars were decrypting when they ended: `deaths` by themselves, `kills` by an outside signal."""

    hash: str
    deaths: int
    kills: int


@dataclass(frozen=True, kw_only=True)
class KeyChange:
    """One Signal key: its new value, or None to delete it."""

    type: str
    id: str
    value: str | None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One entry of the audit log."""

    event: str
    payload: Json = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A message or a change that could not be stored. Only monitored chats have a `body`.

    `item`: "message" or "change". `state`: "refused" (final), "waiting" (retried later) or "undecrypted" (the whole
    stanza of a message that was not decrypted).
    """

    code: str
    reason: str
    item: str = "message"
    state: str = "refused"
    chat_id: str | None = None
    sender: str | None = None
    wa_msg_id: str | None = None
    body: str | None = None
    encoding: str = "json"  # or "base64"
    sent_at: str | None = None  # ISO

    @classmethod
    def keeping(cls, text: str, **columns: Any) -> Refused:
        """A `Refused` with `text` as its body, in a form that every gateway and JSON parser accepts."""
        return cls(body=base64.b64encode(text.encode("utf-8", "surrogatepass")).decode(), encoding="base64", **columns)


@dataclass(frozen=True, kw_only=True)
class GroupChange:
    """A group that exists (`name` None: unchanged), or that the account left.

    `admins`: every known address of each admin; None: not given. `promoted` and `demoted` apply after it.
    """

    wa_group_id: str
    name: str | None = None
    left: bool = False
    admins: tuple[str, ...] | None = None
    promoted: tuple[str, ...] = ()
    demoted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything that one commit makes durable, or a part of that.

    Attributes:
        messages: rows for `public.messages` as `MessageRow.as_json` makes them (docs/schema.md, `wa_commit`).
        changes: edits, revokes, reactions and links (`worker.ingest.rules.changes`): kind, chat_id, target_sender,
            target_id, author, change_id, at, payload.
        identities: pairs of LID and number.
        hashes: hex sha256 of ciphertexts.
        discards: counts by reason.
        unread: by reason, hashed names of discards, which are not counted a second time.
        digest: identifies the items under this number; the same in all parts of a batch.
        opaque: items of a part as base64, which no gateway can read.
        dropped: times of messages that came too late (`worker.ingest.rules.dropped`).
        members: joins, leaves and roles in groups (`worker.ingest.rules.members`).
    """

    fence: int
    epoch: int
    seq: int
    creds: str | None = None
    keys: Sequence[KeyChange] = ()
    messages: Sequence[Json] = ()
    changes: Sequence[Json] = ()
    hashes: Sequence[str] = ()
    audits: Sequence[Audit] = ()
    identities: Sequence[tuple[str, str]] = ()
    groups: Sequence[GroupChange] = ()
    refused: Sequence[Refused] = ()
    discards: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, Sequence[str]] = field(default_factory=dict)
    digest: str | None = None
    opaque: Sequence[Refused] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    members: Sequence[Json] = ()

    @property
    def number(self) -> dict[str, Any]:
        """The fields that identify the batch in arguments of SQL functions."""
        return {"fence": str(self.fence), "epoch": str(self.epoch), "seq": str(self.seq), "digest": self.digest}

    def as_document(self) -> dict[str, Any]:
        """The batch in the form of `wa_commit`, or the part in the form of `wa_commit_part`."""
        return self.number | {
            "creds": self.creds,
            "keys": [asdict(key) for key in self.keys],
            "messages": [dict(message) for message in self.messages],
            "changes": [dict(change) for change in self.changes],
            "hashes": list(self.hashes),
            "audits": [{"event": a.event, "payload": dict(a.payload)} for a in self.audits],
            "identities": [{"lid": lid, "pn": pn} for lid, pn in self.identities],
            "groups": [asdict(group) for group in self.groups],
            "refused": [asdict(refused) for refused in self.refused],
            "discards": dict(self.discards),
            "unread": {reason: list(names) for reason, names in self.unread.items()},
            "opaque": [asdict(item) for item in self.opaque],
            "dropped": [dict(times) for times in self.dropped],
            "members": [dict(entry) for entry in self.members],
        }


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """A part of a batch that is sent in pieces. `document`: its name. `last`: it ends the batch."""

    batch: Batch
    document: str
    pieces: int
    last: bool

    def as_document(self) -> dict[str, Any]:
        return self.batch.number | {"document": self.document, "pieces": self.pieces, "last": self.last}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece, in base64. `piece` counts from 0."""

    batch: Batch
    document: str
    piece: int
    body: str

    def as_document(self) -> dict[str, Any]:
        return self.batch.number | {"document": self.document, "piece": self.piece, "body": self.body}


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The batch `seq` is durable.

    Attributes:
        duplicate: it was already durable; nothing was written now.
        stored: new rows.
        upgraded: stubs that got their content.
        duplicates: copies that changed nothing.
        skipped: messages of chats that are not monitored.
        jobs: new media jobs.
        refused: messages and changes that Postgres refused, now in `wa_refused_stanzas`.
        waiting: messages and changes to retry later, now in `wa_refused_stanzas`.
        changed: edits, revokes, reactions and links applied, from this or earlier batches.
        held: changes that wait for their target.
        sealed: not 0 if an encrypted edit waits to be decrypted (`Store.encrypted_edits`).
    """

    seq: int
    duplicate: bool
    stored: int = 0
    upgraded: int = 0
    duplicates: int = 0
    skipped: int = 0
    jobs: int = 0
    refused: int = 0
    waiting: int = 0
    changed: int = 0
    held: int = 0
    sealed: int = 0


@dataclass(frozen=True, kw_only=True)
class EncryptedEdit:
    """An encrypted edit whose target is stored, the target's secret (base64), and the forms of its sender's address."""

    id: int
    target_id: str
    payload: Json
    secret: str
    sender: str
    sender_alt: str | None
    options: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class OpenedEdit:
    """A decrypted edit. `at`: ISO 8601; None: the envelope's time. `unreadable`: it cannot be decrypted, ever."""

    id: int
    text: str | None = None
    content: Json | None = None
    at: str | None = None
    unreadable: bool = False


@dataclass(frozen=True, kw_only=True)
class GroupsUpserted:
    """What discovery changed: groups in the list, new, renamed, and left by the account."""

    count: int
    added: int
    renamed: int
    left: int


@dataclass(frozen=True, kw_only=True)
class Flag:
    """An unhandled request of the web app.

    Attributes:
        at: None if the value has no time (`malformed`).
        at_text: passed back to `flag_handled` unchanged.
        phone: number of a pairing code request, as written.
        given: other fields of a passkey flag as JSON text; None if too long. May be a passkey's answer: never log it.
    """

    key: str
    at: datetime | None
    at_text: str | None
    age_seconds: float | None
    phone: str | None = None
    given: str | None = field(default=None, repr=False)

    @property
    def malformed(self) -> bool:
        return self.at is None


@dataclass(frozen=True, kw_only=True)
class MediaJob:
    """A claimed download. `attempts` includes this one. `descriptor`: as committed.

    `wants_phone`: a process without a phone found the file expired, and left the job to one that has the phone.
    """

    id: int
    session_id: str
    wa_msg_id: str
    chat_id: str
    sender: str
    sender_alt: str | None
    from_me: bool
    kind: str
    file_name: str | None
    attempts: int
    descriptor: Json
    last_error: str | None
    created_at: datetime
    wants_phone: bool = False

    @property
    def last_code(self) -> str | None:
        """The code at the start of `last_error`."""
        return self.last_error.partition(":")[0] if self.last_error else None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Claimed jobs. `next_in_seconds`: until another one is due (0 or less: now); None: there is none."""

    jobs: tuple[MediaJob, ...]
    next_in_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """An object in the bucket. The last two hashes (hex) let a later forward skip its download."""

    sha256: str
    mime: str
    bytes: int
    storage_path: str
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    file_enc_sha256: str | None = None
    media_key_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class MediaLinked:
    """The message is linked to its media. `gone`: the job had already ended, or its message was deleted.

    `reused`: the row existed before; if the job is gone, the row names another object with this content.
    """

    media_id: int | None
    reused: bool
    gone: bool


ExpireMode = Literal["blank", "delete"]


@dataclass(frozen=True, kw_only=True)
class Expired:
    """How many messages disappeared. `more`: others may be due."""

    expired: int
    more: bool


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Rows deleted for their age. `more`: another call would delete more."""

    stanzas: int
    audits: int
    changes: int
    secrets: int
    more: bool

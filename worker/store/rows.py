"""Arguments and answers of the SQL functions: plain values, no I/O.

64-bit integers travel as strings (the embedded Supabase passes JSON numbers through JavaScript); here they are ints.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal

Json = Mapping[str, Any]


def known(shape: type[Any], row: Json) -> dict[str, Any]:
    """The fields of `row` that `shape` has. A newer schema may answer more than an older worker knows.

    Raises:
        KeyError: `row` lacks a field that has no default (`UnexpectedAnswer` for an answer of the database).
    """
    return {f.name: row[f.name] for f in fields(shape) if f.name in row or not _has_default(f)}


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The answer to an attempt to take or renew a session's lease; `fence` is ours only if `acquired`."""

    acquired: bool
    fence: int
    epoch: int
    holder: str
    expires_at: datetime
    now: datetime


@dataclass(frozen=True, kw_only=True)
class AccountState:
    """The credentials as they were committed, or None; `has_keys` without credentials means torn state."""

    creds: str | None
    has_keys: bool


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A stanza in whose decryption sidecars ended: `deaths` by themselves, `kills` by a signal from outside."""

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
    """A message or a change that could not be stored. `body` is kept only for a monitored chat.

    `item`: "message" or "change". `state`: "refused" (it would be refused again), "waiting" (tried again later) or
    "undecrypted" (the stanza of a message that was not decrypted).
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
        """With `text` as its body, in a form that passes every gateway and every JSON parser."""
        return cls(body=base64.b64encode(text.encode("utf-8", "surrogatepass")).decode(), encoding="base64", **columns)


@dataclass(frozen=True, kw_only=True)
class GroupChange:
    """A group that is there (`name` None: unchanged), or that the account left.

    `admins`: every known address of each admin, None: not told; then `promoted` come and `demoted` go.
    """

    wa_group_id: str
    name: str | None = None
    left: bool = False
    admins: tuple[str, ...] | None = None
    promoted: tuple[str, ...] = ()
    demoted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything that one commit makes durable, or a part of it.

    `messages` are rows for `public.messages` as `MessageRow.as_json` makes them (worker/ingest/rules/normalise.py;
    docs/schema.md, `wa_commit`). `changes` are what is said about messages
    (`worker.ingest.rules.changes`): kind, chat_id, target_sender, target_id, author, change_id, at, payload.
    `identities` are pairs of LID and number; `hashes` hex sha256 of ciphertexts; `discards` counts by reason;
    `unread` names those of them that are not counted if they were before, by reason, hex sha256.
    `digest` tells the items of one number from others; all parts of a batch have the same. `opaque`: items of a part
    as base64, which no gateway can read. `dropped`: times of what came too late (`worker.ingest.rules.dropped`).
    `members`: who joined a group, left it, or became what (`worker.ingest.rules.members`).
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
        """What names the batch in the arguments of the SQL functions."""
        return {"fence": str(self.fence), "epoch": str(self.epoch), "seq": str(self.seq), "digest": self.digest}

    def as_document(self) -> dict[str, Any]:
        """The batch as `wa_commit` wants it, or the part as `wa_commit_part` does."""
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
    """A part of a batch that travels in pieces; `document` names it. `last`: the part that ends the batch."""

    batch: Batch
    document: str
    pieces: int
    last: bool

    def as_document(self) -> dict[str, Any]:
        return self.batch.number | {"document": self.document, "pieces": self.pieces, "last": self.last}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece, base64; `piece` counts from 0."""

    batch: Batch
    document: str
    piece: int
    body: str

    def as_document(self) -> dict[str, Any]:
        return self.batch.number | {"document": self.document, "piece": self.piece, "body": self.body}


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The batch `seq` is durable. `duplicate`: it was before, and nothing was written now.

    `stored` new rows, `upgraded` stubs that got their content, `duplicates` copies that changed nothing, `skipped`
    messages of chats that are not monitored, `jobs` media jobs made. `refused` messages and changes that Postgres would
    not take, `waiting` ones that are tried again later; both are listed in `wa_refused_stanzas`.
    `changed` edits, revokes, reactions and links applied, now or from earlier batches; `held` wait for their target;
    `sealed` says that an encrypted edit waits to be opened (`Store.encrypted_edits`).
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
    """An encrypted edit whose target is here: what opens it (base64), and the forms of the author's address."""

    id: int
    target_id: str
    payload: Json
    secret: str
    sender: str
    sender_alt: str | None
    options: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class OpenedEdit:
    """What came out of a sealed edit; `at` in ISO 8601, None: as the envelope said. `unreadable`: nothing ever will."""

    id: int
    text: str | None = None
    content: Json | None = None
    at: str | None = None
    unreadable: bool = False


@dataclass(frozen=True, kw_only=True)
class GroupsUpserted:
    """What discovery changed: groups in the list, new ones, renamed ones, and those that the account has left."""

    count: int
    added: int
    renamed: int
    left: int


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A request of the web app that was not handled yet.

    `at` is None if its value holds no time (`malformed`); `at_text` goes back to `flag_handled` unchanged. `phone` is
    what came with a request for a pairing code, as it was written; `given` all that came with a passkey's flag beside
    the time, as JSON text, None if that is too long. It may be the answer of a passkey: never logged.
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
    """A claimed download. `attempts` counts this one; `descriptor` is what the commit was given.

    `wants_phone`: a process without a phone found it expired, and left it to one that has it.
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
        """The code with which `last_error` begins."""
        return self.last_error.partition(":")[0] if self.last_error else None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Claimed jobs; `next_in_seconds`: when another one is due (0 or less: now), None if there is none."""

    jobs: tuple[MediaJob, ...]
    next_in_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """An object in the bucket. The two hashes at the end (hex) let a later forward skip its download."""

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
    """The message has its media. `gone`: the job had ended already, or its message went.

    `reused`: the row was there before; once the job is gone, the row names another object of this content.
    """

    media_id: int | None
    reused: bool
    gone: bool


ExpireMode = Literal["blank", "delete"]


@dataclass(frozen=True, kw_only=True)
class Expired:
    """How many messages disappeared; `more`: perhaps others are due."""

    expired: int
    more: bool


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Rows deleted for their age; `more` says that another call would delete others."""

    stanzas: int
    audits: int
    changes: int
    secrets: int
    more: bool

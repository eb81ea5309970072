"""Rows of the database, for Python that reads them. Made by `make types` from the database's catalogue.

Copy this file: it needs pydantic and nothing of the worker. Columns that it does not know are ignored. Those that may
be null, or that users (docs/users.md) may not read, may be missing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict

# The embedded Supabase writes an offset as +00, which pydantic does not read.
Time = Annotated[datetime, BeforeValidator(lambda at: datetime.fromisoformat(at) if isinstance(at, str) else at)]


class Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AuditEntry(Row):
    """A row of `audit_log`."""

    id: int
    at: Time
    session_id: str
    event: str
    payload: Any


class GroupMember(Row):
    """A row of `group_members`."""

    group_id: int
    member: str
    session_id: str
    role: str
    joined_at: Time | None = None
    left_at: Time | None = None
    as_of: Time


class Group(Row):
    """A row of `groups`."""

    id: int
    session_id: str
    wa_group_id: str
    name: str | None = None
    monitor: bool
    left_at: Time | None = None
    created_at: Time
    updated_at: Time
    admins: tuple[str, ...] | None = None


class Media(Row):
    """A row of `media`."""

    id: int
    sha256: str
    mime: str
    bytes: int
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    storage_path: str
    created_at: Time | None = None


class MessageChange(Row):
    """A row of `message_changes`."""

    message_id: int
    session_id: str
    change_id: int
    deleted: bool
    at: Time


class MessageEdit(Row):
    """A row of `message_edits`."""

    id: int
    session_id: str
    message_id: int
    edit_msg_id: str
    text: str | None = None
    at: Time


class MessageReaction(Row):
    """A row of `message_reactions`."""

    message_id: int
    sender: str
    session_id: str
    emoji: str | None = None
    at: Time
    wa_msg_id: str | None = None


class Message(Row):
    """A row of `messages`."""

    id: int
    session_id: str
    group_id: int
    wa_msg_id: str
    chat_id: str
    sender: str
    sender_alt: str | None = None
    push_name: str | None = None
    from_me: bool
    ts: Time
    received_at: Time
    kind: str
    text: str | None = None
    raw: Any | None = None
    file_name: str | None = None
    media_id: int | None = None
    media_status: str | None = None
    parent_id: int | None = None
    pending: bool
    lost_at: Time | None = None
    edited_at: Time | None = None
    revoked_at: Time | None = None
    edit_msg_id: str | None = None
    revoked_by: str | None = None
    blanked: bool
    quoted_msg_id: str | None = None
    quoted_sender: str | None = None
    quoted_id: int | None = None
    album_id: int | None = None
    mentions: tuple[str, ...] | None = None
    mention_count: int
    forwarded: bool
    forward_score: int
    revoke_claimed_at: Time | None = None
    content: Any | None = None
    expires_at: Time | None = None
    rendition: str | None = None
    rendition_of: int | None = None


class Person(Row):
    """A row of `people`."""

    session_id: str
    sender: str
    number: str | None = None
    push_name: str | None = None
    named_at: Time | None = None


class PollVote(Row):
    """A row of `poll_votes`."""

    session_id: str | None = None
    sender: str | None = None
    push_name: str | None = None
    at: Time | None = None
    poll_id: int | None = None
    choices: Any | None = None


class RuntimeFlag(Row):
    """A row of `runtime_flags`."""

    key: str
    value: Any
    handled_at: Time | None = None
    handled_value: Any | None = None
    session_id: str | None = None


class SessionMember(Row):
    """A row of `session_members`."""

    session_id: str
    user_id: UUID
    role: str
    groups: tuple[int, ...] | None = None
    created_at: Time


class Session(Row):
    """A row of `wa_sessions`."""

    id: str
    status: str
    detail: Any
    wa_name: str | None = None
    wa_number: str | None = None
    lease_expires_at: Time | None = None
    created_at: Time
    updated_at: Time
    complete_to: Time | None = None
    search_language: str
    wanted: bool
    settings: Any
    owner_id: UUID | None = None
    host_since: Time | None = None

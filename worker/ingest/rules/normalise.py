"""Turns one stanza into one row of `messages`, or into the reason for storing none.

Pure and total: no I/O, no clock, no exception whatever the sender wrote. Decides what is stored (monitored groups),
how old it may be (live only) and in what shape. The commit function does what must be atomic (parents, upgrades, jobs).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from worker.bridge.protocol import NoticeEvent, ResendEvent, Stanza, SystemEvent
from worker.ingest.rules import content as table
from worker.ingest.rules.classify import Content, Json, Sealed, classify
from worker.ingest.rules.context import Context, Reference, read_context
from worker.ingest.rules.descriptor import describe
from worker.ingest.rules.jids import Person, canonical, parse_jid
from worker.ingest.rules.live import LATEST_S, Arrival, LiveWindow, clock_at, is_live, iso, sent_at
from worker.ingest.rules.notices import notice_content
from worker.ingest.rules.raw import MAX_CONTENT_BYTES, prune
from worker.text import bounded_id, clean_name, message_text

Reason = Literal[
    "malformed", "not_a_group", "unmonitored", "too_old", "waited_too_long", "key_share", "history", "protocol",
]  # fmt: skip

MAX_FAILURE_CHARS = 300
META_AI = "Unknown e2e type: msmsg"  # as the sidecar reports it (sidecar-baileys/lib/baileys/stanza.js)
STUB_SENTENCES = {
    "GROUP_CHANGE_ICON": "The group's picture was changed.",
    "CALL_MISSED_VOICE": "A voice call was missed.",
    "CALL_MISSED_VIDEO": "A video call was missed.",
    "CALL_MISSED_GROUP_VOICE": "A group's voice call was missed.",
    "CALL_MISSED_GROUP_VIDEO": "A group's video call was missed.",
}
# Attributes of the stanza that have no column.
_KEPT_ATTRS = ("t", "type", "offline", "addressing_mode", "participant", "edit", "category", "verified_name")


@dataclass(frozen=True, kw_only=True, slots=True)
class Discard:
    """Nothing to store; the caller counts the reason. Has no content.

    `chat_id` and `sent_s` (Unix seconds): set for a message of a monitored group dropped only for its age.
    """

    reason: Reason
    chat_id: str | None = None
    sent_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaPart:
    """A message's file as the sender describes it. `descriptor`: for the media job; None: it cannot be fetched."""

    kind: str
    mime: str | None
    file_name: str | None
    width: int | None
    height: int | None
    duration_s: float | None
    descriptor: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The message that a reaction, an edit or a revoke is about.

    The id alone does not identify a message: senders choose ids (docs/whatsapp.md, "Shapes").
    """

    chat_id: str
    sender: str | None
    wa_msg_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageRow:
    """A row of `messages`, in the commit function's form. Times are UTC in ISO 8601.

    `late`: a good copy that is too old to be stored by itself. It only replaces its stub.
    """

    wa_msg_id: str
    chat_id: str
    sender: str
    sender_alt: str | None
    push_name: str | None
    from_me: bool
    ts: str
    received_at: str
    kind: str
    text: str | None
    raw: dict[str, Any]
    content: dict[str, Any] | None = None
    pending: bool = False
    media: MediaPart | None = None
    media_status: str | None = None
    target: Target | None = None
    late: bool = False
    expires_at: str | None = None
    context: Context = field(default_factory=Context)
    sealed: Sealed | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.chat_id, self.sender, self.wa_msg_id

    @property
    def quoted(self) -> Reference | None:
        return self.context.quoted

    @property
    def album(self) -> Reference | None:
        return self.context.album

    @property
    def rendition_of(self) -> Reference | None:
        return self.context.rendition_of

    def as_json(self) -> dict[str, Any]:
        """The row in `wa_commit`'s form. Shares `raw` and the descriptor with this row: do not modify them."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        columns["media"] = None if self.media is None else {name: getattr(self.media, name) for name in _MEDIA}
        columns["target"] = None if self.target is None else {name: getattr(self.target, name) for name in _TARGET}
        return columns | self.context.columns()


# Not `dataclasses.asdict`: its deep copy of `raw` took half the time of `ingest`.
_COLUMNS = tuple(each.name for each in fields(MessageRow) if each.name not in ("context", "sealed"))
_MEDIA = tuple(each.name for each in fields(MediaPart))
_TARGET = tuple(each.name for each in fields(Target))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What the normaliser must know about the session.

    Attributes:
        monitored: `groups.wa_group_id` of the groups to store.
        own: the account's own addresses, LID first: the author of a `fromMe` message that names none.
        lids: phone number → LID, as far as known; `MOVED` for a number that changed hands.
        blank_revoked: WORKER_REVOKE=blank.
        members: WORKER_GROUP_MEMBERS.
        first_arrival: a stanza's attributes → when it first arrived, by WhatsApp's clock; None if unknown.
    """

    monitored: Collection[str]
    window: LiveWindow = field(default_factory=LiveWindow)
    own: tuple[str | None, str | None] = (None, None)
    lids: Mapping[str, str] = field(default_factory=dict)
    blank_revoked: bool = False
    members: bool = False
    first_arrival: Callable[[Mapping[str, str]], float | None] = lambda attrs: None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Envelope:
    """Everything about a message except its content."""

    key: Json
    chat_id: str
    wa_msg_id: str
    person: Person
    from_me: bool
    push_name: str | None
    sent_s: float
    clock_s: float
    attrs: Mapping[str, str]
    late: bool = False


def normalise(stanza: Stanza, rules: Rules) -> MessageRow | Discard:
    """The row of one `<message>` stanza."""
    clock = clock_at(stanza.arrived_at_ms, stanza.server_time_offset_ms)
    if clock is None:
        return Discard(reason="malformed")
    offline, again = "offline" in stanza.attrs, stanza.retry_count > 0
    arrival = Arrival(clock_s=clock, offline=offline, again=again, first_s=rules.first_arrival(stanza.attrs))
    envelope = _open(stanza.key, stanza.attrs, arrival, rules)
    if isinstance(envelope, Discard):
        return envelope
    if stanza.unavailable == "view_once":
        return _row(envelope, Content(kind=table.VIEW_ONCE, withheld=True), {"unavailable": "view_once"}, rules)
    if stanza.failure == META_AI:
        return _meta_ai(envelope, rules)
    content = None if stanza.content is None else classify(stanza.content, len(stanza.hashes))
    if stanza.failure is not None or stanza.unavailable is not None or content is None:
        readable = isinstance(content, Content) and content.kind != table.UNKNOWN
        if not readable:
            if not stanza.wanted:  # the group was switched on only now: a stub would wait forever for a copy
                return Discard(reason="unmonitored")
            return Discard(reason="too_old") if envelope.late else _stub(envelope, stanza, rules)
    if isinstance(content, str):
        return Discard(reason=content)
    assert content is not None
    return _row(envelope, content, {"message": stanza.content}, rules)


def normalise_resend(event: ResendEvent, received_at_ms: float, rules: Rules) -> MessageRow | Discard:
    """The row of a message that the phone resent because we could not decrypt it."""
    clock = clock_at(received_at_ms, None)
    if clock is None:
        return Discard(reason="malformed")
    attrs = {"t": event.t, "notify": event.push_name or ""}
    envelope = _open(event.key, attrs, Arrival(clock_s=clock, again=True), rules)
    if isinstance(envelope, Discard):
        return envelope
    content = classify(event.content)
    if isinstance(content, str):
        return Discard(reason=content)
    return _row(envelope, content, {"message": event.content, "resend": True}, rules)


def normalise_notices(event: NoticeEvent, received_at_ms: float, rules: Rules) -> list[MessageRow | Discard]:
    """A row per child of a group notification; the first has the notification's id, the others a suffix."""
    clock = clock_at(received_at_ms, None)
    wa_msg_id = event.key.get("id")
    if clock is None or not event.notices or not isinstance(wa_msg_id, str):
        return [Discard(reason="malformed")]
    arrival = Arrival(clock_s=clock, offline=True)  # as for other events
    results: list[MessageRow | Discard] = []
    for place, notice in enumerate(event.notices):
        key = event.key if place == 0 else {**event.key, "id": f"{wa_msg_id}:{place}"}
        envelope = _open(key, {"t": event.t}, arrival, rules, author_may_be_group=True)
        if isinstance(envelope, Discard):
            results.append(envelope)
            continue
        content = notice_content(notice, event.key.get("participant"))
        results.append(_row(envelope, content, {"notice": notice.model_dump()}, rules))
    return results


def normalise_system(event: SystemEvent, received_at_ms: float, rules: Rules) -> MessageRow | Discard:
    """The row of an event that Baileys reports as a stub: a new group picture, a missed call."""
    clock = clock_at(received_at_ms, None)
    if clock is None:
        return Discard(reason="malformed")
    # Nothing says whether these waited offline, so they get the wider window.
    envelope = _open(event.key, {"t": event.t}, Arrival(clock_s=clock, offline=True), rules, author_may_be_group=True)
    if isinstance(envelope, Discard):
        return envelope
    kind = "call" if event.stub_type.startswith(("CALL", "SILENCED")) else table.SYSTEM
    payload = {"stub_type": event.stub_type, "stub_parameters": event.stub_parameters}
    text = STUB_SENTENCES.get(event.stub_type)
    return _row(envelope, Content(kind=kind, text=text, facts={"notice": event.stub_type.lower()}), payload, rules)


def _open(
    key: Json | None, attrs: Mapping[str, str], arrival: Arrival, rules: Rules, author_may_be_group: bool = False
) -> _Envelope | Discard:
    if key is None:
        return Discard(reason="malformed")
    chat = parse_jid(key.get("remoteJid"))
    if chat is None or chat.server != "g.us":
        return Discard(reason="not_a_group")
    if str(chat) not in rules.monitored:
        return Discard(reason="unmonitored")
    wa_msg_id = key.get("id")
    from_me = key.get("fromMe") is True
    person = canonical(key.get("participant"), key.get("participantAlt"), rules.lids)
    if person is None and from_me:
        person = canonical(*rules.own, rules.lids)
    if person is None and author_may_be_group:
        person = Person(sender=str(chat), alt=None)
    if person is None or not isinstance(wa_msg_id, str) or not wa_msg_id:
        return Discard(reason="malformed")
    sent = sent_at(attrs.get("t"), arrival.clock_s)
    late = not is_live(sent, arrival, rules.window)
    if late and not arrival.again:
        return Discard(reason="waited_too_long" if arrival.offline else "too_old", chat_id=str(chat), sent_s=sent)
    return _Envelope(
        key=key,
        chat_id=str(chat),
        wa_msg_id=bounded_id(wa_msg_id),
        person=person,
        from_me=from_me,
        push_name=clean_name(attrs.get("notify")),
        sent_s=sent,
        clock_s=arrival.clock_s,
        attrs=attrs,
        late=late,
    )


def _stub(envelope: _Envelope, stanza: Stanza, rules: Rules) -> MessageRow:
    payload = {
        "failure": (stanza.failure or "no content")[:MAX_FAILURE_CHARS],
        "retry_count": stanza.retry_count,
        "unavailable": stanza.unavailable,
    }
    return _row(envelope, Content(kind=table.UNDECRYPTABLE), payload, rules)


def _meta_ai(envelope: _Envelope, rules: Rules) -> MessageRow | Discard:
    """An answer of Meta AI: encrypted for the device that asked, so we will never get a readable copy."""
    if envelope.late:
        return Discard(reason="too_old")
    return _row(envelope, Content(kind=table.BOT_REPLY, facts={"encrypted": True}), {"failure": META_AI}, rules)


def _row(envelope: _Envelope, content: Content, payload: Json, rules: Rules) -> MessageRow:
    media = None if content.media is None else describe(content.media, envelope.key)
    attrs = {name: envelope.attrs[name] for name in _KEPT_ATTRS if name in envelope.attrs}
    target = _target(content.target, envelope, rules)
    kept = {} if content.withheld and "message" in payload else payload
    context = _context(payload.get("message"), envelope, rules)
    return MessageRow(
        wa_msg_id=envelope.wa_msg_id,
        chat_id=envelope.chat_id,
        sender=envelope.person.sender,
        sender_alt=envelope.person.alt,
        push_name=envelope.push_name,
        from_me=envelope.from_me,
        ts=iso(envelope.sent_s),
        received_at=iso(envelope.clock_s),
        kind=content.kind,
        text=None if content.withheld else message_text(content.text),
        raw=prune({"attrs": attrs, **kept}),
        content=None if content.withheld else _content(content, target),
        pending=content.kind == table.UNDECRYPTABLE,
        media=None
        if media is None
        else MediaPart(
            kind=content.kind,
            mime=media.mime,
            file_name=media.file_name,
            width=media.width,
            height=media.height,
            duration_s=media.duration_s,
            descriptor=media.descriptor,
        ),
        media_status=None if media is None else ("pending" if media.descriptor else "failed"),
        late=envelope.late,
        target=target,
        expires_at=_expires_at(envelope.sent_s, context),
        context=context,
        sealed=content.sealed,
    )


def _content(content: Content, target: Target | None) -> dict[str, Any] | None:
    about = {} if target is None else {"target": {"sender": target.sender, "wa_msg_id": target.wa_msg_id}}
    facts = {**(content.facts or {}), **about}
    return prune(facts, MAX_CONTENT_BYTES) if facts else None


def _expires_at(sent_s: float, context: Context) -> str | None:
    """When the message disappears from phones; None: never."""
    return iso(min(sent_s + context.expires_after_s, LATEST_S - 1)) if context.expires_after_s else None


def _context(message: object, envelope: _Envelope, rules: Rules) -> Context:
    return read_context(message, envelope.person.sender, rules.lids) if isinstance(message, Mapping) else Context()


def _target(key: Json | None, envelope: _Envelope, rules: Rules) -> Target | None:
    """The message that `key` names. `fromMe` is from the writer's point of view: the message is the writer's own."""
    wa_msg_id = None if key is None else key.get("id")
    if key is None or not isinstance(wa_msg_id, str) or not wa_msg_id:
        return None
    person = canonical(key.get("participant"), None, rules.lids)
    if key.get("fromMe") is True or person is None:
        sender: str | None = envelope.person.sender if key.get("fromMe") is True else None
    else:
        sender = person.sender
    return Target(chat_id=envelope.chat_id, sender=sender, wa_msg_id=bounded_id(wa_msg_id))

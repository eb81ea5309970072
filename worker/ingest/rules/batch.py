"""Turns a sidecar batch into the arguments of the commit function.

The last place that sees the content of unmonitored chats and direct messages. Of those it returns only counts, and
the hashes that recognise a redelivery (docs/architecture.md, "Monitored only").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, TypedDict

from worker.bridge.protocol import (
    AdminsEvent,
    Commit,
    Event,
    GroupEvent,
    IdentityEvent,
    Notice,
    NoticeEvent,
    ResendEvent,
    Stanza,
    SystemEvent,
)
from worker.ingest.rules.changes import Change, change_of, links_of
from worker.ingest.rules.dropped import Dropped, dropped_times
from worker.ingest.rules.jids import GROUP_SERVER, LID_SERVER, MOVED, PHONE_SERVER, parse_jid
from worker.ingest.rules.members import told_by_notices
from worker.ingest.rules.normalise import (
    Discard,
    MessageRow,
    Rules,
    normalise,
    normalise_notices,
    normalise_resend,
    normalise_system,
)
from worker.store.rows import Audit, GroupChange, Refused
from worker.text import clean_name

NUMBER_CHANGED = ("modify", "change_number")  # group notices (docs/whatsapp.md, "Shapes")


class Ingested(TypedDict):
    """What one commit stores besides keys and credentials: keyword arguments of `worker.store.rows.Batch`.

    Attributes:
        hashes: of every decrypted ciphertext, in every chat.
        discards: counts by reason.
        unread: by reason, hashed names of discards that no ciphertext hash would recognise on redelivery.
        identities: pairs of LID and number; the LID is `MOVED` for a number that its owner gave up.
        dropped: when messages were sent that came too late.
        refused: stanzas that were not decrypted, in addition to their stubs.
        members: who joined or left, or changed role.
    """

    messages: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    hashes: list[str]
    identities: list[tuple[str, str]]
    groups: list[GroupChange]
    members: list[dict[str, Any]]
    audits: list[Audit]
    discards: dict[str, int]
    dropped: list[Dropped]
    unread: dict[str, list[str]]
    refused: list[Refused]


def ingest(commit: Commit, rules: Rules, received_at_ms: float) -> Ingested:
    """What to store of one `commit`: `Batch(fence=…, epoch=…, seq=…, creds=…, keys=…, **ingest(…))`.

    `received_at_ms`: when the batch arrived, by our best estimate of WhatsApp's clock. It determines the age of events;
    stanzas have their own time of arrival.
    """
    identities = _identities(commit, rules)
    moved = dict.fromkeys(_moved_numbers(commit.events), MOVED)
    still = {number: lid for number, lid in rules.lids.items() if lid == MOVED} | moved
    rules = replace(rules, lids={**rules.lids, **{pn: lid for lid, pn in identities.items()}, **still})
    results = [_result(normalise(stanza, rules), stanza.content, rules) for stanza in commit.stanzas]
    told = [(event, result) for event in commit.events for result in _event_rows(event, rules, received_at_ms)]
    results += [
        _result(result, event.content if isinstance(event, ResendEvent) else None, rules) for event, result in told
    ]
    sources = [*commit.stanzas, *(event for event, _ in told)]
    rows = _one_each(result for result in results if isinstance(result, MessageRow))
    changes = [result for result in results if isinstance(result, Change)]
    changes += [link for row in rows for link in links_of(row)]
    messages = [row.as_json() for row in rows]
    discards = [result for result in results if isinstance(result, Discard)]
    return Ingested(
        messages=messages,
        changes=[change.as_json() for change in changes],
        hashes=list(dict.fromkeys(digest for stanza in commit.stanzas for digest in stanza.hashes)),
        identities=[*identities.items(), *((MOVED, number) for number in moved)],
        groups=_groups(commit.events),
        members=[
            entry
            for event in commit.events
            if isinstance(event, NoticeEvent)
            for entry in told_by_notices(event, received_at_ms, rules)
        ],
        audits=[_unfetchable(row) for row in rows if row.media_status == "failed"],
        discards=dict(Counter(discard.reason for discard in discards)),
        dropped=dropped_times(discards, messages),
        unread=_unread(sources, results),
        refused=_undecrypted(commit.stanzas, results, rows),
    )


def _unread(
    sources: Sequence[Stanza | Event], results: Sequence[MessageRow | Discard | Change]
) -> dict[str, list[str]]:
    """By reason, hex sha256 of the names of discards that would not be recognised on redelivery."""
    found: dict[str, list[str]] = {}
    for source, result in zip(sources, results, strict=True):
        name = _name(source)
        if isinstance(result, Discard) and name:
            found.setdefault(result.reason, []).append(sha256(name.encode("utf-8", "surrogatepass")).hexdigest())
    return found


def _name(source: Stanza | Event) -> str | None:
    """Identifies a discard; None if a ciphertext hash does (its own, or that of the stanza it came in)."""
    match source:
        case Stanza(failure=failure, hashes=hashes, attrs=attrs) if failure or not hashes:
            parts: list[object] = [attrs.get(name) for name in ("from", "participant", "recipient", "id")]
        case NoticeEvent(key=key) | SystemEvent(key=key):
            parts = [key.get(name) for name in ("remoteJid", "participant", "id")]
        case _:
            return None
    return "\n".join(str(part) for part in parts)


def _undecrypted(
    stanzas: Sequence[Stanza], results: Sequence[MessageRow | Discard | Change], rows: Iterable[MessageRow]
) -> list[Refused]:
    """Each undecrypted stanza as a whole, if its stub is stored."""
    stubs = {row.identity for row in rows if row.pending}
    return [
        Refused.keeping(
            stanza.undecrypted,
            code="suspect",
            reason="its decryption ended or stalled the sidecar more than once",
            state="undecrypted",
            chat_id=result.chat_id,
            sender=result.sender,
            wa_msg_id=result.wa_msg_id,
        )
        for stanza, result in zip(stanzas, results, strict=False)  # results of stanzas come before those of events
        if stanza.undecrypted is not None and isinstance(result, MessageRow) and result.identity in stubs
    ]


def _result(
    result: MessageRow | Discard, content: Mapping[str, Any] | None, rules: Rules
) -> MessageRow | Discard | Change:
    if isinstance(result, Discard) or content is None:
        return result
    return change_of(result, content, rules) or result


def _event_rows(event: Event, rules: Rules, received_at_ms: float) -> list[MessageRow | Discard]:
    match event:
        case ResendEvent():
            return [normalise_resend(event, received_at_ms, rules)]
        case NoticeEvent():
            return normalise_notices(event, received_at_ms, rules)
        case SystemEvent():
            return [normalise_system(event, received_at_ms, rules)]
        case GroupEvent() | AdminsEvent() | IdentityEvent():
            return []


def _one_each(rows: Iterable[MessageRow]) -> list[MessageRow]:
    """One row per identity, in order of first appearance. Content replaces its stub; otherwise the first copy wins.

    The row is late only if all copies are: the commit function would not find a stub that is replaced here.
    """
    kept: dict[tuple[str, str, str], MessageRow] = {}
    for row in rows:
        former = kept.get(row.identity)
        if former is None or (former.pending and not row.pending):
            kept[row.identity] = row
        if former is not None and not (former.late and row.late):
            kept[row.identity] = replace(kept[row.identity], late=False)
    return list(kept.values())


def _identities(commit: Commit, rules: Rules) -> dict[str, str]:
    """LID → phone number, from Baileys' events and from stanzas of monitored groups.

    Source: docs/whatsapp.md, "Who sent it".
    """
    pairs = [_pair(event.lid, event.pn) for event in commit.events if isinstance(event, IdentityEvent)]
    pairs += [_of_stanza(stanza, rules) for stanza in commit.stanzas]
    return dict(pair for pair in pairs if pair is not None)


def _of_stanza(stanza: Stanza, rules: Rules) -> tuple[str, str] | None:
    key = stanza.key or {}
    chat = parse_jid(key.get("remoteJid"))
    if chat is None or str(chat) not in rules.monitored:
        return None
    first, second = key.get("participant"), key.get("participantAlt")
    return _pair(first, second) or _pair(second, first)


def _pair(lid: object, pn: object) -> tuple[str, str] | None:
    lid_jid, pn_jid = parse_jid(lid), parse_jid(pn)
    if lid_jid is None or pn_jid is None or lid_jid.server != LID_SERVER or pn_jid.server != PHONE_SERVER:
        return None
    return str(lid_jid), str(pn_jid)


def _moved_numbers(events: Iterable[Event]) -> Iterator[str]:
    """The old and new number of everyone who changed numbers: another person may have written from either."""
    for event in events:
        if not isinstance(event, NoticeEvent):
            continue
        for notice in event.notices:
            if notice.tag in NUMBER_CHANGED:
                named = (event.key.get("participant"), event.key.get("participantAlt"), *_values(notice))
                jids = [parse_jid(value) for value in named]
                yield from (str(jid) for jid in jids if jid is not None and jid.server == PHONE_SERVER)


def _values(notice: Notice) -> Iterator[str]:
    """Every attribute of a notice and its children."""
    yield from notice.attrs.values()
    for child in notice.children:
        yield from _values(child)


def _groups(events: Iterable[Event]) -> list[GroupChange]:
    """One change for each group that this batch mentions."""
    last: dict[str, GroupChange] = {}
    for event in events:
        jid = parse_jid(event.id) if isinstance(event, GroupEvent | AdminsEvent) else None
        if jid is None or jid.server != GROUP_SERVER or not isinstance(event, GroupEvent | AdminsEvent):
            continue
        former = last.get(str(jid), GroupChange(wa_group_id=str(jid)))
        last[str(jid)] = _told(former, event) if isinstance(event, GroupEvent) else _promoted(former, event)
    return list(last.values())


def _told(former: GroupChange, event: GroupEvent) -> GroupChange:
    name = clean_name(event.subject) or former.name
    if event.admins is None:
        return replace(former, name=name, left=event.left)
    return GroupChange(wa_group_id=former.wa_group_id, name=name, left=event.left, admins=addresses(event.admins))


def _promoted(former: GroupChange, event: AdminsEvent) -> GroupChange:
    up, down = addresses(event.promoted), addresses(event.demoted)
    return replace(
        former,
        promoted=tuple(jid for jid in dict.fromkeys((*former.promoted, *up)) if jid not in down),
        demoted=tuple(jid for jid in dict.fromkeys((*former.demoted, *down)) if jid not in up),
    )


def addresses(jids: Iterable[str]) -> tuple[str, ...]:
    """Addresses of people in the form of `messages.sender`."""
    parsed = (parse_jid(jid) for jid in jids)
    return tuple(dict.fromkeys(str(jid) for jid in parsed if jid is not None and jid.server != GROUP_SERVER))


def _unfetchable(row: MessageRow) -> Audit:
    payload = {
        "code": "MEDIA_UNUSABLE",
        "msg": "the message names a file without a usable key or address",
        "ctx": {"wa_msg_id": row.wa_msg_id, "chat_id": row.chat_id},
    }
    return Audit(event="error", payload=payload)

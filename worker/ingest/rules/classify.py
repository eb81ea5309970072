"""Derives kind, text and file from a decrypted `Message`.

Pure and total: any JSON gives a result, `unknown` if nothing else fits. Most decisions are data, in `content.py`; this
module has the few that depend on a value (a gif is a video with a flag).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from worker.ingest.rules import content as table
from worker.ingest.rules.content import CONTENT, MEDIA_FIELDS, Discarded, MediaType, Rule
from worker.ingest.rules.facts import disappearing, facts_of, lines_of, switch_facts
from worker.ingest.rules.fields import Facts

Json = Mapping[str, Any]

MAX_WRAPPERS = 8  # Baileys unwraps five; real messages need three
MAX_LINES = 64  # of a text joined from parts, like a poll's options (WhatsApp: 12)
NOTHING: Json = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """A file that a message refers to: its field, its key type, and the field's JSON."""

    field: str
    media_type: MediaType
    body: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """Ciphertext that only the target's secret decrypts, as the sender wrote it (base64, if valid)."""

    use: str
    payload: object
    iv: object


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a message is.

    Attributes:
        text: as the sender wrote it, not yet cleaned.
        target: key of the message that this one is about (reaction, edit, revoke, vote, pin).
        facts: `messages.content`: what the message says beyond its text.
        sealed: encrypted content that is decrypted later (e.g. a vote).
        withheld: a view-once message: keep neither text nor payload.
    """

    kind: str
    text: str | None = None
    media: Media | None = None
    target: Json | None = None
    facts: Facts | None = None
    sealed: Sealed | None = None
    withheld: bool = False


def classify(message: Json, ciphertexts: int = 1) -> Content | Discarded:
    """The content of a message, or why it has none that belongs to a chat.

    `ciphertexts`: how many parts were decrypted. A key share alone has no content. A key share beside a second,
    unreadable part came with a type that this version of the proto does not know.
    """
    field, body, wrappers = unwrap(message)
    if field is None:
        return _without_content(body, ciphertexts)
    if field == "conversation":
        return Content(kind="text", text=_string(body.get(field)))
    value = body[field]
    if field == "protocolMessage":
        return _protocol(value)
    return _refine(field, CONTENT[field], value, wrappers)


def unwrap(message: Json) -> tuple[str | None, Json, tuple[str, ...]]:
    """The name of the content field, the innermost `Message` that has it, and the wrappers removed.

    The name is None if `MAX_WRAPPERS` layers contain no known content.
    """
    wrappers: list[str] = []
    while True:
        field = _content_field(message)
        if field is not None or len(wrappers) == MAX_WRAPPERS:
            return field, message, tuple(wrappers)
        wrapper = next((name for name, value in message.items() if _wrapped(value) is not None), None)
        inner = None if wrapper is None else _wrapped(message[wrapper])
        if wrapper is None or inner is None:
            return None, message, tuple(wrappers)
        wrappers.append(wrapper)
        message = inner


def _content_field(message: Json) -> str | None:
    if _string(message.get("conversation")):
        return "conversation"
    for field in message:
        if field in CONTENT and isinstance(message[field], Mapping):
            return field if _single(message) else _by_precedence(message)
    if isinstance(message.get("protocolMessage"), Mapping):
        return "protocolMessage"
    return "conversation" if isinstance(message.get("conversation"), str) else None


def _single(message: Json) -> bool:
    return sum(1 for field in message if field in CONTENT) == 1


def _by_precedence(message: Json) -> str | None:
    return next(field for field in CONTENT if isinstance(message.get(field), Mapping))


def _wrapped(value: object) -> Json | None:
    inner = value.get("message") if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else None


def _without_content(message: Json, ciphertexts: int) -> Content | Discarded:
    present = {name for name, value in message.items() if value is not None} - table.ENVELOPE
    if present and present <= table.KEY_SHARES and ciphertexts < 2:
        return "key_share"
    if present and present <= table.SYNC_NOISE:
        return "protocol"
    return Content(kind=table.UNKNOWN)


def _refine(field: str, rule: Rule, body: Json, wrappers: tuple[str, ...]) -> Content:
    kind = _kind(field, rule, body)
    if kind in table.VIEW_ONCE_KINDS and (
        body.get("viewOnce") is True or not table.VIEW_ONCE_WRAPPERS.isdisjoint(wrappers)
    ):
        return Content(kind=table.VIEW_ONCE, withheld=True)
    inner = _comment(body) if field == "commentMessage" else None
    if inner is not None:
        return replace(inner, kind=kind, target=_target(rule, body))
    return replace(_said(field, rule, body), kind=kind, target=_target(rule, body), sealed=_sealed(rule, body))


def _sealed(rule: Rule, body: Json) -> Sealed | None:
    if rule.sealed is None:
        return None
    place, use = rule.sealed
    box = body.get(place) if place else body
    return Sealed(use=use, payload=box.get("encPayload"), iv=box.get("encIv")) if isinstance(box, Mapping) else None


def _said(field: str, rule: Rule, body: Json) -> Content:
    facts = facts_of(field, body)
    text = _text(rule, body)
    lines = [] if facts is None else lines_of(facts)
    if lines:
        names_first = rule.kind in table.CONTACT_KINDS  # their lines start with the name
        text = "\n".join([*([text] if text and not names_first else []), *lines])
    return Content(kind=rule.kind, text=text, media=_media(field, rule, body), facts=facts)


def _kind(field: str, rule: Rule, body: Json) -> str:
    match field:
        case "videoMessage" if body.get("gifPlayback") is True:
            return "gif"
        case "audioMessage" if body.get("ptt") is True:
            return "voice"
        case "locationMessage" if body.get("isLive") is True:
            return "live_location"
        case "secretEncryptedMessage" if body.get("secretEncType") not in ("EVENT_EDIT", "MESSAGE_EDIT", 1, 2):
            return table.UNKNOWN
        case _:
            return rule.kind


def _protocol(body: Json) -> Content | Discarded:
    # Protobuf's default is 0, REVOKE, so an absent type means REVOKE; Baileys and the phones agree.
    name = body.get("type", table.REVOKE if isinstance(body.get("key"), Mapping) else None)
    if not isinstance(name, str):
        return Content(kind=table.UNKNOWN)
    if name in table.PROTOCOL_NOISE:
        return table.PROTOCOL_NOISE[name]
    kind = table.PROTOCOL_ROWS.get(name, table.UNKNOWN)
    target = body.get("key")
    facts = switch_facts(body) if name == "EPHEMERAL_SETTING" else None
    return Content(
        kind=kind,
        text=_edited_text(body) if kind == "edit" else None if facts is None else disappearing(facts),
        facts=facts,
        target=target if isinstance(target, Mapping) and kind != table.SYSTEM else None,
    )


def _edited_text(body: Json) -> str | None:
    """The new text; empty if the edit removes a caption; None if it has no text that we know."""
    edited = body.get("editedMessage")
    field, inner, _ = unwrap(edited) if isinstance(edited, Mapping) else (None, NOTHING, ())
    if field == "conversation":
        return _string(inner.get(field))
    if field not in CONTENT:
        return None
    text = _text(CONTENT[field], inner[field])
    return "" if text is None and CONTENT[field].may_have_caption else text


def _comment(body: Json) -> Content | None:
    message = body.get("message")
    field, inner, _ = unwrap(message) if isinstance(message, Mapping) else (None, NOTHING, ())
    if field == "conversation":
        return Content(kind="text", text=_string(inner.get(field)))
    if field not in CONTENT or field == "commentMessage":  # a hostile sender could nest comments endlessly
        return None
    return _said(field, CONTENT[field], inner[field])


def _target(rule: Rule, body: Json) -> Json | None:
    key = _at(body, rule.target) if rule.target else None
    return key if isinstance(key, Mapping) else None


def _media(field: str, rule: Rule, body: Json) -> Media | None:
    if rule.media is not None:
        return Media(field=field, media_type=rule.media, body=body)
    for path in rule.within:
        found = _at(body, path)
        if isinstance(found, Mapping):
            name = path.rpartition(".")[2]
            return Media(
                field="imageMessage" if name.endswith("Image") else name, media_type=MEDIA_FIELDS[name], body=found
            )
    return None


def _text(rule: Rule, body: Json) -> str | None:
    for group in rule.text:
        parts = [part for path in group for part in _strings(body, path) if part]
        if parts:
            return "\n".join(parts[:MAX_LINES])
    # An empty text counts as a text: it removes a reaction.
    return next((text for group in rule.text for path in group for text in _strings(body, path)), None)


def _strings(body: Json, path: str) -> Iterator[str]:
    """The strings at a path; `*` matches every item of a list."""
    head, star, tail = path.partition(".*")
    value = _at(body, head)
    if not star:
        if isinstance(value, str):
            yield value
        return
    for item in value[:MAX_LINES] if isinstance(value, list) else ():
        text = _at(item, tail[1:]) if tail else item
        if isinstance(text, str):
            yield text


def _at(value: object, path: str) -> object:
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None

"""Reads from `messages.content` and `messages.raw` what pages show beyond the other columns.

Untrusted: every shape is checked.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.text import is_visible

WRAPPERS_MAX = 8
CONTACTS_MAX = 50
PHONES_MAX = 5
OPTIONS_MAX = 100
FORMER_SHOWN = 5  # earlier texts of a message in the feed; its own page has all
OPTION_CHARS = 300
VOTERS_COUNTED = 2_000  # by wa_poll_results, at most
LINK_CHARS = 300
QUESTION_CHARS = 2_000
EMOJI_MAX = 12  # of the many different ones that a thousand people can give
BARS_MAX = 64
KINDS_WITH_RAW = ("voice", "audio", "system", "call")


@dataclass(frozen=True, kw_only=True)
class Location:
    """The coordinates of a location message."""

    latitude: float
    longitude: float

    @property
    def url(self) -> str:
        at = f"{self.latitude:.6f}"
        return f"https://www.openstreetmap.org/?mlat={at}&mlon={self.longitude:.6f}&zoom=16"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A shared contact."""

    name: str
    phones: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a poll. `votes` None: unknown. `share`: percent of the leading option's votes."""

    text: str
    votes: int | None = None
    share: int = 0


@dataclass(frozen=True, kw_only=True)
class Poll:
    """A poll. `voters`: how many people voted; None: unknown."""

    question: str
    options: tuple[Option, ...] = ()
    voters: int | None = None


def location_of(row: Mapping[str, Any]) -> Location | None:
    """The coordinates of a location message."""
    content = _content(row)
    latitude, longitude = content.get("latitude"), content.get("longitude")
    if _is_degree(latitude, 90) and _is_degree(longitude, 180):
        return Location(latitude=float(latitude), longitude=float(longitude))  # type: ignore[arg-type]
    return None


def cards(row: Mapping[str, Any]) -> list[Card]:
    """The contacts of a message. Takes the names from its text if they are not stored separately."""
    listed = _content(row).get("contacts")
    contacts = listed[:CONTACTS_MAX] if isinstance(listed, list) else []
    named = [_card(contact) for contact in contacts if isinstance(contact, Mapping) and contact.get("name")]
    return named or [Card(name=line) for line in str(row.get("text") or "").split("\n")[:CONTACTS_MAX] if line]


def poll(row: Mapping[str, Any]) -> Poll:
    """Question and options, with votes if known: from `result`, or from a result message."""
    content = _content(row)
    told = content.get("results")
    question, *lines = str(row.get("text") or "").split("\n")
    listed = content.get("options")
    names = [str(each) for each in listed if each] if isinstance(listed, list) else [line for line in lines if line]
    if isinstance(told, list) and told:
        counted = {str(each.get("option")): each.get("votes") for each in told if isinstance(each, Mapping)}
        names, voters = list(counted), None
    else:
        result = row.get("result")
        counted = {each["option"]: each["votes"] for each in result["options"]} if result else {}
        names = list(dict.fromkeys([*names, *counted]))
        voters = int(result["voters"]) if result else None
    known = {name: _votes(counted.get(name, 0)) for name in names[:OPTIONS_MAX]} if counted else {}
    most = max(known.values(), default=0)
    options = tuple(
        Option(
            text=name[:OPTION_CHARS] if is_visible(name) else "?",
            votes=known.get(name),
            share=round(100 * known.get(name, 0) / most) if most else 0,
        )
        for name in names[:OPTIONS_MAX]
    )
    return Poll(question=question[:QUESTION_CHARS] if is_visible(question) else "", options=options, voters=voters)


@dataclass(frozen=True, kw_only=True)
class Link:
    """The preview of a link, as the sender's phone made it: only words, since they may lie about the address."""

    title: str
    description: str


def link_of(row: Mapping[str, Any]) -> Link | None:
    """The preview of the link in a text; None if it has no title, or if there is nothing left of the text."""
    link = _content(row).get("link")
    if not isinstance(link, Mapping) or not row.get("text"):
        return None
    title, description = (str(link.get(name) or "")[:LINK_CHARS] for name in ("title", "description"))
    return Link(title=title, description=description) if is_visible(title) else None


@dataclass(frozen=True, kw_only=True)
class Reaction:
    """An emoji and the addresses of those who gave it, the newest first."""

    emoji: str
    people: tuple[str, ...]


def reactions(row: Mapping[str, Any]) -> list[Reaction]:
    """What people reacted with, the most frequent emoji first; at most `EMOJI_MAX` of them."""
    given: dict[str, list[str]] = {}
    for each in sorted(row.get("message_reactions") or (), key=lambda each: str(each["at"]), reverse=True):
        if each["emoji"]:
            given.setdefault(each["emoji"], []).append(each["sender"])
    listed = sorted(given.items(), key=lambda item: -len(item[1]))
    return [Reaction(emoji=emoji, people=tuple(people)) for emoji, people in listed[:EMOJI_MAX]]


def waveform(row: Mapping[str, Any]) -> list[int]:
    """Loudness of a voice note, 0 to 100, at most 64 bars; empty if the sender sent none."""
    for audio in _contents(row, "audioMessage"):
        try:
            loudness = base64.b64decode(str(audio.get("waveform") or ""), validate=True)
        except (binascii.Error, ValueError):
            return []
        return [min(100, level) for level in loudness[:BARS_MAX]]
    return []


def notice(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The stub type of a system row, and the words or addresses that it names."""
    raw = row.get("raw")
    raw = raw if isinstance(raw, Mapping) else {}
    kind = raw.get("stub_type")
    if not isinstance(kind, str):
        settings = next(iter(_contents(row, "protocolMessage")), {})
        return str(settings.get("type") or ""), []
    parameters = raw.get("stub_parameters")
    return kind, [_parameter(each) for each in parameters] if isinstance(parameters, list) else []


def _parameter(value: object) -> str:
    """A parameter as text. Some clients write a participant as a JSON object with an id."""
    text = str(value)
    if text.startswith("{"):
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return str(told.get("id") or text) if isinstance(told, dict) else text
    return text


def _votes(value: object) -> int:
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0


def _card(contact: Mapping[str, Any]) -> Card:
    listed = contact.get("phones")
    phones = [str(each.get("number")) for each in listed or () if isinstance(each, Mapping) and each.get("number")]
    name = str(contact["name"])
    return Card(name=name if is_visible(name) else "", phones=tuple(dict.fromkeys(phones))[:PHONES_MAX])


def _content(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """`messages.content`, or an empty mapping."""
    content = row.get("content")
    return content if isinstance(content, Mapping) else {}


def _contents(row: Mapping[str, Any], *names: str) -> Iterator[Mapping[str, Any]]:
    """The content with one of these names, inside any wrappers."""
    raw = row.get("raw")
    level = raw.get("message") if isinstance(raw, Mapping) else None
    for _ in range(WRAPPERS_MAX):
        if not isinstance(level, Mapping):
            return
        for name in names:
            if isinstance(level.get(name), Mapping):
                yield level[name]
                return
        inner = [value["message"] for value in level.values() if isinstance(value, Mapping) and "message" in value]
        level = inner[0] if inner else None


def _is_degree(value: object, limit: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -limit <= value <= limit

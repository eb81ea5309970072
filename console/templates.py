"""Templates. Escapes everything that our own rules did not produce; a missing name is an error."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import segno
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from console.rules import contents, formatting, people
from console.rules.files import SHOWN_TYPES
from console.texts import Texts, isolated
from worker.times import iso_utc

CHARS = 4_000  # of a text shown in the feed
WHOLE_CHARS = 70_000  # on a message's own page; WhatsApp's limit is 65,536
PREVIEW_CHARS = 120
DETAIL_CHARS = 400
FORMER_CHARS = 500  # of an earlier text in the feed
REACTORS_NAMED = 10
NAMED_MAX = 20

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "html"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def qr_svg(text: str) -> Markup:
    """The QR code as an SVG without colours: the style sheet draws it dark on light in both themes."""
    out = io.BytesIO()
    segno.make(text, error="L", micro=False).save(
        out, kind="svg", border=3, xmldecl=False, svgns=True, svgclass="qr", lineclass="qr-dark", omitsize=True
    )
    return Markup(out.getvalue().decode())  # noqa: S704 - segno's own drawing of squares


def utc(at: str | datetime) -> str:
    """`2026-11-26 12:00:03 UTC`."""
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: str | datetime | None, style: str = "time") -> Markup:
    """A time. The script shows it in the viewer's zone; UTC until then and on hover. `style`: time, day, date, full, or
    message, whose day the script writes above it."""
    if not at:
        return Markup("")
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    full = "%Y-%m-%d %H:%M"
    shown = {"time": "%H:%M", "day": "%m-%d", "date": "%Y-%m-%d", "full": full, "message": full}[style]
    return Markup('<time datetime="{}" title="{}" data-style="{}">{}</time>').format(
        iso_utc(when), utc(when), style, when.astimezone(UTC).strftime(shown)
    )


def commands(text: str) -> Markup:
    """A sentence of the catalogue, with backticks turned into code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def breakable(name: str) -> Markup:
    """A name of many words that may wrap after each in a narrow column."""
    return Markup("_<wbr>").join(name.split("_"))


def path(text: object) -> str:
    """Encode one segment of a path."""
    return quote(str(text), safe="")


def message_text(row: Mapping[str, Any], names: people.Names, whole: bool) -> Markup:
    """The text with WhatsApp's formatting; truncated, unless the page is about this message."""
    return formatting.to_html(str(row["text"])[: WHOLE_CHARS if whole else CHARS], names.mentioned)


def is_cut(row: Mapping[str, Any], whole: bool) -> bool:
    return len(str(row["text"])) > (WHOLE_CHARS if whole else CHARS)


def former_texts(row: Mapping[str, Any], whole: bool) -> list[Mapping[str, Any]]:
    """Earlier texts, oldest first: all, each cut as a text of the feed; or the newest few, each cut short."""
    edits = sorted(row.get("message_edits") or (), key=lambda edit: str(edit["at"]))
    shown = edits if whole else edits[-contents.FORMER_SHOWN :]
    limit = CHARS if whole else FORMER_CHARS
    return [{"at": edit["at"], "text": formatting.cut(edit["text"] or "", limit)} for edit in shown]


def reactors(people_: Sequence[str], names: people.Names, t: Texts) -> str:
    """The names of the newest of those who gave a reaction, and how many more there are."""
    named = ", ".join(isolated(names.of(address)) for address in people_[:REACTORS_NAMED])
    more = len(people_) - REACTORS_NAMED
    return t("message.and_more", who=named, count=more) if more > 0 else named


def preview(row: Mapping[str, Any], t: Texts) -> str:
    """A message on one line."""
    if row.get("revoked_at"):
        return "🚫"
    if f"message.is_{row['kind']}" in t.keys:  # about another message: a vote, a pin
        choices = formatting.plain_line(str(row.get("text") or "").replace("\n", ", "), PREVIEW_CHARS)
        return t("message.voted", what=choices) if row["kind"] == "poll_vote" and choices else what_it_is(row, t)
    words = formatting.plain_line(str(row.get("text") or ""), PREVIEW_CHARS)
    known = f"search.kind_{row['kind']}"
    kind = "" if row["kind"] == "text" else f"[{t(known) if known in t.keys else row['kind']}] "
    return f"{kind}{words or row.get('file_name') or ''}".strip() or t("message.kind", kind=row["kind"])


def sentence(row: Mapping[str, Any], names: people.Names, t: Texts) -> str:
    """A sentence for a system row, or for a row about another message (a vote, a pin)."""
    if row["kind"] not in ("system", "call"):
        choices = formatting.plain_line(str(row.get("text") or "").replace("\n", ", "), DETAIL_CHARS)
        return t("message.voted", what=choices) if row["kind"] == "poll_vote" and choices else what_it_is(row, t)
    kind, words = contents.notice(row)
    what = ", ".join(isolated(names.of(word) if "@" in word else word) for word in words[:NAMED_MAX])
    key = f"system.{kind}"
    if key in t.keys:
        return t(key, what=what)
    if row.get("text"):
        return formatting.plain_line(str(row["text"]), DETAIL_CHARS)  # the worker's own sentence
    if row["kind"] == "call":
        return t("system.call")
    return t("system.other", what=(kind or row["kind"]).replace("_", " ").lower())


def what_it_is(row: Mapping[str, Any], t: Texts) -> str:
    """A sentence for a message without text."""
    kind = str(row["kind"])
    taken_back = kind == "poll_vote" and (row.get("content") or {}).get("choices") == []
    return t.known(f"message.is_{'vote_back' if taken_back else kind}", "message.kind").format(kind=kind)


def seconds_since(now: str, at: str) -> float:
    """Seconds from `at` to `now`; 0 if `at` is in the future."""
    return max(0.0, (datetime.fromisoformat(now) - datetime.fromisoformat(at)).total_seconds())


def detail(payload: Mapping[str, Any]) -> str:
    """An entry of the audit log on one line."""
    return formatting.plain_line(", ".join(f"{name}: {_value(value)}" for name, value in payload.items()), DETAIL_CHARS)


def one_line(text: str) -> str:
    """What somebody else wrote, on one line and cut."""
    return formatting.plain_line(text, DETAIL_CHARS)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


ENVIRONMENT.filters.update(breakable=breakable, clock=clock, commands=commands, utc=utc, path=path, since=seconds_since)
_GLOBALS: dict[str, Any] = {
    "cards": contents.cards,
    "colour": people.colour,
    "detail": detail,
    "former_texts": former_texts,
    "FORMER_SHOWN": contents.FORMER_SHOWN,
    "VOTERS_COUNTED": contents.VOTERS_COUNTED,
    "is_cut": is_cut,
    "message_text": message_text,
    "one_line": one_line,
    "poll": contents.poll,
    "preview": preview,
    "qr_svg": qr_svg,
    "reactions": contents.reactions,
    "reactors": reactors,
    "sentence": sentence,
    "shown": SHOWN_TYPES,
    "link_of": contents.link_of,
    "location_of": contents.location_of,
    "waveform": contents.waveform,
    "what_it_is": what_it_is,
}
ENVIRONMENT.globals.update(_GLOBALS)

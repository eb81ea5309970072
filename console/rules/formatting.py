"""WhatsApp's formatting as safe HTML: *bold*, _italic_, ~struck~, `code`, ```blocks```, quotes, lists, links, mentions.

Escapes everything; produces the only tags, and only http and https links. Takes one pass over any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from markupsafe import Markup, escape

TAGS = {
    "*": (Markup("<strong>"), Markup("</strong>")),
    "_": (Markup("<em>"), Markup("</em>")),
    "~": (Markup("<s>"), Markup("</s>")),
}
BLOCK = "```"
BLOCK_HTML = Markup("<pre>{}</pre>")
TOKENS = re.compile(r"```|`[^`\n]+`|https?://[^\s<>\"'`]+|@\d{5,20}|[*_~]|[^`*_~@h]+|.", re.DOTALL)
TRAILING = ".,;:!?)]}*_~'\""
LIST_ITEM = re.compile(r"([-*•] |\d{1,3}\. )")

Mention = Callable[[str], str | None]  # digits after @ → name to show


def to_html(text: str, mention: Mention = lambda digits: None) -> Markup:
    """The text as HTML, with line breaks as `<br>`, and quotes and blocks as elements."""
    pieces = text.split(BLOCK)
    parts: list[Markup] = []
    between, place = [pieces[0]], 1  # `between` blocks: one without content, and one without an end, are text
    while place < len(pieces):
        if place + 1 < len(pieces) and pieces[place].strip():
            parts += [_paragraph(between, bool(parts), mention), BLOCK_HTML.format(pieces[place].strip("\n"))]
            between = [pieces[place + 1]]
            place += 2
        else:
            between += [BLOCK, pieces[place]]
            place += 1
    return Markup("").join([*parts, _paragraph(between, bool(parts), mention)])


def _paragraph(pieces: list[str], after_block: bool, mention: Mention) -> Markup:
    text = "".join(pieces)
    return Markup("<br>").join(_lines(text.strip("\n") if after_block else text, mention))


def cut(text: str, limit: int) -> str:
    """The start of a text, as it is."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def plain_line(text: str, limit: int) -> str:
    """The start of a text on one line, for previews."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _lines(text: str, mention: Mention) -> Iterator[Markup]:
    for line in text.split("\n"):
        if line.startswith("> "):
            yield Markup('<span class="cited">{}</span>').format(_inline(line[2:], mention))
        elif item := LIST_ITEM.match(line):
            yield Markup('<span class="item">{}{}</span>').format(item[0], _inline(line[item.end() :], mention))
        else:
            yield _inline(line, mention)


def _inline(line: str, mention: Mention) -> Markup:
    """One line. A marker opens at the start of a word and closes at the end of one; unclosed markers stay text."""
    out: list[Markup] = []
    waiting: dict[str, int] = {}  # open marker → its index in `out`, in order of opening
    for found in TOKENS.finditer(line):
        token, start, end = found[0], found.start(), found.end()
        if token in TAGS:
            _mark(token, line[start - 1 : start], line[end : end + 1], out, waiting)
        elif token.startswith("`") and len(token) > 2 and token != BLOCK:
            out.append(Markup("<code>{}</code>").format(token[1:-1]))
        elif token.startswith(("http://", "https://")):
            out.append(_link(token))
        elif token.startswith("@") and len(token) > 1:
            name = mention(token[1:])
            out.append(Markup('<span class="mention">@{}</span>').format(name) if name else escape(token))
        else:
            out.append(escape(token))
    return Markup("").join(out)


def _mark(marker: str, before: str, after: str, out: list[Markup], waiting: dict[str, int]) -> None:
    """Open, close, or keep a marker as a character."""
    place = waiting.get(marker)
    closes = place is not None and place < len(out) - 1 and not before.isspace() and not after.isalnum()
    if closes and place is not None:
        for inner in [each for each, at in waiting.items() if at > place]:
            del waiting[inner]  # opened inside, but never closed there
        del waiting[marker]
        out[place], end = TAGS[marker]
        out.append(end)
        return
    if place is None and not before.isalnum() and after and not after.isspace():
        waiting[marker] = len(out)
    out.append(escape(marker))


def _link(token: str) -> Markup:
    url = token.rstrip(TRAILING)
    anchor = Markup('<a href="{}" target="_blank" rel="noopener noreferrer nofollow">{}</a>').format(url, url)
    return anchor + escape(token[len(url) :])

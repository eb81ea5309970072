"""Makes untrusted text safe to store.

Postgres refuses NUL bytes, and the HTTP client refuses lone surrogates (docs/supabase.md, "supabase-py"). Both become
U+FFFD, so that one character cannot make a whole batch fail. Also owns the maximum lengths.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

REPLACEMENT = "\ufffd"
# WhatsApp's own limit is 65,536 characters, but a 5 MB text must still be stored whole.
MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_NAME_CHARS = 256  # push names have up to 25 characters, group names 100; longer ones are hostile
MAX_FILE_NAME_CHARS = 255  # the limit of file systems
MAX_ID_CHARS = 128  # WhatsApp's ids have 16 to 40; a Postgres index entry has at most 2.7 kB

_REFUSED = re.compile("[\x00\ud800-\udfff]")
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi: with an override, "gpj.exe" reads "exe.jpg"
    "\u2028\u2029\ufeff\ufff9-\ufffb]"
)
_SEPARATORS = re.compile(r"[/\\]")
# Letters and marks by their category, but nothing is drawn.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_BLANK_CATEGORIES = ("Cc", "Cf", "Zl", "Zp", "Zs")
_SELECTORS = re.compile("[\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def clean_text(value: str) -> str:
    """The text with NUL and lone surrogates replaced by U+FFFD; otherwise unchanged."""
    return _REFUSED.sub(REPLACEMENT, value)


def message_text(value: object) -> str | None:
    """A message's text, at most `MAX_TEXT_BYTES` of UTF-8; None if there is none."""
    if not isinstance(value, str):
        return None
    text = clean_text(value)
    if len(text) * 4 <= MAX_TEXT_BYTES:
        return text
    encoded = text.encode()
    return text if len(encoded) <= MAX_TEXT_BYTES else encoded[:MAX_TEXT_BYTES].decode(errors="ignore")


def is_visible(text: str) -> bool:
    """Whether anything of a text is drawn: a name of zero-width characters looks like no name."""
    return any(
        character not in _BLANKS
        and unicodedata.category(character) not in _BLANK_CATEGORIES
        and not _SELECTORS.match(character)
        for character in text
    )


def clean_name(value: object) -> str | None:
    """A display name (push name, subject): one line, without control or bidi characters; None if none is visible."""
    if not isinstance(value, str):
        return None
    name = clean_text(_CONTROLS.sub("", value[: MAX_NAME_CHARS * 4])).strip()
    name = name[:MAX_NAME_CHARS]
    return name if is_visible(name) else None


def clean_file_name(value: object) -> str | None:
    """A file name, as data: like `clean_name`, without path separators. Never used as a path.

    A long name is shortened in the middle, because its end is what matters to readers.
    """
    if not isinstance(value, str):
        return None
    if len(value) > MAX_FILE_NAME_CHARS * 8:
        value = value[: MAX_FILE_NAME_CHARS * 4] + value[-MAX_FILE_NAME_CHARS * 4 :]
    name = _SEPARATORS.sub("_", clean_text(_CONTROLS.sub("", value))).strip()
    if len(name) > MAX_FILE_NAME_CHARS:
        name = f"{name[:200]}…{name[-(MAX_FILE_NAME_CHARS - 201) :]}"
    return name if is_visible(name) else None


def bounded_id(value: str) -> str:
    """A message id that fits an index. Different ids stay different.

    Senders choose ids (docs/whatsapp.md, "Shapes"). One that is too long, or that Postgres would refuse, becomes its
    start plus the sha256 of the whole.
    """
    clean = clean_text(value)
    if len(clean) <= MAX_ID_CHARS and clean == value:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{clean[: MAX_ID_CHARS - len(digest) - 1]}#{digest}"

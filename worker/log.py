"""The log: lines for people on a terminal, JSON lines everywhere else, and no secrets in either. Times are UTC.

Owns the format, the redaction, and what counts as a repeated line. Every record passes through `redact`, at every
level, including those of libraries that use `logging`. No caller logs message text; the patterns only catch slips.

Common fields: `session`, `wa_msg_id`, `group` (its JID), `part` (`sidecar`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger

from worker.log_limits import Budgets, Repeats

if TYPE_CHECKING:
    from loguru import Record

HIDDEN = "[hidden]"
HIDDEN_NAMES = (
    r"creds?|credentials|apikey|api_key|service_key|state_key|authorization|password|secret|token|qr|pairing_?code"
    r"|\w*(?:priv|private|root|chain|noise|identity|media|message|ephemeral|cipher|mac|adv)_?(?:key|secret(?:_?key)?)"
    r"|private|signature|fileSha256|fileEncSha256|keyData|routingInfo"
)
_HIDDEN_NAME = re.compile(f"^(?:{HIDDEN_NAMES})$", re.IGNORECASE)
_NAMED = re.compile(
    rf"""(["']?\b(?:{HIDDEN_NAMES})\b["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;}})\]]+)""",
    re.IGNORECASE,
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\bsb_(secret|publishable)_[\w-]+"), rf"sb_\1_{HIDDEN}"),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?"), HIDDEN),  # JSON web token
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"<Buffer(?: [0-9a-f]{2})*[^>]*>"), f"<Buffer {HIDDEN}>"),  # how libsignal prints keys
    (re.compile(r"\b[0-9a-f]{2}(?:[ ,:][0-9a-f]{2}){15,}\b"), HIDDEN),
    (re.compile(r"""\b([a-z][a-z0-9+.-]{1,20}://)[^\s/?#"'<>]*@""", re.IGNORECASE), rf"\1{HIDDEN}@"),  # a proxy's login
    (re.compile(r"""\b(https?|wss?)://(?:[^\s/@"'<>]*@)?([^\s/?#"'<>]+)/[^\s"'<>]*[?&][^\s"'<>]*"""), r"\1://\2/…"),
    (re.compile(r"""\bhttps?://([^\s/?#"'<>]*whatsapp\.(?:net|com))/[^\s"'<>]*"""), r"https://\1/…"),
    (re.compile(r"\b\d{3,}(\d{3})((?:[:_]\d+){0,2}@(?:s\.whatsapp\.net|c\.us))"), r"…\1\2"),  # a phone number
    (re.compile(r"\b\d{3,}(\d{3}-\d{8,}@g\.us)"), r"…\1"),  # older groups contain their creator's number
)
_LONG = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")  # 32 bytes in base64 are 43 characters and a `=`
_planted: Counter[str] = Counter()  # secret → how many callers still hide it

LIMITED_FROM = logging.INFO  # debug output is never limited; loguru's numbers are those of `logging`
# Characters that move the cursor, end the line or reverse text. Senders choose message ids, so they can appear.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
OWN_FIELDS = ("error", "line", "fields")  # belong to the format, not to the record


def hide(secret: str | None) -> None:
    """Hide `secret` in all log lines from now on."""
    if secret and len(secret) >= 8:  # shorter ones occur inside ordinary words
        _planted[secret] += 1


@contextmanager
def hidden(secret: str | None) -> Iterator[None]:
    """Hide `secret` while this block runs, or any other block that hides it."""
    hide(secret)
    try:
        yield
    finally:
        if secret and secret in _planted:
            _planted[secret] -= 1
            if not _planted[secret]:
                del _planted[secret]


def redact(text: str) -> str:
    """`text` without keys, tokens, URLs with queries, and phone numbers."""
    for secret in list(_planted):
        text = text.replace(secret, HIDDEN)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    text = _NAMED.sub(rf"\1{HIDDEN}", text)
    return _LONG.sub(_hide_if_random, text)


def redact_value(name: str, value: Any, depth: int = 0) -> Any:
    """A field of a log record: hidden by its name, or redacted inside."""
    if _HIDDEN_NAME.match(name) or depth > 4:
        return HIDDEN
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {str(key): redact_value(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [redact_value("", inner, depth + 1) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(str(value))


def printable(text: str) -> str:
    """One line that is safe for a terminal. Uses JSON's escapes, for more characters than JSON does."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class _Libraries(logging.Handler):
    """Forwards library logs (`logging`) to our log."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
            return  # uvicorn calls an open stream that ends with the server an exception
        level = record.levelname if record.levelname in ("WARNING", "ERROR", "CRITICAL") else record.levelno
        logger.bind(library=record.name).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def set_up_log(
    level: str, *, session: str | None = None, stream: TextIO | None = None, human: bool | None = None
) -> None:
    """Send all records to `stream` (stderr), formatted for people if it is a terminal. `session`: a field of each."""
    target = stream or sys.stderr
    for_people = target.isatty() if human is None else human
    repeats, budgets = Repeats(), Budgets()
    logger.remove()
    logger.configure(patcher=_patch, extra={"session": session} if session else {})
    logger.add(
        target,
        level=level.upper(),
        format=(lambda record: _human_format(record, session)) if for_people else _json_format,
        filter=lambda record: _allowed(record, repeats, budgets),
        colorize=for_people and target.isatty(),
        backtrace=False,
        diagnose=False,  # would print the variables of every frame, keys included
        catch=True,
    )
    _listen_to_libraries()


def _listen_to_libraries() -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Libraries)]:
        root.removeHandler(handler)
    root.addHandler(_Libraries(logging.WARNING))
    logging.captureWarnings(True)


def _allowed(record: Record, repeats: Repeats, budgets: Budgets) -> bool:
    if record["level"].no < LIMITED_FROM:
        return True
    extra = record["extra"]
    session = extra.get("session")
    line = (record["name"], record["line"], record["message"], session, extra.get("wa_msg_id"), extra.get("group"))
    told = repeats.take(line)
    if told is not None:
        told = told | spent if (spent := budgets.take(session)) is not None else None
    extra.update(told or {})
    return told is not None


def _patch(record: Record) -> None:
    record["message"] = redact(record["message"])
    extra = record["extra"]
    for name in list(extra):
        extra[name] = redact_value(name, extra[name])
    caught = record["exception"]
    if caught and caught.value:
        frames = "".join(traceback.format_exception(caught.type, caught.value, caught.traceback))
        extra["error"] = redact(frames)


def _human_format(record: Record, session: str | None) -> str:
    """`session`: the process's only session, which is not repeated in each line."""
    extra = record["extra"]
    hidden = (*OWN_FIELDS, "session") if extra.get("session") == session else OWN_FIELDS
    fields = " ".join(printable(f"{name}={extra[name]}") for name in extra if name not in hidden)
    extra["fields"] = f"  ({fields})" if fields else ""
    record["message"] = "\n  ".join(printable(line) for line in record["message"].splitlines())
    if "error" in extra:
        extra["error"] = "\n".join(f"  {printable(line)}" for line in extra["error"].splitlines())
    trailer = "\n<red>{extra[error]}</red>" if "error" in extra else ""
    return (
        "<dim>{time:HH:mm:ss!UTC}Z</dim> <level>{level: <7}</level> {message}<dim>{extra[fields]}</dim>"
        + trailer
        + "\n"
    )


def _json_format(record: Record) -> str:
    extra = record["extra"]
    entry = {
        "at": record["time"].astimezone(UTC).isoformat(timespec="milliseconds"),
        "level": record["level"].name.lower(),
        "from": record["name"],
        "msg": record["message"],
        **{name: value for name, value in extra.items() if name not in OWN_FIELDS[1:]},
    }
    extra["line"] = printable(json.dumps(entry, ensure_ascii=False, default=str).encode("utf-8", "replace").decode())
    return "{extra[line]}\n"


def _hide_if_random(match: re.Match[str]) -> str:
    """Hide what looks like base64, but not paths, hex hashes and names."""
    text = match[0]
    mixed = re.search(r"[A-Z]", text) and re.search(r"[a-z]", text) and re.search(r"\d", text)
    a_path = text.count("/") * 10 > len(text) or text.count("_") + text.count("-") > len(text) // 6
    return HIDDEN if mixed and not a_path else text

"""The log: lines for people on a terminal, JSON lines everywhere else, and never a secret in either.

Owns the format and the redaction. Every record passes `redact` on its way out, whoever wrote it, at every level.
Message text is never given to the log in the first place; the patterns here are the second fence, not the first.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger

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
    (re.compile(r"""\b(https?|wss?)://(?:[^\s/@"'<>]*@)?([^\s/?#"'<>]+)/[^\s"'<>]*[?&][^\s"'<>]*"""), r"\1://\2/…"),
    (re.compile(r"""\bhttps?://([^\s/?#"'<>]*whatsapp\.(?:net|com))/[^\s"'<>]*"""), r"https://\1/…"),
    (re.compile(r"\b\d{3,}(\d{3})((?:[:_]\d+){0,2}@(?:s\.whatsapp\.net|c\.us))"), r"…\1\2"),  # a person's number
)
_LONG = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")  # 32 bytes in base64 are 43 characters and a `=`
_planted: set[str] = set()


def hide(secret: str | None) -> None:
    """From now on `secret` is hidden wherever it turns up, whatever it looks like."""
    if secret and len(secret) >= 8:
        _planted.add(secret)


def redact(text: str) -> str:
    """`text` without keys, tokens, addresses with queries, and people's numbers."""
    for secret in _planted:
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


def set_up_log(level: str, *, stream: TextIO | None = None, human: bool | None = None) -> None:
    """Send all records to `stream` (stderr), for people if it is a terminal."""
    target = stream or sys.stderr
    for_people = target.isatty() if human is None else human
    logger.remove()
    logger.configure(patcher=_patch)
    logger.add(
        target,
        level=level.upper(),
        format=_human_format if for_people else _json_format,
        colorize=for_people and target.isatty(),
        backtrace=False,
        diagnose=False,  # it would print the variables of every frame, keys included
        catch=True,
    )


def _patch(record: Record) -> None:
    record["message"] = redact(record["message"])
    extra = record["extra"]
    for name in list(extra):
        extra[name] = redact_value(name, extra[name])
    caught = record["exception"]
    if caught and caught.value:
        frames = "".join(traceback.format_exception(caught.type, caught.value, caught.traceback))
        extra["error"] = redact(frames)


def _human_format(record: Record) -> str:
    extra = record["extra"]
    fields = " ".join(f"{name}={extra[name]}" for name in extra if name not in ("error", "line", "fields"))
    extra["fields"] = f"  ({fields})" if fields else ""
    trailer = "\n<red>{extra[error]}</red>" if "error" in extra else ""
    return "<dim>{time:HH:mm:ss}</dim> <level>{level: <7}</level> {message}<dim>{extra[fields]}</dim>" + trailer + "\n"


def _json_format(record: Record) -> str:
    extra = record["extra"]
    entry = {
        "at": record["time"].astimezone().isoformat(timespec="milliseconds"),
        "level": record["level"].name.lower(),
        "from": record["name"],
        "msg": record["message"],
        **{name: value for name, value in extra.items() if name not in ("line", "fields")},
    }
    extra["line"] = json.dumps(entry, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
    return "{extra[line]}\n"


def _hide_if_random(match: re.Match[str]) -> str:
    """Hide what looks like base64; leave paths, hashes in hex and names alone."""
    text = match[0]
    mixed = re.search(r"[A-Z]", text) and re.search(r"[a-z]", text) and re.search(r"\d", text)
    a_path = text.count("/") * 10 > len(text) or text.count("_") + text.count("-") > len(text) // 6
    return HIDDEN if mixed and not a_path else text

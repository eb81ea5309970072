"""`messages.raw`: the part of a payload that is kept beyond the columns.

Decides what to leave out (key material, bulk) and how large and deep the rest may be. The result is always JSON that
Postgres accepts: no NUL, no lone surrogate, no NaN, no number that JavaScript would change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any

from worker.text import clean_text

Json = Mapping[str, Any]

MAX_RAW_BYTES = 32 * 1024  # a batch has up to 500 messages: at most 16 MB, half the wire's line limit
MAX_CONTENT_BYTES = 96 * 1024  # for `messages.content`, cut after `raw`: 256 cards with a number each take 40 kB
MAX_STRING_CHARS = 4096  # the whole text is in `text`; drops thumbnails (1 to 10 kB) above this
# Quotes of quotes. A hostile payload nests thousands deep; the database answers 6,000 levels with an HTTP 500
# (docs/supabase.md, "The embedded Supabase").
MAX_DEPTH = 24
MAX_ITEMS = 256  # per list or object: WhatsApp's largest groups have 1,024 members, and nobody mentions them all
MAX_KEY_CHARS = 128
SAFE_INTEGER = 2**53  # JavaScript changes larger JSON numbers (docs/supabase.md)
INT64 = 2**63

# Key material: a reader of `raw` must not be able to decrypt anything.
SECRET_FIELDS = frozenset(
    {
        "senderKeyDistributionMessage",
        "fastRatchetKeySenderKeyDistributionMessage",
        "appStateSyncKeyShare",
        "mediaKey",
        "attachmentMediaKey",
        "artworkMediaKey",
        "messageSecret",
        "botMessageSecret",
        "ephemeralSharedSecret",
        "threadIdUserSecret",
        "encKey",
        "callKey",
        "masterKey",
        "keyData",
        "shareableChatIdentifierEncryptionKey",
        "encryptedSignalTokenConsented",
        "acAuthTokens",
        "token",
        "nonce",
        "initialHistBootstrapInlinePayload",
        "webMessageInfoBytes",
        "collectionSnapshot",
        "deviceListMetadata",
        "paddingBytes",
    }
)
# Bulk: copies of the file, or data that only helps streaming it.
BULK_FIELDS = frozenset({"streamingSidecar", "firstFrameSidecar", "firstScanSidecar", "scansSidecar"})
_LEFT_OUT = SECRET_FIELDS | BULK_FIELDS


@dataclass(slots=True)
class _Budget:
    left: int
    trimmed: bool = False

    def take(self, size: int) -> bool:
        if size > self.left:
            self.trimmed = True
            return False
        self.left -= size
        return True


class _Dropped:
    """Marks a value that does not fit; None would mean a JSON null."""


_DROPPED = _Dropped()


def prune(value: Json, limit: int = MAX_RAW_BYTES) -> dict[str, Any]:
    """A copy of the payload without secrets and bulk, bounded in bytes, depth and items.

    If anything was cut for size, the top level gets `"_trimmed": true`; removed secrets leave no mark.
    """
    budget = _Budget(left=limit - len(', "_trimmed": true'))
    pruned = _prune(value, MAX_DEPTH, budget)
    result = pruned if isinstance(pruned, dict) else {}
    if budget.trimmed:
        result["_trimmed"] = True
    return result


def _prune(value: object, depth: int, budget: _Budget) -> Any:
    if value is None or isinstance(value, bool):
        return value if budget.take(5) else _DROPPED
    if isinstance(value, str):
        return _string(value, budget)
    if isinstance(value, int):
        return _integer(value, budget)
    if isinstance(value, float):
        return (value if math.isfinite(value) else None) if budget.take(25) else _DROPPED
    if depth <= 0 or not budget.take(2):
        budget.trimmed = True
        return _DROPPED
    if isinstance(value, Mapping):
        return _object(value, depth, budget)
    if isinstance(value, list | tuple):
        return _list(value, depth, budget)
    budget.trimmed = True
    return _DROPPED


def _string(value: str, budget: _Budget) -> Any:
    if len(value) > MAX_STRING_CHARS:
        budget.trimmed = True
        return _DROPPED
    text = clean_text(value)
    return text if budget.take(_json_size(text)) else _DROPPED


def _integer(value: int, budget: _Budget) -> Any:
    if not -INT64 <= value < 2 * INT64:
        budget.trimmed = True
        return _DROPPED
    number: int | str = value if abs(value) < SAFE_INTEGER else str(value)
    return number if budget.take(24) else _DROPPED


def _object(value: Mapping[Any, Any], depth: int, budget: _Budget) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if key in _LEFT_OUT:
            continue
        if not isinstance(key, str) or len(key) > MAX_KEY_CHARS or len(kept) >= MAX_ITEMS:
            budget.trimmed = True
            continue
        name = clean_text(key)
        if not budget.take(_json_size(name) + 4):
            break
        pruned = _prune(item, depth - 1, budget)
        if pruned is not _DROPPED:
            kept[name] = pruned
    return kept


def _list(value: list[Any] | tuple[Any, ...], depth: int, budget: _Budget) -> list[Any]:
    kept: list[Any] = []
    if len(value) > MAX_ITEMS:
        budget.trimmed = True
    for item in value[:MAX_ITEMS]:
        if not budget.take(2):
            break
        pruned = _prune(item, depth - 1, budget)
        if pruned is not _DROPPED:
            kept.append(pruned)
    return kept


def _json_size(text: str) -> int:
    """Bytes of the string in JSON with all non-ASCII escaped, the longest encoding."""
    return len(encode_basestring_ascii(text))

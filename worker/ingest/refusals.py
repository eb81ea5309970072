"""What happens to a message that the database refuses: it is kept whole in `wa_refused_stanzas`, as base64."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from worker.store.rows import Batch, Refused

MAX_PLAIN_CHARS = 256  # addresses and ids of WhatsApp are far shorter
MAX_REPR_CHARS = 100_000  # of a message that is not even JSON


def without_offenders(batch: Batch) -> Iterator[Batch]:
    """Versions of a batch to try in turn until the database takes one.

    First the batch itself; then without the messages that cannot be written; then also without each other message in
    turn; then without any message; last, without any change. Every message that is left out is in `refused`.

    A refused batch was not stored, so each version may carry the same number. A batch has at most 500 messages, and
    only a deliberate attack gets as far as trying each.
    """
    yield batch
    if not batch.messages and not batch.changes:
        return
    suspects = [n for n, message in enumerate(batch.messages) if unwritable(message)]
    if suspects:
        yield _without(batch, suspects)
    if len(batch.messages) > 1:
        for n in range(len(batch.messages)):
            yield _without(batch, {*suspects, n})
    no_messages = _without(batch, range(len(batch.messages)))
    yield no_messages
    if batch.changes:
        yield replace(no_messages, changes=(), discards={**batch.discards, "change_refused": len(batch.changes)})


def unwritable(message: Mapping[str, Any]) -> bool:
    """Whether Postgres or the HTTP client cannot take this message as JSON."""
    try:
        return b"\\u0000" in json.dumps(message, ensure_ascii=False).encode()
    except (ValueError, RecursionError, TypeError):
        return True


def plain(value: object) -> str | None:
    """ASCII without NUL, at most `MAX_PLAIN_CHARS`: safe for any column and any log. None if it is not a string."""
    if not isinstance(value, str):
        return None
    return value.encode("ascii", "ignore").decode().replace("\0", "")[:MAX_PLAIN_CHARS]


def _without(batch: Batch, numbers: Iterable[int]) -> Batch:
    out = set(numbers)
    kept = [message for n, message in enumerate(batch.messages) if n not in out]
    return replace(batch, messages=kept, refused=[_refused(batch.messages[n]) for n in sorted(out)])


def _refused(message: Mapping[str, Any]) -> Refused:
    try:
        body = json.dumps(message)
    except (ValueError, RecursionError, TypeError):
        body = repr(message)[:MAX_REPR_CHARS]
    return Refused(
        code="refused",
        reason="the database would not take it",
        chat_id=plain(message.get("chat_id")),
        sender=plain(message.get("sender")),
        wa_msg_id=plain(message.get("wa_msg_id")),
        body=base64.b64encode(body.encode("utf-8", "surrogatepass")).decode(),
        encoding="base64",
    )

"""Decrypts encrypted edits once their message and its secret are stored.

The answer to a commit says whether any are waiting in the database. One round fetches some, decrypts them and writes
the results. Until then they stay in the database, so a crash loses nothing: a later commit finds them again.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

import anyio
from loguru import logger

from worker.errors import StoreError
from worker.ingest.rules.changes import millisecond_time
from worker.ingest.rules.classify import Content, classify
from worker.ingest.rules.encrypted_edit import Opened, open_edit
from worker.ingest.rules.raw import MAX_CONTENT_BYTES, prune
from worker.ingest.rules.sealed_content import open_content
from worker.store import EncryptedEdit, OpenedEdit
from worker.store.session import SessionStore
from worker.text import message_text

EDITS_PER_ROUND = 20  # at most 7 MB
ROUND_SECONDS = 15.0  # the sidecar's commit waits for the round


class EncryptedEdits:
    """Decrypts waiting edits, at most `EDITS_PER_ROUND` at a time; fewer for a while after a failed round.

    The database postpones each edit that it hands out, longer every time, so a failing one does not block others.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._limit = EDITS_PER_ROUND

    async def open(self) -> None:
        """Run one round. Never raises StoreError: the batch that triggered it is already durable."""
        whole = False
        with anyio.move_on_after(ROUND_SECONDS):
            try:
                waiting = await self._store.encrypted_edits(self._limit)
                whole = await self._hand_back([opened_edit(edit, datetime.now(UTC).timestamp()) for edit in waiting])
            except StoreError as error:
                logger.debug("encrypted edits have to wait ({})", type(error).__name__)
        self._limit = min(EDITS_PER_ROUND, self._limit * 2) if whole else 1

    async def _hand_back(self, opened: Sequence[OpenedEdit]) -> bool:
        """Write the results, together or else one by one. Returns whether all were accepted."""
        try:
            await self._store.open_edits(opened)
        except StoreError:
            if len(opened) < 2:
                raise
        else:
            unreadable = sum(edit.unreadable for edit in opened)
            if unreadable:
                logger.warning("{} encrypted edits could not be opened", unreadable)
            return True
        for edit in opened:
            with suppress(StoreError):
                await self._hand_back([edit])
        return False


def opened_edit(edit: EncryptedEdit, clock_s: float) -> OpenedEdit:
    """The result for one waiting edit. Uses the edit's own time unless it is later than `clock_s`."""
    payload = edit.payload
    if "use" in payload:
        return _opened_content(edit)
    forms = [*payload["forms"], edit.sender, *([edit.sender_alt] if edit.sender_alt else [])]
    found = open_edit(
        base64.b64decode(edit.secret),
        base64.b64decode(payload["ciphertext"]),
        base64.b64decode(payload["iv"]),
        edit.target_id,
        forms,
        event=payload.get("event") is True,
    )
    if found is None:
        return OpenedEdit(id=edit.id, unreadable=True)
    if found.event is not None:
        return _opened_event(edit, found, clock_s)
    return OpenedEdit(id=edit.id, text=message_text(found.text), at=millisecond_time(found.timestamp_ms, clock_s))


def _opened_event(edit: EncryptedEdit, found: Opened, clock_s: float) -> OpenedEdit:
    """The event's new state: the text and facts that a newly sent event would have."""
    said = classify({"eventMessage": found.event or {}})
    if not isinstance(said, Content):
        return OpenedEdit(id=edit.id, unreadable=True)
    return OpenedEdit(
        id=edit.id,
        text=message_text(said.text or ""),
        content=prune(said.facts or {}, MAX_CONTENT_BYTES),
        at=millisecond_time(found.timestamp_ms, clock_s),
    )


def _opened_content(sealed: EncryptedEdit) -> OpenedEdit:
    payload = sealed.payload
    found = open_content(
        payload["use"],
        base64.b64decode(sealed.secret),
        (base64.b64decode(payload["ciphertext"]), base64.b64decode(payload["iv"])),
        (sealed.target_id, [sealed.sender, *([sealed.sender_alt] if sealed.sender_alt else [])]),
        payload["forms"],
        sealed.options or [],
    )
    if found is None:
        return OpenedEdit(id=sealed.id, unreadable=True)
    return OpenedEdit(id=sealed.id, content=prune(found.content, MAX_CONTENT_BYTES), text=message_text(found.text))

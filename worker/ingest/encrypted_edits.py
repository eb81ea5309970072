"""Encrypted edits, opened once their message and its secret are stored.

A commit says that some wait. They are fetched, opened and handed back in one step each; until then they lie in the
database, so that nothing depends on this process: what fails here is found again at a later commit.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from loguru import logger

from worker.errors import StoreError
from worker.ingest.rules.changes import millisecond_time
from worker.ingest.rules.encrypted_edit import open_edit
from worker.store import OpenedEdit, SealedEdit
from worker.store.session import Account
from worker.text import message_text

AT_ONCE = 20  # a turn: two calls, 7 MB at worst; the answer to the sidecar waits for it


class SealedEdits:
    """Opens what can be opened, a turn at a time."""

    def __init__(self, account: Account) -> None:
        self._account = account

    async def open(self) -> None:
        """One turn. The batch that led here is durable whatever happens."""
        try:
            sealed = await self._account.sealed_edits(AT_ONCE)
            opened = [opened_edit(edit, datetime.now(UTC).timestamp()) for edit in sealed]
            await self._account.open_edits(opened)
        except StoreError as error:
            logger.debug("encrypted edits are put off ({})", type(error).__name__)
            return
        unreadable = sum(edit.unreadable for edit in opened)
        if unreadable:
            logger.warning("{} encrypted edits could not be opened", unreadable)


def opened_edit(edit: SealedEdit, clock_s: float) -> OpenedEdit:
    """What is handed back for one held edit. `clock_s`: an edit's own time is not believed beyond it."""
    payload = edit.payload
    forms = [*payload["forms"], edit.sender, *([edit.sender_alt] if edit.sender_alt else [])]
    found = open_edit(
        base64.b64decode(edit.secret),
        base64.b64decode(payload["ciphertext"]),
        base64.b64decode(payload["iv"]),
        edit.target_id,
        forms,
    )
    if found is None:
        return OpenedEdit(id=edit.id, unreadable=True)
    return OpenedEdit(id=edit.id, text=message_text(found.text), at=millisecond_time(found.timestamp_ms, clock_s))

"""Stanzas that a sidecar was decrypting when it ended: counted, then decrypted alone, then not at all.

The reasons and the order of writes: docs/architecture.md, "A stanza that kills".
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Literal

from loguru import logger

from worker.errors import BridgeError, CallTimeout, StoreRefused
from worker.store.retry import until_answered
from worker.store.rows import Suspect
from worker.store.session import SessionStore

Cause = Literal["death", "kill"]
Treatment = Literal["alone", "unread"]

# Sent by a person, a platform, or a kernel short of memory. V8 uses SIGABRT, SIGILL or SIGTRAP when its heap is full.
KILLS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
FREE_KILLS = 4  # kills by such a signal count from the fifth on


def cause_of(gone: BridgeError, code: int | None, *, forced: bool) -> Cause | None:
    """How a sidecar's end counts against the stanza that it was decrypting; None: not at all.

    `code`: its exit code, or minus the signal that ended it. `forced`: we sent the signal.
    """
    if isinstance(gone, CallTimeout):
        return "death"  # it hung
    if forced or not code:
        return None  # we ended it, for what it wrote or for a stall
    return "kill" if -code in KILLS else "death"


def treatments(suspects: Iterable[Suspect]) -> dict[str, Treatment]:
    """What to do at each suspect's next delivery, by hash. One counted end: decrypt alone; two: do not decrypt."""
    counted = {one.hash: one.deaths + max(0, one.kills - FREE_KILLS) for one in suspects}
    return {digest: "alone" if count == 1 else "unread" for digest, count in counted.items() if count > 0}


class Suspects:
    """The suspects of one session. A connection counts only once: a hang may show as a stall and as a kill."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._connections = 0
        self._counted = False  # in this connection

    async def note(self, digest: str | None, cause: Cause | None) -> None:
        """Count the end or stall of a connection against this stanza. Retries until the database answers.

        Raises:
            StaleFence: another worker holds the lease.
        """
        if digest is None or cause is None or self._counted:
            return
        self._counted = True
        death = f"{self._store.fence}.{self._connections}"
        logger.warning("the sidecar was decrypting the stanza {} when it ended or hung ({})", digest[:16], cause)
        try:
            await until_answered(lambda: self._store.note_death(digest, death, killed=cause == "kill"))
        except StoreRefused as refused:
            logger.error("the database refused to record the suspect: {}", refused)

    async def treatments(self) -> dict[str, Treatment]:
        """The module's `treatments`, for the next connection."""
        found = await until_answered(self._store.list_suspects)
        self._connections += 1
        self._counted = False
        return treatments(found)

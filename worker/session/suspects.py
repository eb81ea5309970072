"""Stanzas in whose decryption a sidecar ended: counted, then decrypted alone, then not at all.

Why, and the order of writes: docs/architecture.md, "A stanza that kills".
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

# A person, a platform, or a kernel short of memory. V8 ends itself by SIGABRT, SIGILL or SIGTRAP when its heap is full.
KILLS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
FREE_KILLS = 4  # ends by such a signal count from the fifth on


def cause_of(gone: BridgeError, code: int | None, *, forced: bool) -> Cause | None:
    """How the end of a sidecar counts against the stanza that it was decrypting; None: not at all.

    `code`: its exit code, or minus the signal that ended it. `forced`: we sent the signal.
    """
    if isinstance(gone, CallTimeout):
        return "death"  # it hung
    if forced or not code:
        return None  # it was ended for what it wrote, or for a stall
    return "kill" if -code in KILLS else "death"


def treatments(suspects: Iterable[Suspect]) -> dict[str, Treatment]:
    """What to do at the next delivery of each, by hash. After one counted end: alone. After two: do not decrypt."""
    counted = {one.hash: one.deaths + max(0, one.kills - FREE_KILLS) for one in suspects}
    return {digest: "alone" if count == 1 else "unread" for digest, count in counted.items() if count > 0}


class Suspects:
    """The suspects of one session. Each connection counts against one at most: a hang may end as a stall and a kill."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._connections = 0
        self._counted = False  # in this connection

    async def note(self, digest: str | None, cause: Cause | None) -> None:
        """Count the end or the stall of a connection against this stanza. Asks until the database answers.

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
            logger.error("the database refuses to note it: {}", refused)

    async def treatments(self) -> dict[str, Treatment]:
        """As `treatments`, for the next connection."""
        found = await until_answered(self._store.list_suspects)
        self._connections += 1
        self._counted = False
        return treatments(found)

"""Detects a stalled connection from the sidecar's figures. Pure.

Silence in a quiet group is no stall; only work that began and does not end is. Source: docs/whatsapp.md, "Stalls".
"""

from __future__ import annotations

from worker.bridge.protocol import Pong

PING_EVERY_SECONDS = 10.0
OPEN_WITHIN_SECONDS = 75.0  # Baileys ends a connect after 20 s and a query after 60 s
STANZA_STUCK_MS = 150_000  # one decryption may await two queries of up to 60 s each
LOOP_LAG_MS = 5_000  # the mean delay of an event loop that is stuck
HELD_SECONDS = 30.0  # a connection that was open this long resets the backoff
SETTLED_SECONDS = 300.0  # one that was open this long resets the count of stalls
STALLS_BEFORE_RESTART = 2  # the first stall ends the socket, this one the sidecar
STALLS_BEFORE_EXIT = 4  # this one ends the worker; the platform may start it elsewhere


def judge(pong: Pong, *, database_away: bool, settled_before: int | None = None) -> str | None:
    """Why the connection counts as stalled; None if it does not.

    `settled_before`: how many stanzas were settled at the last look. While more are, an old one only waits its turn.
    While the database is away everything waits behind the gate: docs/architecture.md, "The frame gate", 6.
    """
    if database_away:
        return None
    if (pong.oldest_stanza_ms or 0) > STANZA_STUCK_MS and settled_before in (None, settled(pong)):
        return "a message has been in work for too long"
    if pong.loop_lag_ms > LOOP_LAG_MS:
        return "the sidecar is too busy to do anything"
    return None


def settled(pong: Pong) -> int:
    """Stanzas of this connection that are in the log, or were swallowed."""
    return pong.stanzas_out + pong.swallowed

"""Detects stalled connections from the sidecar's figures. Pure.

Silence is not a stall; only work that started and does not finish is. Source: docs/whatsapp.md, "Stalls".
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.bridge.protocol import Pong

PING_EVERY_SECONDS = 10.0
OPEN_WITHIN_SECONDS = 75.0  # Baileys ends a connect after 20 s and a query after 60 s
STANZA_STUCK_MS = 150_000  # one decryption may await two queries of up to 60 s each
LOOP_LAG_MS = 5_000  # mean delay of a stuck event loop
HELD_SECONDS = 30.0  # a connection open this long resets the backoff
SETTLED_SECONDS = 300.0  # a connection open this long resets the count of stalls
STALLS_BEFORE_RESTART = 2  # the first stall ends the socket, this one the sidecar
STALLS_BEFORE_EXIT = 4  # this one ends the worker; the platform may restart it elsewhere


@dataclass(frozen=True, kw_only=True)
class Stall:
    """A stalled connection. `blamed`: the stuck stanza; None: whichever is marked as being decrypted."""

    reason: str
    blamed: str | None = None


def judge(pong: Pong, before: Pong | None, *, database_away: bool) -> Stall | None:
    """Whether the connection is stalled. `before`: the previous figures.

    A stanza is stuck only if two looks agree: after a machine has slept, everything looks old.
    While the database is away, everything waits behind the gate: docs/architecture.md, "The frame gate", 6.
    """
    if database_away:
        return None
    looks = [pong.stuck_ms or 0, before.stuck_ms or 0 if before and before.stuck_hash == pong.stuck_hash else 0]
    if min(looks) > STANZA_STUCK_MS:
        return Stall(reason="a message has been in work for too long", blamed=pong.stuck_hash)
    if pong.loop_lag_ms > LOOP_LAG_MS:
        return Stall(reason="the sidecar is too busy to do anything")
    return None

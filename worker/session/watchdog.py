"""When a connection that looks alive is not (FACTS §8), judged from the sidecar's own figures.

Pure. Silence in a quiet group is no stall: only work that was begun and does not end is one.
"""

from __future__ import annotations

from worker.bridge.protocol import Pong

PING_EVERY_SECONDS = 10.0
OPEN_WITHIN_SECONDS = 75.0  # Baileys itself gives a connect up after 20 s, a query after 60 s
STANZA_STUCK_MS = 150_000  # longer than two queries' time-outs of 60 s that one decryption may await
LOOP_LAG_MS = 5_000  # a loop that is this late on average does nothing else
HELD_SECONDS = 30.0  # a connection that was open this long resets the backoff
SETTLED_SECONDS = 300.0  # … and this long, the count of stalls
STALLS_BEFORE_RESTART = 2  # end the socket; the second time in a row, the sidecar
STALLS_BEFORE_EXIT = 4  # then the worker: whoever restarts it gives it a new machine, perhaps


def judge(pong: Pong, *, database_away: bool) -> str | None:
    """Why the connection counts as stalled; None if it does not.

    While the database is away everything waits behind the gate, and that has its own rule (DESIGN rule 6).
    """
    if database_away:
        return None
    if (pong.oldest_stanza_ms or 0) > STANZA_STUCK_MS:
        return "a message has been in work for too long"
    if pong.loop_lag_ms > LOOP_LAG_MS:
        return "the sidecar is too busy to do anything"
    return None

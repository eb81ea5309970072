"""Whether a commit costs more as the account grows: on a PostgreSQL of its own, without the way there.

Rows are filled in without their triggers, so changes and the search's words are only those of the measured commits.
`python -m bench.queries` measures with those.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from tests.conftest import real_postgres

SESSION = "growth"
COMMIT = 20  # messages of a measured commit, and as many keys
ROUNDS = 15
KEYS, GROUPS = 10_000, 1_000
FEW = 50  # groups and keys at first
STEP = 50_000  # rows in one statement of the filling
SIZES = (1_000, 10_000, 100_000, 1_000_000)

Connection = psycopg.Connection[Any]


def growth(sizes: tuple[int, ...], time_for: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """The median of a commit's milliseconds at each size, from the first on with many keys and groups; as far as there
    is time.
    """
    with real_postgres() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        _begin(connection)
        _keys_and_groups(connection, FEW, FEW)
        seq, rows = 0, 0
        for size in sizes:
            if not time_for(f"growth, {size:,} rows"):
                return
            rows = _fill(connection, rows, size, time_for)
            if rows < size:
                return
            if size == sizes[0]:
                seq, figure = _commits(connection, seq)
                yield {"rows": size, "keys": FEW, "groups": FEW, "commit_ms": figure}
                _keys_and_groups(connection, KEYS, GROUPS)
            seq, figure = _commits(connection, seq)
            yield {"rows": size, "keys": KEYS, "groups": GROUPS, "commit_ms": figure}


def _begin(connection: Connection) -> None:
    connection.execute("select public.wa_lease_acquire(%s, 'bench', 86400)", (SESSION,))
    connection.execute("select public.wa_begin_epoch(%s, 1)", (SESSION,))


def _keys_and_groups(connection: Connection, keys: int, groups: int) -> None:
    connection.execute(
        "insert into public.groups (session_id, wa_group_id, name, monitor) "
        "select %s, n || '@g.us', 'Group ' || n, true from generate_series(1, %s) as n on conflict do nothing",
        (SESSION, groups),
    )
    connection.execute(
        "insert into public.wa_session_keys (session_id, type, key_id, value) "
        "select %s, 'session', n || '.0', repeat('k', 400) from generate_series(1, %s) as n on conflict do nothing",
        (SESSION, keys),
    )
    connection.execute("analyze public.groups, public.wa_session_keys")


def _fill(connection: Connection, rows: int, size: int, time_for: Callable[[str], bool]) -> int:
    """Fill up to so many rows; how many there are in the end."""
    connection.execute("alter table public.messages disable trigger user")
    while rows < size and time_for(f"growth, {size:,} rows"):
        last = min(rows + STEP, size)
        connection.execute(
            "insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, push_name, ts, kind, text) "
            "select %s, g.id, 'F' || n, g.wa_group_id, n %% 300 || '@lid', 'P', "
            "'2024-01-01'::timestamptz + n * interval '1 minute', 'text', 'message ' || n "
            "from generate_series(%s::bigint, %s::bigint) as n inner join public.groups as g "
            "on g.session_id = %s and g.wa_group_id = n %% 50 + 1 || '@g.us'",
            (SESSION, rows + 1, last, SESSION),
        )
        rows = last
    connection.execute("alter table public.messages enable trigger user")
    connection.execute("vacuum analyze public.messages")
    return rows


def _commits(connection: Connection, seq: int) -> tuple[int, float]:
    """The last number and the median of some commits; the first two warm up."""
    times = []
    for _ in range(ROUNDS + 2):
        seq += 1
        messages = [
            {
                "wa_msg_id": f"C{seq}-{n}", "chat_id": f"{n % FEW + 1}@g.us", "sender": f"{n}@lid", "push_name": "P",
                "ts": "2026-11-22T12:00:00Z", "kind": "text", "text": f"words of {n}", "raw": {"conversation": "words"},
            }
            for n in range(COMMIT)
        ]  # fmt: skip
        keys = [{"type": "session", "id": f"{n}.0", "value": "k" * 400} for n in range(COMMIT)]
        batch = json.dumps({"fence": "1", "epoch": "1", "seq": str(seq), "messages": messages, "keys": keys})
        began = time.perf_counter()
        connection.execute("select public.wa_commit(%s, %s)", (SESSION, batch), prepare=True)
        times.append((time.perf_counter() - began) * 1000)
    return seq, statistics.median(times[2:])

"""What `--sabotage` breaks: exactly one thing each, from outside, so that a check can be seen to fail.

Three places: the sidecar (hooks/sidecar.mjs), the worker (entry.py), the database (an additional migration, made here
from the schema files).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testkit.processes import ROOT

MIGRATIONS = ROOT / "supabase" / "migrations"
SCHEMAS = ROOT / "supabase" / "schemas"
LAST = "29991231235959_sabotage.sql"


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """`check`: the one that must fail; `also`: those that may, as a consequence. `faults`: what brings it to light;
    `on_defaults`: the phase on default settings does."""

    check: str
    also: tuple[str, ...] = ()
    broken: str
    faults: tuple[str, ...] = ()
    on_defaults: bool = False


# A message that is missing or still on its way lies in no gap of the coverage either: `covered` may fail with `stored`
# and with `settled`.
SABOTAGES = {
    "lost": Sabotage(check="stored", also=("covered",), broken="one message in eight is left out of its commit"),
    "text": Sabotage(check="intact", broken="texts are stored without their last character"),
    "dedupe": Sabotage(
        check="once",
        # Unsettled, a file waits; without a unique key a stub stays beside its good copy.
        also=("settled", "readable", "media", "covered"),
        broken="the database takes a batch twice: neither sequence check nor unique key",
        faults=("db_lost_answer",),
    ),
    "keys_first": Sabotage(
        check="stored",
        also=("settled", "media", "covered"),
        broken="a batch in parts sends its keys and its number before its messages",
        faults=("dies_between_parts",),
    ),
    "unlisted": Sabotage(
        check="stored",
        also=("covered",),
        broken="what never passes is answered as if it were listed",
        faults=("gateway_text",),
    ),
    "pieces": Sabotage(
        check="stored",
        also=("settled", "media", "covered"),
        broken="what is too large alone is answered as if it had gone in pieces",
        faults=("gateway_size",),
    ),
    "gate": Sabotage(check="gate", broken="the sidecar writes frames at once"),
    "keys": Sabotage(
        check="readable",
        also=("settled", "media", "covered"),  # what cannot be read has no file, and goes on being asked for
        broken="the sidecar reads keys past its own unwritten ones",
    ),
    "hash": Sabotage(check="media", broken="a byte of each object is turned before the upload"),
    "object": Sabotage(check="media", broken="objects are not uploaded"),
    "twice": Sabotage(check="media_once", broken="each content is uploaded under two names"),
    "lease": Sabotage(check="lease", broken="the database gives the lease to whoever asks", faults=("second_worker",)),
    "monitor": Sabotage(
        check="privacy",
        also=("covered",),  # nobody is asked for another copy of what the switch says is not stored
        broken="neither worker nor database looks at groups.monitor",
    ),
    "mark": Sabotage(
        check="stored",
        also=("settled", "readable", "media", "covered"),
        broken="nothing tells which stanza a sidecar was decrypting",
        faults=("dies_at_one",),
    ),
    "ledger": Sabotage(check="covered", broken="what is dropped for its age makes no gap", on_defaults=True),
    # Messages wait for their commit, while polls go on and move the mark several times.
    "early": Sabotage(check="covered", broken="the high-water mark is half a minute ahead", faults=("commit_error",)),
    "memory": Sabotage(check="memory", broken="the sidecar keeps 4 MB for each message"),
}


def migrations_for(sabotage: str, folder: Path) -> Path | None:
    """The migrations with one more that undoes a protection; None: the real ones do."""
    make = _SQL.get(sabotage)
    if make is None:
        return None
    return migrations_with(make(), folder)


def migrations_with(sql: str, folder: Path) -> Path:
    """A copy of the project's migrations, with this one behind them."""
    target = folder / "migrations"
    shutil.copytree(MIGRATIONS, target)
    (target / LAST).write_text(sql)
    return target


def _take_batches_twice() -> str:
    commit = changed("wa.begin_batch", r"return v_seq <= v_row\.seq;", "return false;")
    commit = re.sub(r"if coalesce\(v_seq > v_row\.seq \+ 1, true\) then.*?end if;", "", commit, flags=re.DOTALL)
    store = changed(
        "wa.store_messages",
        r"on conflict \(session_id, chat_id, sender, wa_msg_id\) do nothing\s+returning",
        "returning",
    )
    drop = "alter table public.messages drop constraint messages_session_id_chat_id_sender_wa_msg_id_key;"
    return "\n".join([drop, store, commit])


def _lease_for_everybody() -> str:
    return changed("public.wa_lease_acquire", r"v_row\.lease_owner is null or v_row\.lease_expires_at <= v_now", "true")


def _monitor_everything() -> str:
    return changed("wa.store_messages", r"and g\.monitor", "")


def _forget_drops() -> str:
    return changed("wa.write_dropped", r"if coalesce\(p_dropped in \('\[\]', 'null'\), true\) then", "if true then")


_SQL: dict[str, Callable[[], str]] = {
    "dedupe": _take_batches_twice,
    "lease": _lease_for_everybody,
    "ledger": _forget_drops,
    "monitor": _monitor_everything,
}


def changed(function: str, pattern: str, instead: str) -> str:
    """The definition of a function with one change."""
    text = "\n".join(path.read_text() for path in sorted(SCHEMAS.glob("*.sql")))
    (found,) = re.findall(rf"create (function {re.escape(function)}\(.*?\n\$\$;)", text, flags=re.DOTALL)
    definition = f"create or replace {found}"
    changed, count = re.subn(pattern, instead, definition, flags=re.DOTALL)
    if count == 0:
        raise AssertionError(f"{function} has changed: tests/chaos/sabotage.py must follow")
    return changed

"""Generates the schema's types for app developers, in TypeScript and pydantic, from a database's catalogue.

`python -m scripts.make_types` starts PostgreSQL, builds the schema including supabase/optional/users.sql, and writes
the files of supabase/types from the templates in scripts/types. Omits what only the worker uses.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from psycopg.rows import dict_row

from testkit.processes import ROOT
from testkit.users import STAND_IN, USERS
from tests.conftest import real_postgres
from tests.integration.catalogue import database, schema_files

FOLDER = ROOT / "supabase" / "types"
TEMPLATES = ROOT / "scripts" / "types"
HEADER = "Made by `make types` from the database's catalogue."

# What apps read, and the name of a row's class in Python.
TABLES = {
    "audit_log": "AuditEntry",
    "group_members": "GroupMember",
    "groups": "Group",
    "media": "Media",
    "message_changes": "MessageChange",
    "message_edits": "MessageEdit",
    "message_reactions": "MessageReaction",
    "messages": "Message",
    "people": "Person",
    "poll_votes": "PollVote",
    "runtime_flags": "RuntimeFlag",
    "session_members": "SessionMember",
    "wa_sessions": "Session",
}
FUNCTIONS = ["changes", "coverage", "my_coverage", "my_search", "my_sessions", "search_messages"]

# The worker's own columns of these tables, and the account's credentials.
HIDDEN = {
    "messages": {"content_order", "revoke_claimed_by"},
    "wa_sessions": {
        "batch", "complete_epoch", "creds_json", "epoch", "failed_owner", "fence", "lease_owner", "lease_seconds",
        "not_before", "oldest_cursor", "search_done", "seq", "start_failures",
    },
}  # fmt: skip

# Types in the Data API's JSON, where a bigint is a number. Ours are ids and sizes, far below 2^53.
TYPES = {
    "bigint": ("number", "int"),
    "boolean": ("boolean", "bool"),
    "double precision": ("number", "float"),
    "integer": ("number", "int"),
    "jsonb": ("Json", "Any"),
    "text": ("string", "str"),
    "timestamp with time zone": ("string", "Time"),
    "uuid": ("string", "UUID"),
}  # an unlisted type is a KeyError: add it here

# `required`: an insert must name it; `generated`: it must not; `absent`: users may read the table, but not this column.
# PostgreSQL takes every column of a view for nullable.
COLUMNS = """
    select c.relname as table, a.attname as name, format_type(a.atttypid, null) as type, not a.attnotnull as nullable,
      a.attnotnull and not a.atthasdef and a.attidentity = '' as required,
      a.attidentity = 'a' or a.attgenerated <> '' as generated,
      has_any_column_privilege('authenticated', c.oid, 'select')
        and not has_column_privilege('authenticated', c.oid, a.attnum, 'select') as absent,
      c.relkind = 'v' as of_view
    from pg_attribute as a join pg_class as c on c.oid = a.attrelid
    where c.relnamespace = 'public'::regnamespace and c.relname = any(%s) and a.attnum > 0 and not a.attisdropped
    order by c.relname collate "C", a.attnum"""
LINKS = """
    with keys as (
      select k.*, l.relname, array(
        select a.attname::text from unnest(k.conkey) with ordinality as n (number, place)
        join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = n.number order by n.place
      ) as columns
      from pg_constraint as k join pg_class as l on l.oid = k.conrelid
      where k.connamespace = 'public'::regnamespace and l.relname = any(%s)
    )
    select f.relname as table, f.conname as name, f.columns, t.relname as target, t.columns as target_columns,
      exists (
        select from keys as u
        where u.conrelid = f.conrelid and u.contype in ('p', 'u') and u.columns <@ f.columns and f.columns <@ u.columns
      ) as one_to_one
    from keys as f join keys as t on t.conrelid = f.confrelid and t.contype in ('p', 'u') and t.conkey = f.confkey
    where f.contype = 'f' order by f.conname collate "C" """
ARGUMENTS = """
    select p.proname as function, format_type(p.prorettype, null) as returns, a.name, format_type(a.type, null) as type,
      a.place > p.pronargs - p.pronargdefaults as optional
    from pg_proc as p
    left join unnest(p.proargnames, p.proargtypes::oid[]) with ordinality as a (name, type, place) on true
    where p.pronamespace = 'public'::regnamespace and p.proname = any(%s)
    order by p.proname collate "C", a.name collate "C" """


def in_typescript(sql: str) -> str:
    return TYPES[sql.removesuffix("[]")][0] + "[]" * sql.endswith("[]")


def in_python(sql: str) -> str:
    name = TYPES[sql.removesuffix("[]")][1]
    return f"tuple[{name}, ...]" if sql.endswith("[]") else name


def make_types(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The contents of the files of supabase/types, by name."""
    query = connection.cursor(row_factory=dict_row).execute
    columns = query(COLUMNS, [list(TABLES)]).fetchall()
    shown = [column for column in columns if column["name"] not in HIDDEN.get(column["table"], ())]
    content = {
        "header": HEADER,
        "classes": TABLES,
        "tables": {name: list(rows) for name, rows in groupby(shown, itemgetter("table"))},
        "links": query(LINKS, [list(TABLES)]).fetchall(),
        "functions": {
            name: list(rows) for name, rows in groupby(query(ARGUMENTS, [FUNCTIONS]).fetchall(), itemgetter("function"))
        },
    }
    templates = Environment(  # noqa: S701  # no markup
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    templates.filters |= {"typescript": in_typescript, "python": in_python}
    return {path.stem: templates.get_template(path.name).render(content) for path in sorted(TEMPLATES.glob("*.jinja"))}


if __name__ == "__main__":
    with real_postgres() as server, database(server, [STAND_IN, *schema_files(), USERS]) as made:
        for file, text in make_types(made).items():
            (FOLDER / file).write_text(text)

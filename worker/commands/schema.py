"""`wa-worker schema`: the migrations as one SQL file, for the SQL editor of Supabase's dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.runtime import end
from worker.errors import ExitCode
from worker.installation import DATA

# The history that `supabase db push` keeps, so that it finds nothing left to do.
HISTORY = """\
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text primary key, statements text[], name text
);
"""
EMPTY = """\
do $guard$ begin
  if to_regclass('public.wa_sessions') is not null then
    raise exception 'wa-worker''s tables are here already; `wa-worker schema --after VERSION` prints what is newer';
  end if;
end $guard$;
"""
NEWER = """\
do $guard$ begin
  if public.wa_schema_version() ->> 'version' <> '{after}' then
    raise exception 'this database has version %, not {after}', public.wa_schema_version() ->> 'version';
  end if;
end $guard$;
"""


def schema(
    after: Annotated[
        str | None, typer.Option("--after", metavar="VERSION", help="Only what is newer; `wa-worker doctor` names it.")
    ] = None,
) -> None:
    """Print the SQL that makes the tables, for the SQL editor of a Supabase project.

    One transaction: all of it or nothing. For a new project, or with --after for one that has an older version.
    `supabase db push` does the same. Exit codes: 0 printed · 2 there is no such version.
    """
    files = sorted((DATA / "supabase" / "migrations").glob("*.sql"))
    if after is not None and after not in {_version(file) for file in files}:
        end(f"--after {after}: no migration has this version; the newest is {_version(files[-1])}", ExitCode.SETTINGS)
    typer.echo(as_one(files, after), nl=False)


def as_one(files: Sequence[Path], after: str | None = None) -> str:
    """The migrations newer than `after`, in one transaction that records each as `supabase db push` does."""
    parts = [NEWER.format(after=after) if after else EMPTY, HISTORY]
    for file in files:
        if after is None or _version(file) > after:
            name = file.stem.partition("_")[2]
            note = f"(version, name) values ('{_version(file)}', '{name}');"
            sql = file.read_text().rstrip()
            parts.append(f"-- {file.name}\n{sql}\ninsert into supabase_migrations.schema_migrations {note}\n")
    return "\n".join(["begin;\n", *parts, "commit;\n"])


def _version(file: Path) -> str:
    return file.name[:14]

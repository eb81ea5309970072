"""supabase/schemas says what the migrations make, on new databases and on those that have the first fifteen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from testkit.processes import ROOT
from tests.integration.catalogue import catalogue, database, migration_files, schema_files, unpack_first_migrations

BASE = "20261123000200_base.sql"


@pytest.fixture(scope="session")
def first_migrations(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(unpack_first_migrations(tmp_path_factory.mktemp("first")).glob("*.sql"))


def test_the_migrations_make_what_the_schema_files_say(postgres: str) -> None:
    with database(postgres, schema_files()) as wanted, database(postgres, migration_files()) as made:
        assert catalogue(made) == catalogue(wanted)


def test_a_database_with_the_first_fifteen_migrations_ends_in_the_same_schema(
    postgres: str, first_migrations: list[Path]
) -> None:
    base, *later = migration_files()
    assert base.name == BASE
    with database(postgres, schema_files()) as wanted, database(postgres, [*first_migrations, *later]) as made:
        assert catalogue(made) == catalogue(wanted)


def test_the_base_makes_what_the_first_fifteen_migrations_made(postgres: str, first_migrations: list[Path]) -> None:
    base = migration_files()[0]
    with database(postgres, first_migrations) as wanted, database(postgres, [base]) as made:
        assert catalogue(made) == catalogue(wanted)


@pytest.mark.parametrize(
    "change",
    [
        "alter table public.messages add column one_more text",
        "alter table public.messages alter column kind drop not null",
        "alter table public.groups alter column monitor set default true",
        "alter table public.media drop constraint media_sha256_check",
        "drop index public.messages_pending",
        "alter index public.messages_mentions set (fastupdate = true)",
        "alter sequence public.messages_content_order increment by 1",
        "alter function wa.merge_identity reset enable_seqscan",
        "alter function public.wa_commit security definer",
        "grant execute on function wa.lock_session to anon",
        "create or replace function public.wa_schema_version() returns jsonb language sql immutable "
        "set search_path = '' as $$ select '{}'::jsonb $$",
        "grant select on public.messages to authenticated",
        "grant usage on schema wa to anon",
        "alter table public.messages disable row level security",
        "create policy everyone on public.messages for select using (true)",
        "create type public.one_more as (text text)",
        "grant usage on sequence public.messages_id_seq to anon",
        "comment on table public.messages is 'said'",
        "create trigger t before update on public.messages for each row "
        "execute function suppress_redundant_updates_trigger()",
    ],
)
def test_the_comparison_sees(changed: psycopg.Connection, change: str) -> None:
    before = catalogue(changed)
    with changed.transaction(force_rollback=True):
        changed.execute(change.encode())
        assert catalogue(changed) != before


@pytest.fixture(scope="module")
def changed(postgres: str) -> Iterator[psycopg.Connection]:
    with database(postgres, migration_files()) as connection:
        yield connection


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_what_a_hosted_project_grants_by_default_is_taken_back(changed: psycopg.Connection, role: str) -> None:
    found = changed.execute(
        """
        select oid::regclass::text from pg_class where relkind in ('r', 'v', 'S') and relnamespace::regnamespace::text
          in ('public', 'wa') and relacl::text ~ ('[{,]"?' || %(role)s || '"?=')
        union all
        select oid::regprocedure::text from pg_proc where pronamespace::regnamespace::text
          in ('public', 'wa') and (proacl is null or proacl::text ~ ('[{,]"?' || %(role)s || '"?='))
        """,
        {"role": role},
    ).fetchall()
    assert found == []


def test_every_schema_file_is_named_in_the_configuration() -> None:
    assert sorted(schema_files()) == sorted((ROOT / "supabase" / "schemas").glob("*.sql"))


def test_the_last_statement_of_each_migration_reloads_the_data_api() -> None:
    for file in migration_files():
        assert file.read_text().rstrip().endswith("notify pgrst, 'reload schema';"), file.name

"""The migrations, on both databases: they apply, and nobody but the service role gets anything."""

from __future__ import annotations

import re

import httpx
import psycopg
import pytest

from worker.store import SCHEMA_VERSION, Store
from worker.store.embedded import MIGRATIONS, Endpoint

TABLES = {
    "audit_log",
    "coverage_gaps",
    "decrypted_stanzas",
    "group_members",
    "groups",
    "media",
    "media_jobs",
    "media_verified",
    "message_changes",
    "message_edits",
    "message_reactions",
    "message_search",
    "message_secrets",
    "messages",
    "people",
    "runtime_flags",
    "wa_commit_pieces",
    "wa_discards",
    "wa_held_changes",
    "wa_hosts",
    "wa_identities",
    "wa_media_abandoned",
    "wa_media_doomed",
    "wa_merges_due",
    "wa_monitored_versions",
    "wa_numbers_moved",
    "wa_refused_stanzas",
    "wa_removed_sessions",
    "wa_requests",
    "wa_session_keys",
    "wa_sessions",
    "wa_suspects",
}
OURS = "pronamespace in ('public'::regnamespace, 'wa'::regnamespace)"


def test_migrations_are_named_as_the_supabase_cli_wants_them() -> None:
    names = [path.name for path in MIGRATIONS.iterdir()]
    assert all(re.fullmatch(r"\d{14}_[a-z_]+\.sql", name) for name in names)
    assert len({name[:14] for name in names}) == len(names)


def test_the_database_answers_with_the_newest_migration_which_the_worker_asks_for(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        found = connection.execute("select public.wa_schema_version() ->> 'version'").fetchone()
    assert found == (SCHEMA_VERSION,)
    assert max(path.name for path in MIGRATIONS.iterdir()).startswith(SCHEMA_VERSION)


def test_the_documentation_has_every_column_with_its_source(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        found = connection.execute(
            "select table_name, column_name from information_schema.columns where table_schema = 'public'"
        ).fetchall()
    page = (MIGRATIONS.parents[1] / "docs" / "schema.md").read_text().partition("\n## Tables")[2]
    documented = set()
    for name, section in re.findall(r"\n### (\w+)\n(.*?)(?=\n##|\Z)", page, re.DOTALL):
        for line in section.splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if line.startswith("| `") and len(cells) == 3 and cells[2]:
                documented |= {(name, column) for column in re.findall(r"`(\w+)`", cells[0])}
    assert set(found) - documented == set()
    assert {pair for pair in documented if pair[0] in TABLES} - set(found) == set()


def test_row_level_security_is_on_for_all_tables_and_has_no_policies(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        found = connection.execute(
            "select relname, relrowsecurity from pg_class "
            "where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace"
        ).fetchall()
        policies = connection.execute("select count(*) from pg_policies").fetchone()
    assert dict(found) == dict.fromkeys(TABLES, True)
    assert policies == (0,)


@pytest.mark.parametrize("role", ["anon", "authenticated", "public"])
def test_nobody_else_can_execute_a_function(postgres: str, role: str) -> None:
    with psycopg.connect(postgres) as connection:
        found = connection.execute(
            f"select proname from pg_proc where {OURS} and has_function_privilege(%s, oid, 'execute')",  # noqa: S608
            (role,),
        ).fetchall()
    assert found == []


def test_the_service_role_can_execute_all_functions_and_use_all_tables(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        denied = connection.execute(
            f"select proname from pg_proc where {OURS} "  # noqa: S608
            "and not has_function_privilege('service_role', oid, 'execute')"
        ).fetchall()
        denied += connection.execute(
            "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace "
            "and not has_table_privilege('service_role', oid, 'select, insert, update, delete')"
        ).fetchall()
    assert denied == []


def test_functions_run_as_their_caller_with_an_empty_search_path(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        found = connection.execute(
            f"select proname, prosecdef, proconfig from pg_proc where {OURS}"  # noqa: S608
        ).fetchall()
    # Analysing takes the owner; whoever switches a group may have no rights on version and ledger; users who read
    # changes see neither the session's row nor others' changes.
    definers = {name for name, definer, _ in found if definer}
    assert definers == {"cursor_range", "note_left", "note_monitored", "raise_monitored_version", "wa_analyze"}
    # Some may not scan whole tables, whatever the planner thinks of its chances.
    assert {tuple(config) for _, _, config in found} == {
        ('search_path=""',),
        ('search_path=""', "enable_seqscan=off"),
        ('search_path=""', "plan_cache_mode=force_generic_plan", "enable_seqscan=off"),
    }


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("wa_status", {"p_session": "default"}),
        ("wa_monitored_groups", {"p_session": "default"}),
        ("wa_lease_acquire", {"p_session": "default", "p_owner": "x", "p_seconds": 1}),
        ("wa_analyze", {}),
    ],
)
async def test_the_publishable_key_calls_no_function(
    embedded: Endpoint, function: str, args: dict[str, object]
) -> None:
    headers = {"apikey": embedded.publishable_key}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
        answer = await http.post(f"{embedded.url}/rest/v1/rpc/{function}", json=args)
    assert answer.status_code in {401, 403}
    assert answer.json()["code"] == "42501"


async def test_the_data_api_does_not_expose_internal_functions(embedded: Endpoint) -> None:
    headers = {"apikey": embedded.key, "authorization": f"Bearer {embedded.key}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
        for profile in ({}, {"content-profile": "wa"}):
            answer = await http.post(
                f"{embedded.url}/rest/v1/rpc/parse_time", json={"p_text": "2026-11-26"}, headers=profile
            )
            assert answer.status_code in {404, 406}, answer.text


@pytest.mark.parametrize("table", sorted(TABLES))
async def test_the_publishable_key_sees_no_row(embedded: Endpoint, store: Store, session: str, table: str) -> None:
    await store.lease_acquire(session, "somebody", 60)
    await store.audit(session, "connect")
    async with httpx.AsyncClient(headers={"apikey": embedded.publishable_key}, trust_env=False) as http:
        answer = await http.get(f"{embedded.url}/rest/v1/{table}")
        assert answer.status_code in {401, 403} or answer.json() == []


async def test_without_a_key_there_is_no_answer(embedded: Endpoint) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{embedded.url}/rest/v1/wa_sessions")
    assert answer.status_code == 401

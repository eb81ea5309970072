"""supabase/types: what `make types` makes of the catalogue today, that compilers take it, and that rows fit it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from scripts.make_types import FOLDER, HIDDEN, TABLES, make_types
from testkit.processes import ROOT
from testkit.users import STAND_IN, USERS
from tests.integration.catalogue import database, migration_files
from tests.integration.database import message, photo, rows, table, writer
from tests.integration.test_web_app_page import examples
from worker.store import Store

# Each line after the page's example is accepted, or is said to be an error.
TYPED = """
const first = data![0]
const text: string | null = first.text
const mime: string | undefined = first.media?.mime
const id: number = newest.data!.id
// @ts-expect-error: not selected
first.kind
// @ts-expect-error: no such column
await supabase.from('groups').update({ monitored: true })
// @ts-expect-error: the database gives the id
await supabase.from('groups').insert({ wa_group_id: 'g', id: 1 })
// @ts-expect-error: no table of apps
await supabase.from('wa_session_keys').select('value')
// @ts-expect-error: an argument is missing
await supabase.rpc('changes', { p_session: SESSION })
await supabase.rpc('changes', { p_session: SESSION, p_since: null })
await supabase.rpc('my_sessions')
export { text, mime, id }
"""


@pytest.fixture(scope="module")
def made(postgres: str) -> Iterator[psycopg.Connection]:
    with database(postgres, [STAND_IN, *migration_files(), USERS]) as connection:
        yield connection


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """supabase/types/models.py, as an app has it that copied the file."""
    module = ModuleType("models")
    monkeypatch.setitem(sys.modules, "models", module)
    exec(compile((FOLDER / "models.py").read_text(), "models.py", "exec"), module.__dict__)  # noqa: S102
    return module


def test_the_files_are_what_the_catalogue_says(made: psycopg.Connection) -> None:
    found = {file.name: file.read_text() for file in FOLDER.iterdir() if file.is_file()}
    assert found == make_types(made), "`make types` writes them"


@pytest.mark.parametrize(
    "change",
    [
        "alter table public.messages add column one_more text",
        "alter table public.groups alter column name set not null",
        "alter table public.media alter column width type double precision",
        "alter table public.messages drop constraint messages_quoted_id_fkey",
        "alter table public.audit_log alter column event set default ''",
        "grant select (raw) on public.messages to authenticated",
        "drop function public.coverage",
    ],
)
def test_a_change_of_the_schema_is_seen(made: psycopg.Connection, change: str) -> None:
    before = make_types(made)
    with made.transaction(force_rollback=True):
        made.execute(change.encode())
        assert make_types(made) != before


def test_every_table_that_users_may_read_has_a_type(made: psycopg.Connection) -> None:
    open_to_users = made.execute("""
        select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')
          and has_any_column_privilege('authenticated', oid, 'select')""")
    assert {name for (name,) in open_to_users} <= set(TABLES)


@pytest.mark.parametrize("file", ["database.ts", "models.py"])
@pytest.mark.parametrize("column", sorted({*HIDDEN["messages"], *HIDDEN["wa_sessions"]} - {"batch", "seq"}))
def test_what_is_the_workers_own_is_left_out(file: str, column: str) -> None:
    assert f" {column}:" not in (FOLDER / file).read_text()


def test_the_typescript_example_compiles_and_mistakes_do_not(node: Path, tmp_path: Path) -> None:
    """That of docs/web-app.md, and what follows it here."""
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "database.ts").write_text((FOLDER / "database.ts").read_text())
    (tmp_path / "page.ts").write_text("\n".join(examples("ts")) + TYPED)
    config = {"extends": str(ROOT / "tsconfig.json"), "include": ["*.ts"], "compilerOptions": {"typeRoots": [
        str(ROOT / "node_modules" / "@types")
    ]}}  # fmt: skip
    (tmp_path / "tsconfig.json").write_text(json.dumps(config))
    tsc = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run([node, tsc, "-p", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


async def test_stored_rows_fit_the_models(models: ModuleType, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[message("A1", 1, mentions=["ana@lid"]), photo("P1", 2)])
    await store.audit(session, "connect")
    for name, order in {"groups": "id", "messages": "id", "people": "sender", "audit_log": "id"}.items():
        found = await rows(store, name, session, order)
        assert found
        model = getattr(models, TABLES[name])
        assert [set(model.model_fields) - set(row) for row in found] == [set()] * len(found)
        assert [model.model_validate(row).session_id for row in found] == [session] * len(found)
    (row,) = (await table(store, "wa_sessions").select("*").eq("id", session).execute()).data
    assert models.Session.model_validate(row).id == session
    (first, _) = [models.Message.model_validate(row) for row in await rows(store, "messages", session)]
    assert first.ts == datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC)
    assert first.mentions == ("ana@lid",)
    with pytest.raises(ValidationError):
        first.text = "another"


async def test_what_changes_tells_fits_the_model_of_a_message(models: ModuleType, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[message("A1", 1)])
    answer: Any = await store._database.rpc("changes", {"p_session": session, "p_since": "0"}).execute()
    (change,) = answer.data["changes"]
    told = models.Message.model_validate(change["message"])
    assert (told.text, told.raw) == ("text of A1", None)

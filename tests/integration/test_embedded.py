"""The embedded Supabase as a process: one owner for a folder, no orphan, the same address after a death."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from testkit.waiting import until
from tests.integration.catalogue import migration_files, unpack_first_migrations
from tests.integration.database import message, rows, writer
from worker.errors import KeyRefused, SettingsError, StoreError, StoreUnavailable, UnexpectedAnswer
from worker.store import Timeouts, connect_store, embedded
from worker.store.embedded import Embedded, Endpoint, embedded_supabase, read_endpoint
from worker.store.endpoint import free_port, is_free

START_SECONDS = 90.0

OWNER = """
import sys
from pathlib import Path
import anyio
from worker.store.embedded import Embedded, embedded_supabase

async def main():
    async with embedded_supabase(Embedded(data_dir=Path(sys.argv[1]), node=Path(sys.argv[2]))) as endpoint:
        print(endpoint.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data folder for all tests here, so that its migrations run once."""
    return tmp_path_factory.mktemp("data")


def is_locked(folder: Path) -> bool:
    """Whether any process, worker or server, holds the folder."""
    with (folder / "embedded.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def audit_count(endpoint: Endpoint, session: str) -> int:
    async with connect_store(endpoint.url, endpoint.key) as store:
        await store.audit(session, "connect")
        found = await store._database.table("audit_log").select("id").eq("session_id", session).execute()
        return len(found.data)


async def is_served(endpoint: Endpoint) -> bool:
    async with connect_store(endpoint.url, endpoint.key) as store:
        try:
            await store.check()
        except StoreUnavailable:
            return False
        return True


async def test_it_starts_migrated_and_starts_again_on_the_same_data(folder: Path, node: Path, session: str) -> None:
    lines: list[str] = []
    place = Embedded(data_dir=folder, node=node, report=lines.append)
    async with embedded_supabase(place) as first:
        assert first.owned
        assert await audit_count(first, session) == 1
        assert is_locked(folder)
    assert not is_locked(folder)
    (line,) = [line for line in lines if "applied" in line]
    assert "a new database" in line
    lines.clear()
    async with embedded_supabase(place) as second:
        assert (second.url, second.key) == (first.url, first.key)
        assert await audit_count(second, session) == 2
    assert not any("applied" in line for line in lines)


async def test_a_corrected_users_sql_is_applied_without_a_new_migration(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    place = Embedded(data_dir=tmp_path, node=node, users=True, report=lines.append)
    async with embedded_supabase(place):
        assert f" {len(migration_files()) + 1} migrations applied" in "".join(lines)
    corrected = tmp_path / "users.sql"
    corrected.write_text(embedded.USERS.read_text() + "\ncomment on schema wa_users is 'corrected';\n")
    monkeypatch.setattr(embedded, "USERS", corrected)
    for applied in (1, 0):  # once, and not again
        lines.clear()
        async with embedded_supabase(place):
            assert [line.endswith("_users") for line in lines if "applied" in line] == [True] * applied


async def test_a_folder_with_the_first_migrations_goes_on_with_its_session(
    tmp_path: Path, node: Path, session: str
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    old = Embedded(data_dir=tmp_path / "data", node=node, migrations=unpack_first_migrations(first))
    async with embedded_supabase(old) as endpoint, connect_store(endpoint.url, endpoint.key) as store:
        held = await writer(store, session)
        await held.commit(creds="the-credentials", messages=[message("M1")])

    lines: list[str] = []
    new = Embedded(data_dir=tmp_path / "data", node=node, report=lines.append)
    async with embedded_supabase(new) as endpoint, connect_store(endpoint.url, endpoint.key) as store:
        later = [f"embedded Supabase: applied {file.stem}" for file in migration_files()[1:]]
        assert [line for line in lines if "applied" in line] == later
        await store.check()
        assert (await store.load_state(session, held.fence)).creds == "the-credentials"
        held.store = store
        assert (await held.commit(messages=[message("M1"), message("M2", 5)])).stored == 1
        assert [row["wa_msg_id"] for row in await rows(store, "messages", session)] == ["M1", "M2"]


async def test_its_secrets_are_for_the_owner_alone_and_not_shown(folder: Path, node: Path) -> None:
    async with embedded_supabase(Embedded(data_dir=folder, node=node)) as endpoint:
        assert mode(folder / "embedded.keys.json") == 0o600
        assert mode(folder / "embedded.endpoint.json") == 0o600
        assert mode(folder / "embedded") & 0o077 == 0
        assert endpoint.key not in repr(endpoint)
        assert endpoint.key not in await anyio.Path(f"/proc/{endpoint.pid}/cmdline").read_text()
        configuration = (folder / "embedded" / "supabase" / "config.toml").read_text()
        assert endpoint.key not in configuration
        assert json.loads((folder / "embedded.endpoint.json").read_text())["url"] == endpoint.url


async def test_a_second_one_on_the_folder_uses_the_running_server(folder: Path, node: Path, session: str) -> None:
    place = Embedded(data_dir=folder, node=node)
    async with embedded_supabase(place) as first, embedded_supabase(place) as second:
        assert (second.url, second.key, second.pid, second.owned) == (first.url, first.key, first.pid, False)
        assert await audit_count(second, session) == 1
    found = read_endpoint(folder)
    assert found is not None
    assert found.url == first.url


async def test_a_killed_server_comes_back_under_its_address(folder: Path, node: Path, session: str) -> None:
    lines: list[str] = []
    place = Embedded(data_dir=folder, node=node, report=lines.append)
    async with embedded_supabase(place) as endpoint, connect_store(endpoint.url, endpoint.key) as store:
        assert await audit_count(endpoint, session) == 1
        os.kill(endpoint.pid, signal.SIGKILL)

        async def is_back() -> bool:
            now = read_endpoint(folder)
            return now is not None and now.pid != endpoint.pid and await is_served(endpoint)

        await until("the server is back", is_back, seconds=START_SECONDS)
        await store.check()  # the same client goes on
        assert await audit_count(endpoint, session) == 2
    assert any("again" in line for line in lines)


async def test_a_killed_worker_leaves_no_orphan_and_another_takes_over(folder: Path, node: Path, session: str) -> None:
    with owner_process(folder, node) as owner:
        async with embedded_supabase(Embedded(data_dir=folder, node=node)) as follower:
            assert not follower.owned
            assert await audit_count(follower, session) == 1
            owner.kill()

            async def is_taken_over() -> bool:
                now = read_endpoint(folder)
                return now is not None and now.pid != follower.pid and await is_served(follower)

            await until("the follower serves", is_taken_over, seconds=START_SECONDS)
            assert await audit_count(follower, session) == 2
    assert not is_locked(folder)


async def test_a_server_whose_worker_was_killed_ends_by_itself(folder: Path, node: Path) -> None:
    with owner_process(folder, node) as owner:
        assert is_locked(folder)
        owner.kill()

    async def is_free() -> bool:
        return not is_locked(folder)

    await until("nobody holds the folder", is_free, seconds=30)


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path, node: Path) -> None:
    with anyio.CancelScope() as scope:

        def cancel(line: str) -> None:
            if "applied" in line:  # its server runs, and does not answer yet
                scope.cancel()

        async with embedded_supabase(Embedded(data_dir=tmp_path, node=node, report=cancel)):
            raise AssertionError("it was not cancelled")
    assert not is_locked(tmp_path)


@contextmanager
def owner_process(folder: Path, node: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that serves the folder until it is killed; it has started when the block begins."""
    command = [sys.executable, "-c", OWNER, str(folder), str(node)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline()
            yield owner
        finally:
            owner.kill()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [(86, "Node 22"), (9, "Node 22"), (1, "exit code 1")],
    ids=["a Node that is too old", "a Node without --import", "a failed migration"],
)
async def test_a_start_that_fails_says_why_in_one_line(tmp_path: Path, exit_code: int, words: str) -> None:
    node = script(tmp_path / "node", f"exit {exit_code}")
    with pytest.raises((SettingsError, StoreUnavailable)) as failed:
        async with embedded_supabase(Embedded(data_dir=tmp_path / "data", node=node)):
            pass
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)


async def test_what_is_missing_is_named(tmp_path: Path, node: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = script(tmp_path / "broken", "")
    broken.write_text("no program at all")
    places = {
        "no Node at": Embedded(data_dir=tmp_path, node=tmp_path / "nothing"),
        "cannot be started": Embedded(data_dir=tmp_path / "d", node=broken),
        "@supabase/lite": Embedded(data_dir=tmp_path, node=node, lite_cli=tmp_path / "nothing"),
        "WORKER_DATA_DIR": Embedded(data_dir=tmp_path / "file", node=node),
        "WORKER_DATA_DIR: .*/embedded.lock cannot be used": Embedded(data_dir=tmp_path / "strange", node=node),
    }
    (tmp_path / "strange/embedded.lock").mkdir(parents=True)  # stands for one of another user: tests may be root
    for words, place in places.items():
        with pytest.raises(SettingsError, match=words):
            async with embedded_supabase(place):
                pass


async def test_a_wrong_key_and_an_unreachable_address_are_told_apart(embedded: Endpoint) -> None:
    async def error_of(url: str, key: str) -> BaseException:
        async with connect_store(url, key) as store:
            with pytest.raises((SettingsError, StoreError)) as failed:
                await store.check()
        assert "\n" not in str(failed.value)
        assert key not in str(failed.value)
        return failed.value

    wrong = await error_of(embedded.url, "sb_secret_wrong")
    assert isinstance(wrong, KeyRefused)
    assert "SUPABASE_SERVICE_KEY" in str(wrong.remedy)
    public = await error_of(embedded.url, embedded.publishable_key)
    assert isinstance(public, UnexpectedAnswer)
    assert public.remedy
    nobody = await error_of(f"http://127.0.0.1:{free_port()}", embedded.key)
    assert isinstance(nobody, StoreUnavailable)


async def test_an_address_that_never_answers_is_unavailable_in_bounded_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with connect_store(url, "sb_secret_x", Timeouts(call=0.3, transfer=0.3)) as mute:
            with pytest.raises(StoreUnavailable):
                await mute.check()
            with pytest.raises(StoreUnavailable):
                await mute.bucket.upload("a/b", b"x", "text/plain")


async def test_a_port_that_was_taken_meanwhile_is_replaced(folder: Path, node: Path) -> None:
    former = read_endpoint(folder)
    assert former is not None
    with socket.create_server(("127.0.0.1", int(former.url.rsplit(":", 1)[1]))):
        async with embedded_supabase(Embedded(data_dir=folder, node=node)) as endpoint:
            assert endpoint.url != former.url
            assert await is_served(endpoint)


def test_a_free_port_is_free_and_no_port_of_outgoing_connections() -> None:
    port = free_port()
    assert port < 32_768
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
    assert is_free(port)

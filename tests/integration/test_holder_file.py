"""The file that proves a worker's death: real processes, a real lock, and what must not count as proof."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker.store import holder_file, lease

HOLDS = """
import sys, time
from pathlib import Path
from worker.store import holder_file
with holder_file.held(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, owner: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDS, str(folder), owner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_holder_is_proven_dead_once(tmp_path: Path) -> None:
    owner = lease.make_owner()
    with holder(tmp_path, owner) as process:
        assert not holder_file.is_dead(tmp_path, owner)
        process.kill()
        process.wait()
        assert holder_file.is_dead(tmp_path, owner)
    assert not holder_file.is_dead(tmp_path, owner)
    assert list(tmp_path.iterdir()) == []


def test_a_paused_holder_lives(tmp_path: Path) -> None:
    owner = lease.make_owner()
    with holder(tmp_path, owner) as process:
        process.send_signal(signal.SIGSTOP)
        assert not holder_file.is_dead(tmp_path, owner)


def test_a_holder_that_ends_by_itself_leaves_no_file(tmp_path: Path) -> None:
    with holder(tmp_path, lease.make_owner()) as process:
        assert process.stdin
        process.stdin.close()
        assert process.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_the_data_folder_proves_nothing(tmp_path: Path) -> None:
    owner = lease.make_owner()
    with holder(tmp_path / "data", owner):
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        assert not holder_file.is_dead(tmp_path / "copy", owner)


def test_a_file_of_another_boot_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = lease.make_owner()
    other = tmp_path / "boot_id"
    other.write_text("another kernel")
    with holder(tmp_path, owner) as process:
        process.kill()
        process.wait()
        monkeypatch.setattr(holder_file, "BOOT_ID", other)
        assert not holder_file.is_dead(tmp_path, owner)


@pytest.mark.parametrize("owner", ["", "elsewhere:7:x", "host:7:../../etc", "host:7:0123abcd/../x", "host:7:0123abcd"])
def test_an_owner_without_a_file_here_is_not_dead(tmp_path: Path, owner: str) -> None:
    assert not holder_file.is_dead(tmp_path, owner)


def test_old_files_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    living, killed = lease.make_owner(), lease.make_owner()
    with holder(tmp_path, living), holder(tmp_path, killed) as process:
        process.kill()
        process.wait()
        holder_file.sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [f"holder-{living.rsplit(':', 1)[-1]}.lock"]
        assert not holder_file.is_dead(tmp_path, living)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with holder_file.held(tmp_path / "file", lease.make_owner()):
        assert (tmp_path / "file").read_text() == "in the way"

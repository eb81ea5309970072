"""Help, version and completion load nothing of the worker; what they list is what the commands say of themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from worker.cli import app
from worker.commands import COMMANDS, load

HEAVY = ("rich", "anyio", "httpx", "supabase", "loguru", "worker.store", "worker.settings", "worker.supervisor")
PROBE = """
import runpy, sys
sys.argv = ["wa-worker", *sys.argv[1:]]
try:
    runpy.run_module("worker", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted(sys.modules))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["version"]], ids=" ".join)
def test_help_and_version_import_no_part_of_the_worker(arguments: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    loaded = ran.stdout.rpartition("loaded: ")[2].split()
    assert ("typer" in loaded) is (arguments != ["--version"]), "the bare version is answered before typer loads"
    assert not set(HEAVY) & set(loaded)


def test_completion_imports_no_part_of_the_worker() -> None:
    asked = {"_WA_WORKER_COMPLETE": "complete_bash", "COMP_WORDS": "wa-worker gr", "COMP_CWORD": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("groups\n")
    assert not set(HEAVY) & set(ran.stdout.rpartition("loaded: ")[2].split())


def commands_below(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    yield name, command
    for inner, found in getattr(command, "commands", {}).items():
        yield from commands_below(found, f"{name} {inner}".strip())


def test_help_is_wrapped_by_the_terminal_alone() -> None:
    top = get_command(app)
    loaded = [*commands_below(top), *(each for name in COMMANDS for each in commands_below(load(name), name))]
    assert len(loaded) > len(COMMANDS)
    for name, command in loaded:
        paragraphs = (command.help or "").split("\n\n")
        assert [text for text in paragraphs if "\n" in text] == [], name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_help_is_the_first_of_the_command(name: str) -> None:
    first = (load(name).help or "").partition("\n\n")[0]
    assert " ".join(first.split()) == COMMANDS[name].line

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

HEAVY = (
    "rich", "anyio", "httpx", "supabase", "loguru", "pydantic", "worker.store", "worker.settings", "worker.host",
)  # fmt: skip
PROBE = """
import runpy, sys
sys.argv = ["wa-worker", *sys.argv[1:]]
try:
    runpy.run_module("worker", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted(name for name, module in sys.modules.items() if module is not None))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["version"]], ids=" ".join)
def test_help_and_version_import_no_part_of_the_worker(arguments: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    loaded = ran.stdout.rpartition("loaded: ")[2].split()
    assert ("typer" in loaded) is (arguments == ["--help"]), "the version is answered before typer loads"
    assert not set(HEAVY) & set(loaded)


# How each shell asks, from the scripts that `--install-completion` writes.
SHELLS = {
    "bash": lambda line: {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))},
    "zsh": lambda line: {"_TYPER_COMPLETE_ARGS": line},
    "fish": lambda line: {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}
ASKED = {
    "wa-worker gr": "groups",
    "wa-worker ": "status",
    "wa-worker --env": "--env-file",
    "wa-worker --env-file .env ": "status",
    "wa-worker groups mon": "monitor",
    "wa-worker media ": "retry",
}


def completed(shell: str, line: str) -> tuple[str, set[str]]:
    """What the shell is answered, and the modules that were loaded for it."""
    asked = {"_WA_WORKER_COMPLETE": f"complete_{shell}", **SHELLS[shell](line)}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    answer, _, loaded = ran.stdout.rpartition("loaded: ")
    return answer, set(loaded.split())


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("line", ASKED)
def test_completion_of_a_command_s_name_imports_no_part_of_the_worker(line: str, shell: str) -> None:
    answer, loaded = completed(shell, line)
    assert ASKED[line] in answer
    assert not set(HEAVY) & loaded


def test_completion_of_a_command_s_own_options_loads_that_command() -> None:
    answer, _ = completed("bash", "wa-worker groups list --js")
    assert answer == "--json\n"


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


@pytest.mark.parametrize("name", COMMANDS)
def test_completion_knows_the_commands_of_each_group_without_loading_it(name: str) -> None:
    inside = {
        inner: " ".join((command.help or "").partition("\n\n")[0].split())
        for inner, command in getattr(load(name), "commands", {}).items()
    }
    assert inside == COMMANDS[name].inner

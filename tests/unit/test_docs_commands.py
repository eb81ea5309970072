"""The commands of the pages, without running them: each is in the list, and names nothing that does not exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.docs_commands import all_commands, classes, commands_of, faults, missing_files, pages
from testkit.processes import ROOT
from worker.commands import COMMANDS, load

WRITTEN = all_commands()
LISTED = {command: kind for kind, entries in classes().items() for command in entries}
NAME_OF_SETTING = re.compile(r"\b(?:WORKER|WA|SUPABASE)_[A-Z]+(?:_[A-Z]+)*\b")


def test_every_command_of_the_pages_is_in_the_list_once() -> None:
    assert {command: places for command, places in WRITTEN.items() if command not in LISTED} == {}
    assert sum(len(entries) for entries in classes().values()) == len(LISTED)


def test_every_command_in_the_list_is_on_a_page() -> None:
    assert [command for command in LISTED if command not in WRITTEN] == []


@pytest.mark.parametrize("command", [command for command in WRITTEN if LISTED.get(command) != "coming"])
def test_a_command_names_nothing_that_does_not_exist(command: str) -> None:
    assert faults(command) == [], WRITTEN[command]


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("make dmeo", ["no target dmeo"]),
        ("make soak HOURS=2", ["the Makefile has no HOURS"]),
        ("wa-worker grups list", ["no command grups"]),
        ("wa-worker groups lst", ["no command lst"]),
        ("wa-worker --env /etc/x groups list", ["no option --env"]),
        ("docker compose exec worker wa-worker tail --jason", ["no option --jason"]),
        ("wa-worker prune --older-than 365 now", ["takes no word, but now stands there"]),
        ("python -m bench.groth", ["no module bench.groth"]),
        ("python -m worker status --chek", ["no option --chek"]),
        ("sudo cp deploy/wa-worker.unit /etc/systemd/system/", ["no file deploy/wa-worker.unit"]),
        ("wa-worker --env-file FILE export Family /tmp/out > log", []),
        ("make chaos MINUTES=30 SEED=7", []),
    ],
)
def test_what_is_wrong_with_a_command_is_seen(command: str, wrong: list[str]) -> None:
    assert faults(command) == wrong


def test_commands_are_found_in_blocks_and_in_sentences_without_their_remarks() -> None:
    page = (
        "Run `make\ndemo`, or `wa-worker`.\n\n```\nwa-worker tail [GROUP]  # live\nmake up     the real thing\n"
        "npx supabase x \\\n  --y\n  2 rows\n```\n\n```sql\nmake it;\n```\n"
    )
    assert commands_of(page) == ["wa-worker tail", "make up", "npx supabase x --y", "make demo"]


def test_every_file_that_a_page_names_exists() -> None:
    wrong = []
    for page in pages():
        prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        paths = [span for span in re.findall(r"`([^`\s]+)`", prose) if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)+/?", span)]
        wrong += [f"{page.name}: {fault}" for fault in missing_files(paths)]
    assert wrong == []


def test_every_setting_that_a_page_names_is_one_of_the_code() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    code = [Path(ROOT, name) for name in tracked.split("\0") if name and not name.endswith((".md", ".png", ".xz"))]
    known = {
        name for path in code if path.is_file() for name in NAME_OF_SETTING.findall(path.read_text(errors="replace"))
    }
    wrong = {
        f"{page.name}: {name}" for page in pages() for name in NAME_OF_SETTING.findall(page.read_text())
        if name not in known
    }  # fmt: skip
    assert wrong == set()


def test_the_table_of_commands_has_them_all_and_only_their_options() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`[^|]*) \| (.*) \|$", page.partition("\n\n```")[0], re.MULTILINE)
    named: set[str] = set()
    for cell, text in rows:
        commands: list[Any] = []
        for words in (span.split() for span in re.findall(r"`([^`]+)`", cell)):
            if words[0].isdigit():
                continue
            named.add(words[0])
            if words[0] in COMMANDS:
                loaded = load(words[0])
                commands.append(getattr(loaded, "commands", {}).get(words[1] if words[1:] else "", loaded))
        options = {
            name for each in commands for option in each.params for name in (*option.opts, *option.secondary_opts)
        }
        if commands:
            assert set(re.findall(r"`(--[a-z-]+)", f"{cell} {text}")) <= options, cell
    assert named >= set(COMMANDS) | {"run", "up", "version"}

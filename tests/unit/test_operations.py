"""docs/operations.md names every state, close, flag and exit code that there is."""

import re
from pathlib import Path
from typing import get_args

import pytest

from tests.unit.test_closes import TABLE
from worker.commands import COMMANDS
from worker.errors import ExitCode
from worker.session.flags import RequestKind
from worker.session.report import State

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def rows_of(heading: str) -> str:
    """The first cells of the table below a heading."""
    section = re.split(r"^## ", PAGE.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]
    return "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_is_explained(state: str) -> None:
    assert f"`{state}`" in rows_of("States")


def test_every_code_of_a_close_is_explained() -> None:
    told = {int(code) for code in re.findall(r"\b\d{3}\b", rows_of("When a connection ends"))}
    assert {code for code, *_ in TABLE if code and 400 <= code < 599} <= told


@pytest.mark.parametrize("kind", RequestKind)
def test_every_flag_is_explained(kind: RequestKind) -> None:
    assert f"`{kind.value}`" in rows_of("Flags")


def test_every_exit_code_is_explained() -> None:
    told = {int(code) for code in re.findall(r"\d+", rows_of("Exit codes"))}
    assert told == set(ExitCode)


def test_every_command_of_the_page_on_troubleshooting_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
    named = set(re.findall(r"(?:^|`)wa-worker ([a-z]+)", page, re.MULTILINE))
    assert len(named) >= 6
    assert named <= {*COMMANDS, "run", "up"}

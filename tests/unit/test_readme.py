"""The README against the code: its settings table is whole, and its first screen has the two commands."""

from __future__ import annotations

import re
from pathlib import Path

from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FIRST_SCREEN_LINES = 20


def test_the_settings_table_names_every_setting_and_no_other() -> None:
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([A-Z_]+)`", row)
    }
    assert named == {name.upper() for name in Settings.model_fields}


def test_the_defaults_in_the_settings_table_are_the_code_s() -> None:
    for name, default in re.findall(r"^\| `([A-Z_]+)` \| `?([a-z0-9]+)`? \|", README, re.MULTILINE):
        field = Settings.model_fields[name.lower()]
        value = field.get_default(call_default_factory=False)
        assert default in ("unset", str(value).lower()), name


def test_the_first_screen_has_exactly_the_two_commands() -> None:
    block = re.findall(r"```\n(.*?)```", README, re.DOTALL)[0]
    assert block.split("\n") == ["make demo", "make test", ""]
    assert README.index("make test\n```") < len("\n".join(README.splitlines()[:FIRST_SCREEN_LINES]))


def test_every_file_that_the_documents_link_to_is_there() -> None:
    for document in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"

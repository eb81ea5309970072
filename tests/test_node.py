"""The tests of the two Node workspaces, as one test each: `npm test --workspace sidecar-baileys` runs them alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from testkit.processes import PYTHON, ROOT, Child

SECONDS = 200.0  # each of theirs has a bound of its own, at most 120 s


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("workspace", ["sidecar-baileys", "simulator"])
async def test_the_tests_of_a_workspace_pass(workspace: str, tmp_path: Path) -> None:
    path = os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", os.defpath)])
    command: list[str | Path] = [PYTHON.parent / "npm", "test", "--workspace", workspace]
    running = Child.start("npm", command, log=tmp_path / "npm.log", cwd=ROOT, env={**os.environ, "PATH": path})
    try:
        code = await running.wait(SECONDS)
    finally:
        running.kill()
    assert code == 0, running.text()
    assert re.search(r"^\S* pass [1-9]", running.text(), re.MULTILINE), running.text()

"""The tests of the two Node workspaces, as one test each: `npm test --workspace sidecar-baileys` runs them alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import NODE, ROOT

NPM = NODE.parent / "npm"


@pytest.mark.parametrize("workspace", ["sidecar-baileys", "simulator"])
def test_the_tests_of_a_workspace_pass(workspace: str) -> None:
    command: list[str | Path] = [NPM, "test", "--workspace", workspace]
    path = os.pathsep.join([str(NODE.parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\u2139 fail 0" in done.stdout

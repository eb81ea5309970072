"""The alert rules, played by Prometheus' own promtool."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from testkit.grafana import FOLDER

PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here; on Debian it comes with the package prometheus")
def test_the_rules_fire_when_they_should_and_only_then() -> None:
    ran = subprocess.run(
        [PROMTOOL or "", "test", "rules", FOLDER / "alerts_test.yml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr

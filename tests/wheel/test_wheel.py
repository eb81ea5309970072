"""The wheel, installed into an empty environment outside the checkout, as pipx and uvx do it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from testkit.processes import ROOT

INSTALL_SECONDS = 300.0
RUN_SECONDS = 420.0  # with the npm packages of the first start; 40 s on an idle machine
PASSED_ON = ("LANG", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy")
PACKAGES = ("worker", "console", "demo", "testkit")
SHIPPED = (
    "package.json", "package-lock.json", "sidecar-baileys", "simulator", "supabase/migrations", "supabase/optional",
    "seeds",
)  # fmt: skip
# Tests, and how the seeds were made.
LEFT_OUT = ("sidecar-baileys/test/", "simulator/test/", "seeds/make.sh")

pytestmark = pytest.mark.timeout(INSTALL_SECONDS + 3 * RUN_SECONDS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["make", "--silent", "wheel", f"WHEELS={folder}"], cwd=ROOT, check=True, timeout=INSTALL_SECONDS)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wa-worker` in an environment with the wheel and what it asks for, in the versions of the lock."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=INSTALL_SECONDS)
    # pip, not uv: it knows this machine's certificates and mirrors.
    install: list[str | Path] = [place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    for option, what in (("--requirement", ROOT / "requirements.lock"), ("--no-deps", wheel)):
        subprocess.run([*install, option, what], check=True, timeout=INSTALL_SECONDS, cwd="/")
    subprocess.run([place / "bin" / "pip", "check"], check=True, timeout=RUN_SECONDS)
    return place / "bin" / "wa-worker"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a new user, in whose cache nothing lies yet."""
    return tmp_path_factory.mktemp("home")


def environment(home: Path) -> dict[str, str]:
    """A new user's, but for npm's own cache: what was fetched for this checkout is not fetched again."""
    ours = Path.home()
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    npm = {"npm_config_cache": str(ours / ".npm"), "npm_config_userconfig": str(ours / ".npmrc")}
    return {**kept, **npm, "PATH": "/usr/bin:/bin", "HOME": str(home)}


def run(program: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def tracked(*below: str) -> set[str]:
    new = ["--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(["git", "ls-files", *new, *below], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if not name.startswith(LEFT_OUT) and (ROOT / name).exists()}


def test_every_file_that_the_program_reads_is_in_the_wheel(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = {f"worker/shipped/{name}" for name in tracked(*SHIPPED)}
    assert inside == tracked(*PACKAGES) | shipped


def test_the_version_is_told(program: Path, home: Path) -> None:
    ran = run(program, home, "--version")
    assert (ran.returncode, ran.stdout.split()[0]) == (0, "wa-worker"), ran.stdout


def test_doctor_says_what_the_first_start_will_fetch(program: Path, home: Path) -> None:
    ran = run(program, home, "doctor")
    assert ran.returncode == 0, ran.stdout
    assert "note Sidecar: its npm packages are fetched at the first" in ran.stdout
    assert not (home / ".cache").exists(), "doctor changes nothing"


def test_the_demo_installs_its_npm_packages_and_passes(program: Path, home: Path) -> None:
    ran = run(program, home, "demo")
    assert ran.returncode == 0, ran.stdout
    assert "the npm packages are installed" in ran.stdout
    assert "All as the scenario promises" in ran.stdout
    assert [path.name for path in home.iterdir()] == [".cache"], "all that it wrote is in the cache"

    again = run(program, home, "doctor")
    assert "OK   Sidecar: Baileys" in again.stdout

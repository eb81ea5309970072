"""What is deployed agrees with what is developed: locks, licences, settings that compose passes on, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from worker.errors import ExitCode
from worker.host import STOP_SECONDS
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SUPPLY_CHAIN = ROOT / "scripts" / "supply_chain.py"

# What compose sets itself, or what makes no sense inside the image.
NOT_PASSED_ON = {"WORKER_NODE", "WA_SOCKET_URL", "WA_ROOT_KEY", "WA_VERSION_URL", "WA_MEDIA_ORIGIN", "WA_MEDIA_CA"}
NOT_PASSED_ON |= {"WORKER_EMBEDDED_USERS", "WA_QR_TIMEOUT_MS", "WA_KEEP_ALIVE_MS", "WA_PASSKEY_STEP_MS"}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_the_lock_of_the_image_is_a_part_of_the_whole_lock() -> None:
    locked, wanted = pins(read("requirements.lock")), pins(read("requirements-dev.lock"))
    assert locked == {name: wanted.get(name) for name in locked}, "run `make lock`"


@pytest.mark.parametrize(("lock", "extras"), [("requirements.lock", []), ("requirements-dev.lock", ["dev"])])
def test_a_lock_has_every_direct_dependency(lock: str, extras: list[str]) -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    direct = project["dependencies"] + [line for each in extras for line in project["optional-dependencies"][each]]
    names = {re.split(r"[<>=~!\[; ]", line)[0].lower().replace("_", "-") for line in direct}
    assert names <= pins(read(lock)).keys(), "run `make lock`"


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_package_of_a_lock_has_a_hash_and_no_address(lock: str) -> None:
    text = read(lock)
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_the_page_of_licences_is_of_these_locks() -> None:
    page = dict(re.findall(r"^\| (\S+) \| (\S+) \| .+ \|$", read("docs/licenses.md"), re.MULTILINE))
    python = pins(read("requirements.lock"))
    del python["setuptools"]
    listed = {name.lower().replace("_", "-"): version for name, version in page.items()}
    assert python.items() <= listed.items(), "run `make sbom`"
    npm = json.loads(read("package-lock.json"))["packages"]
    for name in ("baileys", "libsignal", "@supabase/lite"):
        assert page[name] == npm[f"node_modules/{name}"]["version"], "run `make sbom`"


def test_every_package_that_is_installed_is_copied_into_the_image() -> None:
    found = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["packages"]["find"]["include"]
    wanted = {f"!{pattern.rstrip('*')}" for pattern in found}
    assert wanted <= set(read(".dockerignore").splitlines())


def test_compose_passes_on_every_setting() -> None:
    block = read("docker-compose.yml").split("    environment: &environment\n")[1].split("\n  host:")[0]
    names = set(re.findall(r"^      ([A-Z_]+):", block, re.MULTILINE))
    wanted = {name.upper() for name in Settings.model_fields} - NOT_PASSED_ON | {"HTTPS_PROXY", "NO_PROXY"}
    assert names == wanted, f"in docker-compose.yml, environment: missing {wanted - names}, unknown {names - wanted}"


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("docker-compose.yml", r"stop_grace_period: (\d+)s"),
        (".do/app.yaml", r"grace_period_seconds: (\d+)"),
        ("deploy/systemd/wa-worker.service", r"TimeoutStopSec=(\d+)"),
        ("deploy/systemd/wa-worker@.service", r"TimeoutStopSec=(\d+)"),
        ("deploy/kubernetes/base/deployment.yaml", r"terminationGracePeriodSeconds: (\d+)"),
    ],
)
def test_whoever_stops_the_worker_waits_longer_than_it_needs(file: str, pattern: str) -> None:
    found = re.search(pattern, read(file))
    assert found
    assert int(found[1]) > STOP_SECONDS + 5


def test_systemd_does_not_restart_what_a_restart_cannot_cure() -> None:
    found = re.search(r"^RestartPreventExitStatus=(.*)$", read("deploy/systemd/wa-worker.service"), re.MULTILINE)
    assert found
    assert {int(code) for code in found[1].split()} == {ExitCode.SETTINGS, ExitCode.STATE}


def test_the_unit_of_a_session_is_that_of_the_one_worker() -> None:
    """But for its name, its own settings, its session and its folder."""
    one, each = (read(f"deploy/systemd/wa-worker{at}.service").splitlines() for at in ("", "@"))
    differing = [line for line in each if line not in one and not line.startswith("#")]
    assert differing == [
        "Description=wa-worker: WhatsApp groups into Supabase, session %i",
        "EnvironmentFile=/etc/wa-worker/%i.env",
        "Environment=WORKER_SESSION=%i WORKER_DATA_DIR=/var/lib/wa-worker-%i PYTHONUNBUFFERED=1",
        "StateDirectory=wa-worker-%i",
    ]


KUBERNETES = ROOT / "deploy" / "kubernetes"


def documents() -> dict[str, dict[str, Any]]:
    """The objects for Kubernetes, by kind."""
    found = [yaml.safe_load(path.read_text()) for path in KUBERNETES.glob("*/*.yaml") if path.stem != "kustomization"]
    return {document["kind"]: document for document in found}


def test_each_file_for_kubernetes_is_applied() -> None:
    for folder in ("base", "prometheus"):
        kustomization = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
        files = {path.name for path in (KUBERNETES / folder).iterdir()} - {"kustomization.yaml"}
        assert {name for name in kustomization["resources"] if name != "../base"} == files


def test_a_host_in_kubernetes_is_the_images_user_and_gets_real_settings() -> None:
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n" in read("Dockerfile")
    given = {each["name"] for each in worker["env"]}
    literals = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["configMapGenerator"][0][
        "literals"
    ]
    given |= {literal.split("=")[0] for literal in literals}
    assert given <= {name.upper() for name in Settings.model_fields}
    assert not [each for each in given if "KEY" in each], "secrets come by reference"
    assert worker["args"][0] == "wa-worker"


@pytest.mark.parametrize("kind", ["Deployment", "PodDisruptionBudget", "ServiceMonitor"])
def test_what_selects_hosts_selects_those_of_the_deployment(kind: str) -> None:
    labels = documents()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents()[kind]["spec"]["selector"]["matchLabels"] == labels
    assert documents()["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert documents()["Service"]["spec"]["selector"] == labels


def test_hosts_of_compose_are_alike() -> None:
    """So that `--scale host=3` can start them: no port, name or volume is one's own."""
    host = yaml.safe_load(read("docker-compose.yml"))["services"]["host"]
    assert host["volumes"] == []
    assert "container_name" not in host
    assert all(port.count(":") == 2 and port.split(":")[1] == "" for port in host["ports"])


def tool(folder: Path, name: str, document: object) -> None:
    """A stand-in for a tool that prints `document`."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(document)}\nEND\n")
    script.chmod(0o755)


SKIPPED = {"name": "anyio", "skip_reason": "Dependency not found on PyPI and could not be audited"}
CLEAN = {"name": "anyio", "version": "4", "vulns": []}
HOLED = {"name": "anyio", "version": "4", "vulns": [{"id": "CVE-1", "fix_versions": ["5"]}]}
NPM_CLEAN = {"metadata": {"vulnerabilities": {"total": 0}, "dependencies": {"prod": 9}}, "vulnerabilities": {}}
NPM_HOLED = {
    "metadata": {"vulnerabilities": {"total": 1}, "dependencies": {"prod": 9}},
    "vulnerabilities": {"ws": {"severity": "high", "via": [{"title": "a hole"}]}},
}
NPM_AWAY = {"error": {"code": "E405"}}


@pytest.mark.parametrize(
    ("python", "npm", "options", "code", "words"),
    [
        ([CLEAN], NPM_CLEAN, [], 0, "1 packages looked up, 0 with"),
        ([SKIPPED], NPM_CLEAN, [], 3, "Python: unavailable"),
        ([CLEAN], NPM_AWAY, [], 3, "npm: unavailable"),
        ([CLEAN, SKIPPED], NPM_CLEAN, [], 3, "1 could not be looked up"),
        ([SKIPPED], NPM_AWAY, ["--allow-no-answer"], 0, "unavailable"),
        ([HOLED], NPM_AWAY, ["--allow-no-answer"], 1, "CVE-1"),
        ([HOLED], NPM_AWAY, [], 1, "CVE-1"),
        ([CLEAN, SKIPPED], NPM_HOLED, [], 1, "a hole"),
    ],
)
def test_an_audit_that_could_not_be_made_is_not_called_clean(
    tmp_path: Path, python: list[object], npm: object, options: list[str], code: int, words: str
) -> None:
    tool(tmp_path / "bin", "pip-audit", {"dependencies": python})
    tool(tmp_path / "bin", "npm", npm)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "AUDIT_TOOLS": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, SUPPLY_CHAIN, "audit", *options], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert words in run.stdout

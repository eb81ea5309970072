"""What we build on: known vulnerabilities, a bill of materials, licences. `make audit`, `make sbom`.

    python scripts/supply_chain.py audit [--strict]   pip-audit and npm audit
    python scripts/supply_chain.py sbom               CycloneDX files into .make/sbom/, and docs/licenses.md

Existing tools do the work; this starts them, and says "unavailable" where a registry does not answer, which the tools
themselves report as success (pip-audit) or as failure (npm). Reads requirements.lock and package-lock.json: what runs,
not what develops. Debian's packages in the image are not covered.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(os.environ.get("AUDIT_TOOLS", ROOT / ".venv")) / "bin"
LOCK = ROOT / "requirements.lock"
SBOM = ROOT / ".make" / "sbom"
LICENSES = ROOT / "docs" / "licenses.md"
AUDIT_SECONDS = 300.0  # a registry that does not answer must not hold up the rest
WORKSPACES = ("sidecar-baileys", "simulator")
SPDX = {  # classifiers that say no more than these names
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
OMITTED = ("--omit", "dev", "--omit", "peer")  # as in the image

EXIT_VULNERABLE = 1
EXIT_UNAVAILABLE = 3  # with --strict only

PREAMBLE = """\
# Licences

Made by `make sbom` (`scripts/supply_chain.py`) from `requirements.lock` with pip-licenses and from `package-lock.json`
with `npm sbom`; do not edit. It lists what runs, not what develops: the packages of the container image, whose Debian
packages carry their licences in `/usr/share/doc/*/copyright`. It is a list, not legal advice.

wa-worker's own code is under the MIT licence (`LICENSE`).

**libsignal (npm) is under the GPL-3.0.** Baileys needs it, so the sidecar process loads it, and so does the virtual
phone. Running wa-worker, also as a service for others, asks nothing of you. Whoever passes on the image, or the sidecar
with its packages, passes on a combined work with a GPL-3.0 part, and owes its receivers that licence and the complete
source. The worker (Python) is a separate process that speaks to the sidecar through a pipe.
"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one registry said. `found` is None if it said nothing."""

    name: str
    found: int | None
    words: str


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    name: str
    version: str
    license: str


def main() -> int:
    """One of the two commands."""
    parser = argparse.ArgumentParser(description="Vulnerabilities, bill of materials, licences.")
    parser.add_argument("command", choices=["audit", "sbom"])
    parser.add_argument("--strict", action="store_true", help="fail if a registry does not answer")
    options = parser.parse_args()
    return audit(options.strict) if options.command == "audit" else sbom()


def audit(strict: bool) -> int:
    """Print a line for each registry; the exit code says whether anything was found."""
    verdicts = [audit_python(), audit_npm()]
    for verdict in verdicts:
        print(f"{verdict.name}: {verdict.words}")
    if any(verdict.found for verdict in verdicts):
        return EXIT_VULNERABLE
    return EXIT_UNAVAILABLE if strict and any(verdict.found is None for verdict in verdicts) else 0


def audit_python() -> Verdict:
    """pip-audit skips what it cannot look up, and calls that a success: count."""
    command: list[str | Path] = [TOOLS / "pip-audit", "--requirement", LOCK, "--require-hashes", "--disable-pip"]
    document = _json([*command, "--format", "json", "--progress-spinner", "off"])
    packages = document.get("dependencies", [])
    skipped = [package for package in packages if "skip_reason" in package]
    if not packages or len(skipped) == len(packages):
        return Verdict(name="Python", found=None, words="unavailable: the advisory service does not answer here")
    bad = [package for package in packages if package.get("vulns")]
    for package in bad:
        for vuln in package["vulns"]:
            print(f"  {package['name']} {package['version']}: {vuln['id']}, fixed in {vuln['fix_versions'] or 'none'}")
    more = f", {len(skipped)} could not be looked up" if skipped else ""
    words = f"{len(packages) - len(skipped)} packages looked up, {len(bad)} with known vulnerabilities{more}"
    return Verdict(name="Python", found=len(bad), words=words)


def audit_npm() -> Verdict:
    """npm answers with a document of another shape when the registry does not."""
    document = _json(["npm", "audit", "--json", "--package-lock-only", *OMITTED])
    counts = document.get("metadata", {}).get("vulnerabilities")
    if counts is None:
        return Verdict(name="npm", found=None, words="unavailable: the registry does not answer audits here")
    for name, entry in sorted(document.get("vulnerabilities", {}).items()):
        titles = {via["title"] for via in entry["via"] if isinstance(via, dict)}
        print(f"  {name} ({entry['severity']}): {'; '.join(sorted(titles)) or 'through its dependencies'}")
    total = document["metadata"]["dependencies"]["prod"]
    return Verdict(
        name="npm",
        found=counts["total"],
        words=f"{total} packages looked up, {counts['total']} with known vulnerabilities",
    )


def sbom() -> int:
    """Write both bills of materials and the page of licences."""
    SBOM.mkdir(parents=True, exist_ok=True)
    python_file, npm_file = SBOM / "python.cdx.json", SBOM / "npm.cdx.json"
    command: list[str | Path] = [TOOLS / "cyclonedx-py", "requirements", LOCK, "--pyproject", ROOT / "pyproject.toml"]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}  # it warns that a list of requirements is no graph
    subprocess.run([*command, "--output-reproducible", "--output-file", python_file], env=quiet, check=True)
    npm_file.write_text(json.dumps(npm_sbom(), indent=2) + "\n")
    python, npm = python_packages(), npm_packages(json.loads(npm_file.read_text()))
    LICENSES.write_text(page(python, npm))
    for file in (python_file, npm_file):
        print(f"{file.relative_to(ROOT)}: {len(json.loads(file.read_text())['components'])} components")
    print(f"{LICENSES.relative_to(ROOT)}: {len(python)} Python packages, {len(npm)} npm packages")
    return 0


def npm_sbom() -> dict[str, Any]:
    """npm's own, in a copy of the manifests: it refuses a root package that has no version."""
    with tempfile.TemporaryDirectory(prefix="wa-sbom-") as folder:
        for manifest in ("package.json", "package-lock.json", *(f"{name}/package.json" for name in WORKSPACES)):
            target = Path(folder, manifest)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / manifest, target)
        root = json.loads(Path(folder, "package.json").read_text()) | {"version": "0.0.0"}
        Path(folder, "package.json").write_text(json.dumps(root))
        return _json(["npm", "sbom", "--sbom-format", "cyclonedx", "--package-lock-only", *OMITTED], Path(folder))


def python_packages() -> list[Package]:
    """The packages of the lock as they are installed in .venv, setuptools aside: it only builds."""
    names = [name for name in re.findall(r"^([\w.-]+)==", LOCK.read_text(), re.MULTILINE) if name != "setuptools"]
    command: list[str | Path] = [
        TOOLS / "pip-licenses",
        "--python",
        ROOT / ".venv/bin/python",
        "--from",
        "mixed",
        "--format",
        "json",
    ]
    run = subprocess.run([*command, "--packages", *names], stdout=subprocess.PIPE, check=True)
    found = json.loads(run.stdout)
    if len(found) != len(names):
        raise SystemExit("sbom: .venv and requirements.lock differ: run `make lock` and `make setup`")
    return sorted(Package(name=each["Name"], version=each["Version"], license=short(each["License"])) for each in found)


def npm_packages(document: dict[str, Any]) -> list[Package]:
    """The components that are not our own workspaces."""
    return sorted(
        Package(name=each["name"], version=each["version"], license=npm_license(each))
        for each in document["components"]
        if each["name"] not in WORKSPACES
    )


def npm_license(component: dict[str, Any]) -> str:
    names = [
        entry.get("expression") or entry["license"].get("id") or entry["license"].get("name", "?")
        for entry in component.get("licenses", [])
    ]
    return " AND ".join(names) or "not stated"


def short(text: str) -> str:
    """The usual name. Some packages put the whole licence where its name belongs."""
    first = text.strip().splitlines()[0].removeprefix("The ").removesuffix(" (MIT)").strip()
    return SPDX.get(first, first)


def page(python: list[Package], npm: list[Package]) -> str:
    """The Markdown text."""
    parts = [PREAMBLE]
    for title, packages in (("Python packages", python), ("npm packages", npm)):
        counts = Counter(package.license for package in packages).most_common()
        parts.append(f"## {title}\n")
        parts.append(", ".join(f"{name}: {count}" for name, count in counts) + ".\n")
        parts.append(_table(packages))
    return "\n".join(parts)


def _table(packages: Iterable[Package]) -> str:
    rows = [f"| {package.name} | {package.version} | {package.license} |" for package in packages]
    return "\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows, ""])


def _json(command: Sequence[str | Path], folder: Path = ROOT) -> dict[str, Any]:
    """What a tool printed; an empty document if it is no JSON, or took too long."""
    try:
        run = subprocess.run(
            [str(part) for part in command], cwd=folder, capture_output=True, timeout=AUDIT_SECONDS, check=False
        )
        return dict(json.loads(run.stdout))
    except (ValueError, subprocess.TimeoutExpired):
        return {}


if __name__ == "__main__":
    sys.exit(main())

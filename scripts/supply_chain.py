"""Known vulnerabilities, a bill of materials and licences of our dependencies. `make audit`, `make sbom`.

    python scripts/supply_chain.py audit [--allow-no-answer]   pip-audit and npm audit
    python scripts/supply_chain.py sbom                        CycloneDX files in .make/sbom/, and docs/licenses.md

Reads requirements.lock and package-lock.json: runtime dependencies only. Does not cover the image's Debian packages.
A service that does not answer, or cannot look up every package, proves nothing: exit code 3, unless
`--allow-no-answer` is given. pip-audit would call it a success.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(os.environ.get("AUDIT_TOOLS", ROOT / ".venv")) / "bin"
LOCK = ROOT / "requirements.lock"
SBOM = ROOT / ".make" / "sbom"
LICENSES = ROOT / "docs" / "licenses.md"
AUDIT_SECONDS = 300.0  # a registry that does not answer must not block the rest
WORKSPACES = ("sidecar-baileys", "simulator")
NPM_LOCKED = ("--package-lock-only", "--omit", "dev", "--omit", "peer")  # as in the image
SPDX = {  # classifiers with exact SPDX equivalents
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
EXIT_VULNERABLE = 1
EXIT_UNAVAILABLE = 3

PREAMBLE = """\
# Licences

`make sbom` (`scripts/supply_chain.py`) makes this page from `requirements.lock` with pip-licenses and from
`package-lock.json` with `npm sbom`; do not edit it. It lists the packages of the container image, not those for
development. The image's Debian packages have their licences in `/usr/share/doc/*/copyright`. This is a list, not legal
advice.

wa-worker's own code is under the MIT licence (`LICENSE`).

**libsignal (npm) is under the GPL-3.0.** Baileys needs it, so the sidecar process loads it, and so does the virtual
phone. You may run wa-worker, also as a service for others, without further duties. If you redistribute the image, or
the sidecar with its packages, you redistribute a combined work with a GPL-3.0 part, and must give its receivers that
licence and the complete source. The worker (Python) is a separate process that talks to the sidecar through a pipe.

The wheel contains no npm package, and the sidecar is not bundled into one file: either would make the wheel such a
combined work. The wheel holds only our own sources and the lock file, under MIT. Each user's first start downloads the
npm packages from the registry into that user's cache (`worker/installation.py`). A copy of that cache is a combined
work again.
"""

Package = tuple[str, str, str]  # name, version, licence


def audit(*, allow_no_answer: bool) -> int:
    """Print each service's findings. The exit code says whether anything was found, or not looked up."""
    found = [audit_python(), audit_npm()]
    if any(found):
        return EXIT_VULNERABLE
    if None not in found:
        return 0
    if allow_no_answer:
        print("audit: not everything was looked up, which --allow-no-answer lets pass")
        return 0
    print("audit: not everything was looked up; `make audit NO_ANSWER=allow` lets that pass")
    return EXIT_UNAVAILABLE


def audit_python() -> int | None:
    """The number of vulnerable packages; None: none found, but some could not be looked up."""
    document = _json(TOOLS / "pip-audit", "-r", LOCK, "--require-hashes", "--disable-pip", "--format", "json")
    packages = document.get("dependencies", [])
    asked = [package for package in packages if "skip_reason" not in package]
    if not asked:
        print("Python: unavailable: the advisory service does not answer here")
        return None
    bad = [package for package in asked if package["vulns"]]
    for package in bad:
        for vuln in package["vulns"]:
            print(f"  {package['name']} {package['version']}: {vuln['id']}, fixed in {vuln['fix_versions'] or 'none'}")
    skipped = f", {len(packages) - len(asked)} could not be looked up" if len(asked) < len(packages) else ""
    print(f"Python: {len(asked)} packages looked up, {len(bad)} with known vulnerabilities{skipped}")
    return len(bad) or (None if skipped else 0)


def audit_npm() -> int | None:
    """The number of vulnerable packages; None: no answer."""
    document = _json("npm", "audit", "--json", *NPM_LOCKED)
    counts = document.get("metadata")
    if counts is None:
        print("npm: unavailable: the registry does not answer audits here")
        return None
    for name, entry in sorted(document["vulnerabilities"].items()):
        titles = {via["title"] for via in entry["via"] if isinstance(via, dict)}
        print(f"  {name} ({entry['severity']}): {'; '.join(sorted(titles)) or 'through its dependencies'}")
    total = int(counts["vulnerabilities"]["total"])
    print(f"npm: {counts['dependencies']['prod']} packages looked up, {total} with known vulnerabilities")
    return total


def sbom() -> int:
    """Write both bills of materials and the page of licences."""
    SBOM.mkdir(parents=True, exist_ok=True)
    project = ROOT / "pyproject.toml"
    python_text = _output(TOOLS / "cyclonedx-py", "requirements", LOCK, "--pyproject", project, "--output-reproducible")
    (SBOM / "python.cdx.json").write_text(python_text)
    npm_text = _output("npm", "sbom", "--sbom-format", "cyclonedx", *NPM_LOCKED)
    (SBOM / "npm.cdx.json").write_text(npm_text)
    python, npm = python_packages(), npm_packages(json.loads(npm_text))
    LICENSES.write_text("\n".join([PREAMBLE, *section("Python packages", python), *section("npm packages", npm)]))
    print(f"{SBOM.relative_to(ROOT)}, {LICENSES.relative_to(ROOT)}: {len(python)} Python packages, {len(npm)} of npm")
    return 0


def python_packages() -> list[Package]:
    """The locked packages as installed in .venv, without setuptools, which is only a build tool."""
    names = [name for name in re.findall(r"^([\w.-]+)==", LOCK.read_text(), re.MULTILINE) if name != "setuptools"]
    found = json.loads(_output(TOOLS / "pip-licenses", "--from", "mixed", "--format", "json", "--packages", *names))
    if len(found) != len(names):
        raise SystemExit("sbom: .venv and requirements.lock differ: run `make lock` and `make setup`")
    return sorted((each["Name"], each["Version"], short(each["License"])) for each in found)


def npm_packages(document: dict[str, Any]) -> list[Package]:
    """The components, without our own workspaces."""
    return sorted(
        (each["name"], each["version"], npm_license(each))
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
    """The licence's usual name. Some packages put the full text into the name field."""
    first = text.strip().splitlines()[0].removeprefix("The ").removesuffix(" (MIT)").strip()
    return SPDX.get(first, first)


def section(title: str, packages: Sequence[Package]) -> list[str]:
    """Markdown lines: the count of each licence, and a table."""
    counts = Counter(license for _, _, license in packages).most_common()
    rows = [f"| {name} | {version} | {license} |" for name, version, license in packages]
    summary = ", ".join(f"{name}: {count}" for name, count in counts)
    return [f"## {title}", "", f"{summary}.", "", "| package | version | licence |", "| --- | --- | --- |", *rows, ""]


def _output(*command: str | Path) -> str:
    """A tool's output. Warnings are off: cyclonedx-py warns that a requirements list is not a graph."""
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=quiet, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def _json(*command: str | Path) -> dict[str, Any]:
    """A tool's JSON output; empty if it is not JSON or took too long. Ignores the exit code, which reports findings."""
    try:
        run = subprocess.run(
            [str(part) for part in command], cwd=ROOT, capture_output=True, timeout=AUDIT_SECONDS, check=False
        )
        return dict(json.loads(run.stdout))
    except (ValueError, subprocess.TimeoutExpired):
        return {}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["audit"]:
            sys.exit(audit(allow_no_answer=False))
        case ["audit", "--allow-no-answer"]:
            sys.exit(audit(allow_no_answer=True))
        case ["sbom"]:
            sys.exit(sbom())
        case _:
            sys.exit(__doc__)

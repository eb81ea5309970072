"""The commands in the README and docs/: finds them, checks them, and runs them.

`docs_commands.toml` lists what each needs. `make docs-commands` runs those that need nothing in a fresh clone, and
those that need a worker beside `wa-worker demo --play`. tests/unit/test_docs_commands.py checks all of them without
running any: commands that are not listed, options, targets and files that do not exist.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testkit.processes import ROOT, free_port

LIST = Path(__file__).with_suffix(".toml")
# First words that identify a line as a command, after `sudo` and settings.
PROGRAMS = frozenset(
    {
        "make", "wa-worker", "python", "node", "npm", "npx", "pipx", "uvx", "docker", "docker-compose", "curl", "git",
        "cp", "df", "install", "mkdir", "tar", "openssl", "psql", "pg_dump", "pg_restore", "supabase", "doctl",
        "systemctl", "systemd-analyze", "journalctl", "promtool", "pre-commit", "ruff", "scripts/image.sh",
    }
)  # fmt: skip
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELL = ("", "bash", "console", "sh")
SETTING = re.compile(r"[A-Z_]+=\S*")
# What follows a command in a block: what may be added, a comment, or words in a column of their own.
REMARK = re.compile(r"\s+\[.*|\s+#\s.*|\s{2,}\S.*")
FOREVER_SECONDS = 900
# Made by a command, or put there by whoever reads it.
MADE = (".make", ".venv", "data", "node_modules", "worker/shipped", "supabase/.temp", "bench/results")


def pages() -> list[Path]:
    """Every page with commands that readers may copy."""
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "simulator/README.md")]
    return [*named, *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(text: str) -> list[str]:
    """The commands of a page, in blocks and in the text, without remarks."""
    found = []
    for language, body in FENCE.findall(text):
        if language in SHELL:
            lines = re.sub(r"\\\n\s*", "", body).splitlines()
            found += [REMARK.sub("", line.strip()) for line in lines]
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    found += [" ".join(span.split()) for span in spans]
    return [each.replace(".venv/bin/", "") for each in found if is_command(each)]


def is_command(text: str) -> bool:
    """Whether the text is a known program followed by arguments."""
    words = text.split()
    while words and (words[0] == "sudo" or SETTING.fullmatch(words[0])):
        words.pop(0)
    return len(words) > 1 and program(words[0]) in PROGRAMS


def program(word: str) -> str:
    """The program's name without its path."""
    return word.removeprefix("/opt/wa-worker/").removeprefix(".venv/bin/")


def all_commands() -> dict[str, list[str]]:
    """Each command, and the pages that contain it."""
    found: dict[str, list[str]] = {}
    for page in pages():
        for command in commands_of(page.read_text()):
            found.setdefault(command, []).append(str(page.relative_to(ROOT)))
    return found


def classes() -> dict[str, dict[str, Any]]:
    """The list: class → command → how it ends."""
    return tomllib.loads(LIST.read_text())


# ── what can be said without running it ─────────────────────────────────────────────────────────────────────────────


def faults(command: str) -> list[str]:
    """Parts of the command that do not exist: a target, one of our commands, an option, a module, a file."""
    words = shlex.split(re.split(r"\s[>|]\s?|&&", command)[0].replace("…", ""), comments=True)
    while words and (words[0] == "sudo" or SETTING.fullmatch(words[0])):
        words.pop(0)
    if "wa-worker" in words[1:] and words[0] == "docker":
        words = words[words.index("wa-worker") :]
    name, rest = program(words[0]), words[1:]
    if name == "make":
        return _faults_of_make(rest)
    if name == "wa-worker":
        return _faults_of_ours(rest)
    if name == "python" and rest[:1] == ["-m"]:
        module = ROOT / rest[1].replace(".", "/")
        if rest[1] == "worker":
            return _faults_of_ours(rest[2:])
        known = rest[1] == "pytest" or module.is_dir() or module.with_suffix(".py").exists()
        return missing_files(rest[2:]) if known else [f"no module {rest[1]}"]
    return missing_files([name, *rest])


def missing_files(words: list[str]) -> list[str]:
    """Words that look like files of this repository but do not exist. Capitals are placeholders."""
    tops = {path.name for path in ROOT.iterdir()}
    return [
        f"no file {word}"
        for word in words
        if ("/" in word or word.startswith(".env")) and word.split("/")[0] in {*tops, ".env.example"}
        if not word.startswith(MADE) and word != ".env" and not re.search(r"[A-Z]{4}", word)
        if not (any(ROOT.glob(word)) if "*" in word else (ROOT / word).exists())
    ]


def _faults_of_make(words: list[str]) -> list[str]:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", text, re.MULTILINE))
    wrong = []
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable and f"$({name}" not in text and f"filter allow,$({name}" not in text:
            wrong.append(f"the Makefile has no {name}")
        elif not is_variable and name not in targets:
            wrong.append(f"no target {name}")
    return wrong


def _faults_of_ours(words: list[str]) -> list[str]:
    """Commands, options and arguments in these words that `wa-worker` does not have."""
    from typer.main import get_command

    from worker.cli import app
    from worker.commands import COMMANDS, load

    command: Any = get_command(app)
    taken = 0
    queue = list(words)
    while queue:
        word = queue.pop(0)
        inside = getattr(command, "commands", {})
        if word.startswith("-"):
            name, has_value, _ = word.partition("=")
            options = [each for each in command.params if name in (*each.opts, *each.secondary_opts)]
            if not options and name not in ("-h", "--help"):
                return [f"no option {name}"]
            if options and not options[0].is_flag and not has_value and queue:
                queue.pop(0)
        elif inside:
            if word not in inside:
                return [f"no command {word}"]
            command = load(word) if taken == 0 and word in COMMANDS else inside[word]
            taken += 1
        else:
            room = [each.nargs for each in command.params if each.param_type_name == "argument"]
            taken += 1
            if not room:
                return [f"takes no word, but {word} stands there"]
    return []


# ── running them ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Place:
    """Where commands run: a clone, with settings that keep it apart from everything else on this machine."""

    folder: Path
    env: Mapping[str, str]

    def run(self, command: str, ends: str) -> str | None:
        """Run a command. Returns what went wrong, or None. `ends`: expected exit codes, or `ctrl-c`: it runs on."""
        child = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert child.stdout is not None
        if ends == "ctrl-c":
            first = child.stdout.readline()
            time.sleep(5)  # nothing depends on it: a command that ends by itself meanwhile is found out below
            lived = child.poll() is None
            os.killpg(child.pid, signal.SIGINT)
            said, _ = child.communicate(timeout=FOREVER_SECONDS)
            return None if lived and first else f"ended by itself with {child.returncode}: {first}{said[-500:]}"
        said, _ = child.communicate(timeout=FOREVER_SECONDS)
        codes = [int(code) for code in ends.split()] or [0]
        return None if child.returncode in codes else f"exit code {child.returncode}: {said[-500:]}"


@contextmanager
def fresh_clone() -> Iterator[Place]:
    """A clone of the current commit in an empty folder, and an environment without our settings. Keeps the user's home,
    where pip and npm have their registries."""
    folder = Path(tempfile.mkdtemp(prefix="wa-docs-"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "WA_", "SUPABASE_"))}
    env = kept | {"WORKER_HTTP_PORT": str(free_port()), "WORKER_CONSOLE_PORT": "0"}
    try:
        subprocess.run(["git", "clone", "--quiet", ROOT, folder / "clone"], check=True)
        yield Place(folder / "clone", env | {"PATH": f"{folder}/clone/.venv/bin:{env['PATH']}"})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def beside_a_worker(place: Place) -> Iterator[Place]:
    """A worker linked to the virtual phone, and the settings for a second terminal beside it."""
    child = subprocess.Popen(
        [".venv/bin/wa-worker", "demo", "--play"],
        cwd=place.folder,
        env=place.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        lines = []
        for line in child.stdout:
            lines.append(line)
            if found := re.search(r"export WORKER_DATA_DIR=(\S+)", line):
                break
        else:
            raise RuntimeError("no worker to play with: " + "".join(lines))
        child.stdin.write("Are these the oranges we ordered?\n")
        child.stdin.flush()
        yield Place(place.folder, {**place.env, "WORKER_DATA_DIR": found[1]})
    finally:
        child.stdin.write("/quit\n")
        child.stdin.close()
        child.stdout.read()
        child.wait(timeout=FOREVER_SECONDS)


def run_all() -> int:
    """Run every command that can run. Returns the number of failures."""
    listed, wrong = classes(), 0

    def run(place: Place, kind: str) -> None:
        nonlocal wrong
        for command, ends in listed[kind].items():
            began = time.monotonic()
            trouble = place.run(command, ends)
            wrong += trouble is not None
            print(f"{'WRONG' if trouble else 'ok':<6}{time.monotonic() - began:5.0f} s  {command}", flush=True)
            if trouble:
                print(f"             {trouble}", flush=True)

    with fresh_clone() as clone:
        run(clone, "here")
        with beside_a_worker(clone) as beside:
            run(beside, "beside a worker")
    left = sum(len(entries) for kind, entries in listed.items() if kind not in ("here", "beside a worker"))
    print(f"{wrong} went wrong; {left} were not run, for the reasons in {LIST.name}")
    return wrong


if __name__ == "__main__":
    sys.exit(1 if run_all() else 0)

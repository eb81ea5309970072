"""The npm packages of an installed worker: fetched once, whole or not at all, and nothing but what the lock names."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testkit.processes import NODE, ROOT
from worker import installation
from worker.errors import InstallFailed, SettingsError
from worker.installation import explain, install_packages, node_folder

# Stands in npm's place: notes that it ran and with what environment, takes a moment, makes node_modules.
NPM = """
const fs = require('node:fs')
fs.appendFileSync(process.env.npm_config_note, JSON.stringify(process.env) + '\\n')
if (process.env.npm_config_fail) { console.error('npm error code ' + process.env.npm_config_fail); process.exit(1) }
setTimeout(() => fs.mkdirSync('node_modules/baileys', { recursive: true }), 500)
"""


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a wheel would bring, with npm replaced, and a cache of its own."""
    folder = tmp_path / "shipped"
    for name in ("sidecar-baileys", "simulator"):
        (folder / name).mkdir(parents=True)
        (folder / name / "index.js").write_text("")
    write_lock(folder, {})
    npm = tmp_path / "npm.cjs"
    npm.write_text(NPM)
    monkeypatch.setattr(installation, "npm_program", lambda: npm)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_note", str(tmp_path / "note"))
    return folder


def write_lock(folder: Path, dependencies: dict[str, dict[str, str]]) -> None:
    root = {"name": "x", "version": "1.0.0", "dependencies": dict.fromkeys(dependencies, "1.0.0")}
    packages = {"": root, **{f"node_modules/{name}": each for name, each in dependencies.items()}}
    (folder / "package.json").write_text(json.dumps(root))
    (folder / "package-lock.json").write_text(json.dumps({**root, "lockfileVersion": 3, "packages": packages}))


def install(shipped: Path) -> list[str]:
    said: list[str] = []
    install_packages(NODE, said.append, shipped)
    return said


def runs(tmp_path: Path) -> list[dict[str, str]]:
    note = tmp_path / "note"
    return [json.loads(line) for line in note.read_text().splitlines()] if note.exists() else []


def test_they_are_installed_once_into_a_folder_of_the_cache(shipped: Path, tmp_path: Path) -> None:
    said = install(shipped)
    place = node_folder(shipped)
    assert place.parent == tmp_path / "cache" / "wa-worker"
    assert (place / "node_modules" / "baileys").is_dir()
    assert (place / "sidecar-baileys" / "index.js").is_file()
    assert str(place) in said[0]
    assert install(shipped) == []
    assert len(runs(tmp_path)) == 1


def test_other_sources_get_a_folder_of_their_own(shipped: Path) -> None:
    before = node_folder(shipped)
    (shipped / "sidecar-baileys" / "index.js").write_text("// changed")
    assert node_folder(shipped) != before


def test_two_that_start_at_once_install_once(shipped: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as starting:
        said = list(starting.map(install, [shipped] * 4))
    assert len(runs(tmp_path)) == 1
    assert sum("the npm packages are installed" in lines for lines in said) == 1


def test_what_a_killed_install_left_is_not_taken_for_the_packages(shipped: Path) -> None:
    left = node_folder(shipped).with_suffix(".partial")
    (left / "node_modules" / "half").mkdir(parents=True)
    install(shipped)
    assert not left.exists()
    assert not (node_folder(shipped) / "node_modules" / "half").exists()


def test_a_failure_leaves_nothing_and_the_next_start_tries_again(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_fail", "ENOTFOUND")
    with pytest.raises(InstallFailed, match=r"registry cannot be reached \(ENOTFOUND\)"):
        install(shipped)
    assert [path.name for path in node_folder(shipped).parent.iterdir()] == ["lock"]
    monkeypatch.delenv("npm_config_fail")
    assert install(shipped)[-1] == "the npm packages are installed"


def test_npm_sees_its_own_settings_and_none_of_the_workers(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", "sb_secret_x")
    monkeypatch.setenv("WORKER_STATE_KEY", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    install(shipped)
    (seen,) = runs(tmp_path)
    assert not {"SUPABASE_SERVICE_KEY", "WORKER_STATE_KEY"} & set(seen)
    assert seen["HTTPS_PROXY"] == "http://proxy.example:3128"


def test_a_cache_that_belongs_to_another_user_is_not_used(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    with pytest.raises(InstallFailed, match="belongs to another user"):
        install(shipped)
    assert runs(tmp_path) == []


def test_a_checkout_without_its_packages_says_make_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "CHECKOUT", tmp_path)
    with pytest.raises(SettingsError, match="run `make setup`"):
        install_packages(NODE, lambda line: None, tmp_path / "missing")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        pytest.param("npm error code ETIMEDOUT\n", "cannot be reached (ETIMEDOUT)", id="no answer"),
        pytest.param("npm error code EINTEGRITY\n", "is not the one that the lock file names", id="another content"),
        pytest.param("npm error code E403\nnpm error 403\n", "could not be installed (E403)", id="refused"),
        pytest.param("Killed\n", "could not be installed (Killed)", id="not in npm's form"),
        pytest.param("", "npm did not say why", id="silence"),
    ],
)
def test_why_npm_failed_is_one_sentence(said: str, words: str) -> None:
    assert words in explain(said)


# The real npm

TARBALL = b"this is not what the lock says"


def sha512(content: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry with one package, which is consistent in itself."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            dist = {"tarball": f"http://{self.headers['host']}/one.tgz", "integrity": sha512(TARBALL)}
            about = {"name": "one", "versions": {"1.0.0": {"name": "one", "version": "1.0.0", "dist": dist}}}
            body = TARBALL if self.path.endswith(".tgz") else json.dumps(about).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def real_npm(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    write_lock(shipped, {"one": {"version": "1.0.0", "integrity": sha512(b"what the lock says")}})
    return shipped


def test_without_a_registry_the_real_npm_ends_and_the_error_says_so(
    real_npm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(InstallFailed, match=r"cannot be reached \(ECONNREFUSED\)"):
        install(real_npm)


def test_a_package_of_other_content_than_the_lock_names_is_refused(
    real_npm: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", registry)
    with pytest.raises(InstallFailed, match="EINTEGRITY"):
        install(real_npm)
    assert not node_folder(real_npm).exists()


def test_the_lock_names_a_sha512_for_every_package() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    fetched = {
        name: each for name, each in packages.items() if name.startswith("node_modules/") and not each.get("link")
    }
    assert len(fetched) > 100
    assert [name for name, each in fetched.items() if not each.get("integrity", "").startswith("sha512-")] == []

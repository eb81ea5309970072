"""The embedded Supabase: `@supabase/lite` as a child process, used when SUPABASE_URL is not set.

Two servers on one folder destroy it (docs/supabase.md, "The embedded Supabase"). So the process that starts the server
locks a file beside the folder and passes the lock to the server: only the server's death releases it. Other processes
find the server through the endpoint file, and take over once the lock is free. Layout of the data folder:

    embedded/               the server's folder: supabase/config.toml, migrations, database, objects
    embedded.lock           locked while a server runs
    embedded.keys.json      mode 0600: the generated keys
    embedded.endpoint.json  mode 0600: URL, key and process id of the running server

The server prints failed statements with whole rows and keys, so only the names of migrations are logged. It exits when
its stdin ends, so a killed worker leaves no orphan.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import httpx
from anyio.abc import ByteReceiveStream, Process, TaskStatus

from worker.errors import SettingsError, StoreUnavailable, cause
from worker.installation import DATA, node_folder, remedy
from worker.machine import little_space, trouble
from worker.store.endpoint import (
    Endpoint,
    free_port,
    is_free,
    load_keys,
    read_endpoint,
    withdraw_endpoint,
    write_endpoint,
)

__all__ = ["LITE_CLI", "MIGRATIONS", "Embedded", "Endpoint", "embedded_supabase", "read_endpoint"]

LITE_CLI: Final = node_folder() / "node_modules/@supabase/lite/dist/cli/index.js"
MIGRATIONS: Final = DATA / "supabase/migrations"
USERS: Final = DATA / "supabase/optional/users.sql"
FOLLOW_PARENT: Final = Path(__file__).with_name("follow_parent.mjs")

READY_SECONDS: Final = 60.0  # 1.5 s when idle; 20 s seen on a loaded machine with two cores
MIGRATE_SECONDS: Final = 180.0  # 6 s when idle
STOP_SECONDS: Final = 10.0  # it closes its database on SIGTERM
QUIET_SECONDS: Final = 2.0  # a shorter start is not announced
PORT_SECONDS: Final = 3.0  # a dying server may release its lock before its port
POLL_SECONDS: Final = 0.05
TAKE_OVER_POLL_SECONDS: Final = 0.5
RESTART_DELAY_SECONDS: Final = 0.5
RESTART_AFTER_FAILURE_SECONDS: Final = 5.0
NODE_TOO_OLD: Final = 86  # the exit code of follow_parent.mjs
NODE_BAD_OPTION: Final = 9  # Node's own exit code, from versions without --import

CONFIG: Final = """\
[api]
port = {port}

[db]
driver = "pglite"
url = "./database"

[auth]
enabled = {users}
jwt_secret = "env(LITE_JWT_SECRET)"
publishable_key = "env(SUPABASE_PUBLISHABLE_KEY)"
secret_key = "env(SUPABASE_SECRET_KEY)"

[storage]
enabled = true
file_size_limit = "2GiB"
"""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Where the embedded Supabase is and what runs it. `report` gets lines for the operator."""

    data_dir: Path
    node: Path
    report: Callable[[str], None] = lambda _line: None
    lite_cli: Path = LITE_CLI
    migrations: Path = MIGRATIONS
    users: bool = False  # people sign up and read their groups (docs/users.md)

    async def run(self, *, task_status: TaskStatus[Endpoint]) -> None:
        """Serve, or follow the process that serves, until cancelled: `endpoint = await group.start(embedded.run)`.

        Restarts a dead server under the same address and keys, so clients need not notice. If another process owns the
        folder, uses its server, and takes over when that process is gone.

        Raises:
            SettingsError: Node or the npm package is missing or too old, or the data folder cannot be written.
            StoreUnavailable: the server does not start, or could not restart under its address.
        """
        self._check_installed()
        announced: Endpoint | None = None
        while True:
            with self._try_lock() as lock:
                if lock is None:
                    endpoint = await self._running() if announced is None else announced
                    if endpoint is None:
                        await anyio.sleep(POLL_SECONDS)
                        continue
                else:
                    announced = await self._serve(lock, announced, task_status)
                    continue
            if announced is None:
                announced = endpoint
                task_status.started(announced)
            await anyio.sleep(TAKE_OVER_POLL_SECONDS)

    async def _serve(self, lock: int, announced: Endpoint | None, task_status: TaskStatus[Endpoint]) -> Endpoint:
        """Run the server once, until it ends. A failed restart, on a full disk for example, is retried."""
        async with AsyncExitStack() as life:
            try:
                server = await life.enter_async_context(_Server(self, lock, announced))
            except (OSError, StoreUnavailable) as error:
                if announced is None:
                    raise
                words = (trouble(error) or str(error)) if isinstance(error, OSError) else str(error)
                self.report(f"the embedded Supabase cannot start again: {words}; trying again")
                await anyio.sleep(RESTART_AFTER_FAILURE_SECONDS)
                return announced
            _same_address(announced, server.endpoint)
            if announced is None:
                announced = server.endpoint
                task_status.started(announced)
            await server.wait()
            self.report("the embedded Supabase ended; starting it again")
            await anyio.sleep(RESTART_DELAY_SECONDS)
        return announced

    def _check_installed(self) -> None:
        if not self.node.exists():
            raise SettingsError(f"there is no Node at {self.node}: run `make setup`")
        if not self.lite_cli.exists():
            raise SettingsError(f"the npm package @supabase/lite is missing: {remedy()}, or set SUPABASE_URL")
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SettingsError(f"WORKER_DATA_DIR {self.data_dir} cannot be made: {error.strerror}") from error
        if not os.access(self.data_dir, os.W_OK | os.X_OK):
            raise SettingsError(f"WORKER_DATA_DIR {self.data_dir} cannot be written")

    @contextmanager
    def _try_lock(self) -> Iterator[int | None]:
        """The lock's file descriptor while the block runs, or None if somebody else serves the folder."""
        fd = os.open(self.data_dir / "embedded.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield fd
        finally:
            os.close(fd)

    async def _running(self) -> Endpoint | None:
        endpoint = read_endpoint(self.data_dir)
        if endpoint is None:
            return None
        async with _client(endpoint.url) as http:
            return endpoint if await _answers(http) else None


@asynccontextmanager
async def embedded_supabase(place: Embedded) -> AsyncIterator[Endpoint]:
    """`Embedded.run` for the length of a block. Raises start errors directly, not in a group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        try:
            endpoint = await group.start(place.run)
        except (SettingsError, StoreUnavailable) as error:
            failure = error
        except OSError as error:  # a full disk, or files of another user, as after a first start with sudo
            failure = SettingsError(
                f"WORKER_DATA_DIR: {error.filename or place.data_dir} cannot be used ({error.strerror}); set a folder "
                "in which this user may write, or give its files to this user"
            )
        else:
            yield endpoint
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Server:
    """One run of the server process: migrated, started, ready; stopped at the end of the block."""

    def __init__(self, place: Embedded, lock: int, former: Endpoint | None) -> None:
        self._place = place
        self._former = former  # the address that clients know
        self._lock = lock
        self._folder = place.data_dir / "embedded"
        self._migrations = self._folder / "supabase" / "migrations"
        self._keys = load_keys(place.data_dir)
        self._unfinished = self._folder / "unfinished"  # exists while a new database is being migrated
        self._process: Process | None = None
        self.endpoint: Endpoint

    async def __aenter__(self) -> _Server:
        port = await self._choose_port()
        withdraw_endpoint(self._place.data_dir)  # no server is running, and the port may change
        self._prepare(port)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_say_later, self._place.report, "starting the embedded Supabase …")
                await self._migrate()
                await self._start(f"http://127.0.0.1:{port}")
                group.cancel_scope.cancel()
        except ExceptionGroup as errors:
            await self._stop()
            raise cause(errors) from None
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def wait(self) -> None:
        """Return when the server has ended."""
        assert self._process is not None
        await self._process.wait()

    async def _choose_port(self) -> int:
        """The previous server's port, so that its clients find this one; else a free port."""
        former = self._former or read_endpoint(self._place.data_dir)
        if former is not None:
            port = int(former.url.rsplit(":", 1)[1])
            with anyio.move_on_after(PORT_SECONDS):
                while not is_free(port):  # noqa: ASYNC110 - nobody tells when a port becomes free
                    await anyio.sleep(POLL_SECONDS)
                return port
        return free_port()

    def _prepare(self, port: int) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        supabase = self._folder / "supabase"
        supabase.mkdir(exist_ok=True)
        (supabase / "config.toml").write_text(CONFIG.format(port=port, users=str(self._place.users).lower()))
        shutil.rmtree(self._migrations, ignore_errors=True)
        shutil.copytree(self._place.migrations, self._migrations)
        if self._place.users:
            content = _digest(self._migrations) + hashlib.sha256(USERS.read_bytes()).hexdigest()
            shutil.copy(USERS, self._migrations / f"{_users_version(content)}_users.sql")

    async def _migrate(self) -> None:
        """Apply pending migrations. A stamp file saves the two seconds that a check takes."""
        stamp = self._folder / "migrations.sha256"
        wanted = _digest(self._migrations)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        is_new = self._begin_database()
        process = await self._spawn("migration", "up", stdout=subprocess.PIPE)
        try:
            with anyio.fail_after(MIGRATE_SECONDS):
                assert process.stdout is not None
                names = [name async for name in _applied(process.stdout)]
                code = await process.wait()
        except TimeoutError as error:
            raise StoreUnavailable("the migrations of the embedded Supabase took too long") from error
        finally:
            await _end(process)
        _check_exit(code, "the migrations of the embedded Supabase failed", self._folder)
        done = [f"a new database, {len(names)} migrations applied"] if is_new else [f"applied {name}" for name in names]
        for line in done:
            self._place.report(f"embedded Supabase: {line}")
        stamp.write_text(wanted)
        self._unfinished.unlink(missing_ok=True)

    def _begin_database(self) -> bool:
        """Whether the database is a new one. Removes one whose first migrations did not finish (e.g. full disk): it
        would never start.
        """
        database = self._folder / "database"
        if self._unfinished.exists():
            shutil.rmtree(database, ignore_errors=True)
        elif not database.exists():
            self._unfinished.touch()
        return self._unfinished.exists()

    async def _start(self, url: str) -> None:
        self._process = await self._spawn("start", "--no-admin", stdout=subprocess.DEVNULL)
        try:
            with anyio.fail_after(READY_SECONDS):
                await self._until_it_answers(url, self._process)
        except TimeoutError as error:
            words = f"the embedded Supabase was not ready within {READY_SECONDS:g} s"
            raise StoreUnavailable(f"{words}{little_space(self._folder)}") from error
        self.endpoint = Endpoint(
            url=url,
            key=self._keys["secret"],
            publishable_key=self._keys["publishable"],
            pid=self._process.pid,
            owned=True,
        )
        write_endpoint(self._place.data_dir, self.endpoint)

    async def _until_it_answers(self, url: str, process: Process) -> None:
        async with _client(url) as http:  # one for all questions: each client reads the certificates anew, 20 ms
            while not await _answers(http):
                if process.returncode is not None:
                    _check_exit(process.returncode, "the embedded Supabase ended while it started", self._folder)
                    raise StoreUnavailable("the embedded Supabase ended while it started")
                await anyio.sleep(POLL_SECONDS)

    async def _spawn(self, *command: str, stdout: int) -> Process:
        try:
            return await anyio.open_process(
                [self._place.node, "--import", FOLLOW_PARENT.as_uri(), self._place.lite_cli, *command],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                cwd=self._folder,
                env=_environment(self._keys, self._place.node, self._folder),
                pass_fds=(self._lock,),
                start_new_session=True,  # the worker handles Ctrl-C and stops the server
            )
        except OSError as error:
            raise SettingsError(f"Node at {self._place.node} cannot be started: {error.strerror}") from error

    async def _stop(self) -> None:
        if self._process is not None:
            await _end(self._process)


async def _end(process: Process) -> None:
    """SIGTERM, then SIGKILL after STOP_SECONDS. Shielded from cancellation, but bounded."""
    with anyio.CancelScope(shield=True):
        try:
            if process.returncode is None:
                process.terminate()
                with anyio.move_on_after(STOP_SECONDS):
                    await process.wait()
            if process.returncode is None:
                process.kill()
        except ProcessLookupError:
            pass
        with anyio.move_on_after(STOP_SECONDS):
            await process.aclose()


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=2.0, trust_env=False)


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        return bool((await http.get("/storage/v1/status")).json() == {"status": "ok"})
    except (httpx.HTTPError, ValueError):
        return False


async def _applied(output: ByteReceiveStream) -> AsyncIterator[str]:
    """Names of migrations as they are applied. Discards all other output."""
    seen = ""
    async for chunk in output:
        seen += chunk.decode(errors="replace")
        *lines, seen = seen.split("\n")
        for line in lines:
            if found := re.search(r"Applied (\d{14}_\w+)", line):
                yield found[1]


async def _say_later(report: Callable[[str], None], line: str) -> None:
    await anyio.sleep(QUIET_SECONDS)
    report(line)
    await anyio.sleep_forever()


def _same_address(announced: Endpoint | None, now: Endpoint) -> None:
    if announced is not None and announced.url != now.url:
        raise StoreUnavailable("the port of the embedded Supabase was taken while it was down")


def _check_exit(code: int | None, message: str, folder: Path) -> None:
    if code in (NODE_TOO_OLD, NODE_BAD_OPTION):
        raise SettingsError("the embedded Supabase needs Node 22 or newer: run `make setup`, or set SUPABASE_URL")
    if code != 0:
        raise StoreUnavailable(f"{message} (exit code {code}){little_space(folder)}")


def _users_version(content: str) -> str:
    """A version of fourteen digits that sorts after every date and changes with users.sql or any migration.

    lite skips versions in its history, but users.sql must be applied again after each change of either.
    """
    return f"9{int(hashlib.sha256(content.encode()).hexdigest(), 16) % 10**13:013}"


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.sql")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _environment(keys: Mapping[str, str], node: Path, home: Path) -> dict[str, str]:
    """The server's environment: an allow-list without the worker's secrets. HOME, because it creates a folder there."""
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LITE_TELEMETRY": "0",
        "DO_NOT_TRACK": "1",
        "EXPERIMENTAL_STORAGE": "1",
        "NO_COLOR": "1",
        "SUPABASE_SECRET_KEY": keys["secret"],
        "SUPABASE_PUBLISHABLE_KEY": keys["publishable"],
        "LITE_JWT_SECRET": keys["jwt"],
    }

"""The whole worker process around a sidecar that misbehaves: boot, restarts, lease, signals, exit codes.

The sidecar here is a few lines of Node in the real one's place (WORKER_ROOT); Supabase is the embedded one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from supabase import AsyncClient, AsyncClientOptions
from typer.testing import CliRunner

from testkit.embedded import seed
from testkit.waiting import until
from tests.integration.reading import pending_flags
from worker.cli import app
from worker.errors import ExitCode
from worker.store import Store
from worker.store.embedded import Endpoint

BOUND = 60.0
PYTHON = sys.executable
WORKER = [PYTHON, "-W", "error", "-m", "worker"]

PRELUDE = """
import { createInterface } from 'node:readline'
const say = (document) => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...document }) + '\\n')
const tell = (method, params) => say({ method, params })
const me = { id: '491511234567:5@s.whatsapp.net', lid: '2001:5@lid', name: 'Ana' }
const open = () => tell('connection', { state: 'open', me, server_time_offset_ms: 0 })
const pong = {
  rss_bytes: 1, heap_bytes: 1, log_items: 0, log_bytes: 0, log_bytes_max: 0, held_frames: 0, longest_hold_ms: 0,
  open_sections: 0, loop_lag_ms: 0, stanzas_in: 0, stanzas_out: 0, stuck_ms: null, stuck_hash: null,
  last_stanza_at_ms: null, last_group_stanza_at_ms: null, swallowed: 0, complete: null,
}
const answers = {
  connect: () => ({ version: [2, 3000, 1] }), close: () => ({ pending: 0 }),
  groups: () => ({ groups: [], asked_at_ms: Date.now() }),
  monitor: () => ({}), ping: () => pong,
}
const on = {}
const lines = createInterface({ input: process.stdin })
lines.on('line', (line) => {
  const call = JSON.parse(line)
  if (!call.method) return on.answer?.(call)
  say({ id: call.id, result: answers[call.method](call.params) })
  on[call.method]?.(call.params)
})
lines.on('close', () => on.end ? on.end() : process.exit(0))
"""
OPENS = "on.connect = open"


@dataclass
class Running:
    """A worker process and its session in the database."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    session: str
    store: Store
    client: AsyncClient

    async def until(self, what: str, probe: Callable[[], Any]) -> Any:
        """Wait until `probe`, which may be a coroutine function, gives something true."""
        deadline = time.monotonic() + BOUND
        while True:
            found = probe()
            if hasattr(found, "__await__"):
                found = await found
            if found:
                return found
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.log.read_text()[-3000:]}"
            await anyio.sleep(0.02)

    async def row(self) -> dict[str, Any]:
        answer = await self.client.table("wa_sessions").select("*").eq("id", self.session).execute()
        rows: list[Any] = answer.data
        return dict(rows[0]) if rows else {}

    async def state(self, name: str) -> dict[str, Any]:
        async def probe() -> dict[str, Any] | None:
            row = await self.row()
            return row if row and row["detail"].get("state") == name else None

        return dict(await self.until(f"state {name}", probe))

    async def errors(self, code: str) -> list[dict[str, Any]]:
        query = self.client.table("audit_log").select("payload").eq("session_id", self.session).eq("event", "error")
        rows: list[Any] = (await query.execute()).data
        return [row["payload"] for row in rows if row["payload"].get("code") == code]

    async def ends(self) -> int:
        """Its exit code."""
        return int(await self.until("the end", lambda: self.process.poll() is not None and str(self.process.poll())))

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.get(f"http://127.0.0.1:{self.port}{path}")


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def launched(
    folder: Path, code: str | None, settings: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A worker process with `code` as its sidecar, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **settings}
    if code is not None:
        (folder / "sidecar-baileys").mkdir(exist_ok=True)
        (folder / "sidecar-baileys" / "index.js").write_text(PRELUDE + code)
        (folder / "package.json").write_text('{"type": "module"}')
        environment["WORKER_ROOT"] = str(folder)
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            WORKER, cwd=folder, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def running(
    folder: Path, embedded: Endpoint, store: Store, code: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    port = free_port()
    chosen = {
        "SUPABASE_URL": embedded.url,
        "SUPABASE_SERVICE_KEY": embedded.key,
        "WORKER_HTTP_HOST": "127.0.0.1",
        "WORKER_HTTP_PORT": str(port),
        "WORKER_SESSION": f"s-{uuid4().hex[:8]}",
        "WORKER_POLL_MS": "150",
        "WORKER_BACKOFF_BASE_MS": "10",
        "WORKER_BACKOFF_MAX_MS": "50",
        **(settings or {}),
    }
    options = AsyncClientOptions(httpx_client=httpx.AsyncClient(http2=False))
    client = AsyncClient(embedded.url, embedded.key, options)
    assert options.httpx_client
    async with options.httpx_client:
        with launched(folder, code, chosen) as (process, log):
            yield Running(process, log, port, chosen["WORKER_SESSION"], store, client)


async def test_a_worker_connects_reports_and_stops_with_code_0(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    async with running(tmp_path, embedded, store, OPENS) as worker:
        row = await worker.state("connected")
        assert (row["status"], row["wa_number"]) == ("connected", "491511234567")
        assert (await worker.get("/healthz")).json() == {"ok": True}
        ready = await worker.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (200, [])
        query = worker.client.table("audit_log").select("event").eq("session_id", worker.session)

        async def connected() -> bool:
            rows: list[Any] = (await query.execute()).data
            return "connect" in [row["event"] for row in rows]

        await worker.until("the audit entry, under its own session", connected)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends() == 0
        row = await worker.row()
        assert (row["status"], row["detail"]["state"], row["lease_owner"]) == ("disconnected", "stopped", None)
        assert not [line for line in worker.lines() if "Warning" in line or "Traceback" in line]


MISBEHAVIOUR = [  # what each sidecar does once it is connected, and what the audit log then says of it
    [
        ("process.exit(1)", "the sidecar closed its end of the pipe"),
        ("console.log('hello')", "not JSON"),
        ("tell('qr', {})", "malformed"),
    ],
    [
        ("process.kill(process.pid, 'SIGKILL')", "the sidecar closed its end of the pipe"),
        ("process.stdout.write('x'.repeat(34e6))", "a line of more than"),
        (
            "for (let n = 0; n < 50; n++) process.stderr.write('y'.repeat(1e6)); process.exit(1)",
            "the sidecar closed its end of the pipe",
        ),
    ],
]


@pytest.mark.parametrize("faults", MISBEHAVIOUR, ids=["in its words", "in its bulk"])
async def test_a_sidecar_that_misbehaves_is_replaced_each_time_and_it_is_audited(
    tmp_path: Path, embedded: Endpoint, store: Store, faults: list[tuple[str, str]]
) -> None:
    starts = tmp_path / "starts"
    branches = "\n".join(f"  if (nth === {n}) {{ {fault} }}" for n, (fault, _) in enumerate(faults))
    code = f"""
import {{ appendFileSync, readFileSync }} from 'node:fs'
appendFileSync({json.dumps(str(starts))}, 'x')
const nth = readFileSync({json.dumps(str(starts))}).length - 1
on.connect = () => {{
  open()
{branches}
}}
"""
    async with running(tmp_path, embedded, store, code) as worker:

        async def all_audited() -> list[dict[str, Any]] | None:
            found = await worker.errors("SIDECAR_GONE")
            return found if len(found) == len(faults) else None

        told = await worker.until("an audit entry for each", all_audited)
        await worker.state("connected")
        assert len(starts.read_text()) == len(faults) + 1
        for entry, (fault, words) in zip(told, faults, strict=True):
            assert words in entry["msg"], f"{fault}: {entry['msg']}"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends() == 0


async def test_a_sidecar_that_keeps_ending_is_a_clear_state_and_no_hot_loop(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    starts = tmp_path / "starts"
    code = f"""
import {{ appendFileSync }} from 'node:fs'
appendFileSync({json.dumps(str(starts))}, 'x')
process.exit(3)
"""
    async with running(tmp_path, embedded, store, code) as worker:

        async def looping() -> bool:
            return "keeps ending" in (await worker.row()).get("detail", {}).get("say", "")

        await worker.until("the loop to be found", looping)
        assert (await worker.errors("SIDECAR_GONE"))[-1]["ctx"]["delay_s"] >= 300, "how long it now waits"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends() == 0
        assert len(starts.read_text()) == 6


async def test_a_hanging_sidecar_does_not_hold_up_the_end(tmp_path: Path, embedded: Endpoint, store: Store) -> None:
    code = (
        "on.connect = open; on.end = () => {}; answers.close = () => { if (on.opened) for (;;); return { pending: 0 } }"
    )
    code += "\non.connect = () => { open(); on.opened = true }"
    async with running(tmp_path, embedded, store, code) as worker:
        await worker.state("connected")
        sidecar = int((await worker.get("/readyz")).json()["sidecar"]["pid"])
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends() in (0, 6)
        await worker.until("no orphan", lambda: not exists(sidecar))


async def test_a_second_signal_ends_at_once(tmp_path: Path, embedded: Endpoint, store: Store) -> None:
    code = "on.end = () => {}; answers.close = () => { if (on.opened) for (;;); return { pending: 0 } }"
    code += "\non.connect = () => { open(); on.opened = true }"
    async with running(tmp_path, embedded, store, code) as worker:
        await worker.state("connected")
        worker.process.send_signal(signal.SIGTERM)
        await worker.until("the first one to be heard", lambda: "SIGTERM: stopping" in worker.log.read_text())
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends() == ExitCode.INTERRUPTED


async def test_a_second_worker_waits_and_takes_over_at_once_after_a_clean_stop(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    settings = {"WORKER_SESSION": "handover", "WORKER_LEASE_S": "300"}  # far beyond BOUND: it is not waited for
    async with (
        running(tmp_path / "one", embedded, store, OPENS, settings) as first,
        running(tmp_path / "two", embedded, store, OPENS, settings) as second,
    ):
        both = [first, second]

        def waiting() -> list[Running]:
            return [each for each in both if "serves this session; waiting" in each.log.read_text()]

        (standby,) = await first.until("one of them to wait", waiting)
        (serving,) = (each for each in both if each is not standby)
        await serving.state("connected")
        assert (await standby.get("/readyz")).status_code == 503
        assert (await standby.get("/healthz")).status_code == 200
        serving.process.send_signal(signal.SIGTERM)
        assert await serving.ends() == 0
        await standby.until("it to be ready", lambda: ready(standby))


async def ready(worker: Running) -> bool:
    return (await worker.get("/readyz")).status_code == 200


async def test_no_sidecar_outlives_a_killed_worker_and_a_second_one_takes_over_when_the_lease_ends(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    settings = {"WORKER_SESSION": "takeover", "WORKER_LEASE_S": "3"}
    async with running(tmp_path / "one", embedded, store, OPENS, settings) as first:
        await first.state("connected")
        sidecar = int((await first.get("/readyz")).json()["sidecar"]["pid"])
        assert exists(sidecar)
        first.process.kill()
        await first.until("no orphan", lambda: not exists(sidecar))
        async with running(tmp_path / "two", embedded, store, OPENS, settings) as second:
            await second.until("it to be ready", lambda: second.process.poll() is None and answered(second))


async def test_a_worker_on_the_same_data_folder_does_not_wait_for_the_lease_of_a_dead_one(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    settings = {"WORKER_SESSION": "inherited", "WORKER_LEASE_S": "600", "WORKER_DATA_DIR": str(tmp_path / "data")}
    async with running(tmp_path / "one", embedded, store, OPENS, settings) as first:
        await first.state("connected")
        async with running(tmp_path / "two", embedded, store, OPENS, settings) as second:
            await second.until("it to wait", lambda: "serves this session; waiting" in second.log.read_text())
            first.process.kill()
            await second.until("it to be ready", lambda: second.process.poll() is None and answered(second))
            assert "has died; taking over" in second.log.read_text()


async def answered(worker: Running) -> bool:
    try:
        return await ready(worker)
    except httpx.TransportError:
        return False


async def test_a_worker_that_lost_its_lease_ends_its_socket_and_waits(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    async with running(tmp_path, embedded, store, OPENS, {"WORKER_LEASE_S": "3"}) as worker:
        row = await worker.state("connected")
        sidecar = int((await worker.get("/readyz")).json()["sidecar"]["pid"])
        thief = {"lease_owner": "elsewhere:1:x", "fence": row["fence"] + 1, "lease_expires_at": "2999-01-01T00:00:00Z"}
        await worker.client.table("wa_sessions").update(thief).eq("id", worker.session).execute()
        await worker.until("the sidecar to be gone", lambda: not exists(sidecar))
        await worker.until("it to say so", lambda: "another worker (elsewhere:1) serves" in worker.log.read_text())
        assert worker.process.poll() is None


async def test_the_flags_of_the_web_app_are_obeyed_and_marked_and_a_logout_outlives_a_restart(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    settings = {"WORKER_SESSION": f"s-{uuid4().hex[:8]}"}
    async with running(tmp_path / "one", embedded, store, OPENS, settings) as worker:
        await worker.state("connected")
        flag = {"key": f"{worker.session}:wa_disconnect_requested", "value": {"at": "2026-01-31T12:00:00Z"}}
        await worker.client.table("runtime_flags").upsert(flag).execute()
        row = await worker.state("logged_out")
        assert row["status"] == "disconnected"

        async def handled() -> bool:
            return not await pending_flags(store, worker.session)

        await worker.until("the flag to be marked", handled)
        worker.process.send_signal(signal.SIGINT)  # Ctrl-C is a clean stop too
        assert await worker.ends() == 0
    async with running(tmp_path / "two", embedded, store, OPENS, settings) as worker:
        await worker.until("a view", lambda: answers_with_state(worker, "logged_out"))
        flag = {"key": f"{worker.session}:wa_refresh_qr_requested", "value": {"at": "2026-01-31T12:00:01Z"}}
        await worker.client.table("runtime_flags").upsert(flag).execute()
        await worker.state("connected")


async def answers_with_state(worker: Running, state: str) -> bool:
    try:
        document = (await worker.get("/readyz")).json()
    except httpx.TransportError:
        return False
    return bool(document["session"] and document["session"]["state"] == state)


async def test_torn_credentials_stop_the_worker_and_change_nothing(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    session = f"s-{uuid4().hex[:8]}"
    torn = '{"noiseKey": {"priv'
    lease = await store.lease_acquire(session, "before", 60)
    await store.lease_release(session, "before", lease.fence)
    options = AsyncClientOptions(httpx_client=httpx.AsyncClient(http2=False))
    client = AsyncClient(embedded.url, embedded.key, options)
    await client.table("wa_sessions").update({"creds_json": torn}).eq("id", session).execute()
    assert options.httpx_client
    await options.httpx_client.aclose()
    async with running(tmp_path, embedded, store, OPENS, {"WORKER_SESSION": session}) as worker:
        assert await worker.ends() == 3
        assert "torn" in worker.lines()[-1]
        row = await worker.row()
        assert (row["creds_json"], row["lease_owner"]) == (torn, None)
        assert (row["detail"]["state"], "torn" in row["detail"]["say"]) == ("failed", True)


async def test_a_supabase_that_is_late_is_waited_for_and_one_that_is_away_does_not_hold_up_the_end(
    tmp_path: Path, embedded: Endpoint, store: Store
) -> None:
    port = free_port()
    settings = {"SUPABASE_URL": f"http://127.0.0.1:{port}", "WORKER_BOOT_WAIT_S": "60"}
    async with running(tmp_path, embedded, store, OPENS, settings) as worker:
        await worker.until("it to say that it waits", lambda: "; waiting for it" in worker.log.read_text())
        assert (await worker.get("/healthz")).json() == {"ok": True}
        ready = await worker.get("/readyz")
        assert ready.status_code == 503
        assert "Supabase" in ready.json()["reasons"][0]
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(forward, port, int(embedded.url.rsplit(":", 1)[1]))
            await worker.state("connected")
            task_group.cancel_scope.cancel()
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends() == 0
        assert "it expires by itself" in worker.log.read_text(), "the lease"


async def forward(port: int, target: int) -> None:
    """A TCP relay: Supabase appears at `port`."""

    async def relay(client: anyio.abc.SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", target) as server:

            async def pump(a: anyio.abc.SocketStream, b: anyio.abc.SocketStream) -> None:
                try:
                    async for chunk in a:
                        await b.send(chunk)
                    await b.send_eof()
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                    pass

            async with anyio.create_task_group() as task_group:
                task_group.start_soon(pump, client, server)
                await pump(server, client)
                task_group.cancel_scope.cancel()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    async with listener:
        await listener.serve(relay)


async def test_the_embedded_supabase_leaves_with_a_killed_worker(tmp_path: Path) -> None:
    await seed(tmp_path / "data")
    port = free_port()
    settings = {
        "WORKER_HTTP_HOST": "127.0.0.1",
        "WORKER_HTTP_PORT": str(port),
        "WORKER_DATA_DIR": str(tmp_path / "data"),
    }
    with launched(tmp_path, OPENS, settings) as (process, log):
        endpoint = tmp_path / "data" / "embedded.endpoint.json"

        async def connected() -> bool:
            assert process.poll() is None, log.read_text()
            return "Connected." in log.read_text()

        await until("the worker to be connected", connected, seconds=BOUND, tell=log.read_text)
        pid = json.loads(endpoint.read_text())["pid"]
        process.kill()

        async def gone() -> bool:
            return not exists(pid)

        await until("the embedded Supabase to end", gone, seconds=BOUND)


async def test_a_stop_while_the_embedded_supabase_starts_is_a_clean_one(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "WORKER_HTTP_HOST": "127.0.0.1",
        "WORKER_HTTP_PORT": str(port),
        "WORKER_DATA_DIR": str(tmp_path / "data"),
    }
    with launched(tmp_path, OPENS, settings) as (process, log):

        async def prepared() -> bool:
            return (tmp_path / "data" / "embedded" / "supabase").exists()

        await until("the embedded Supabase to be prepared", prepared, seconds=BOUND, tell=log.read_text)
        process.send_signal(signal.SIGTERM)

        async def ended() -> bool:
            return process.poll() is not None

        await until("the end of the worker", ended, seconds=BOUND, tell=log.read_text)
        assert process.returncode == 0, log.read_text()


def refused(tmp_path: Path, settings: Mapping[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Exit code and output of a worker that cannot start."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **settings}
    done = subprocess.run(
        [*WORKER, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_a_wrong_setting_is_one_line_and_code_2(tmp_path: Path) -> None:
    code, lines = refused(tmp_path, {"WORKER_HTTP_PORT": "http"})
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("wa-worker: WORKER_HTTP_PORT: ")


def test_a_taken_port_is_one_line_and_code_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, lines = refused(tmp_path, {"WORKER_HTTP_HOST": "127.0.0.1", "WORKER_HTTP_PORT": port})
    assert code == 2
    assert lines == [f"wa-worker: WORKER_HTTP_PORT: port {port} is taken; stop what uses it, or set another one"]


def test_an_unknown_variable_that_looks_like_ours_is_mentioned(tmp_path: Path) -> None:
    code, lines = refused(tmp_path, {"WORKER_HTTP_PROT": "1", "WORKER_NODE": "/nonexistent"})
    assert code == 2
    assert "WORKER_HTTP_PROT is not a setting" in lines[0]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["version"]])
def test_help_and_version_need_no_settings(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setenv("WORKER_HTTP_PORT", "http")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout


def test_an_unknown_command_is_a_mistake_of_the_operator(tmp_path: Path) -> None:
    code, lines = refused(tmp_path, {}, "fly")
    assert code == 2
    assert not [line for line in lines if "Traceback" in line]


def test_ctrl_c_while_the_program_is_still_being_loaded_leaves_no_stack_trace(tmp_path: Path) -> None:
    slow = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # as from a terminal
    load = f"from worker.stdio import exit_on_ctrl_c\nwith exit_on_ctrl_c():\n    {slow}"
    done = subprocess.run(
        [sys.executable, "-c", f"{start}\n{load}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGINT, "which a shell reports as 130"
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_another_encoding_than_utf8_ends_no_program(encoding: str) -> None:
    draw = (
        "from worker.stdio import force_utf8; force_utf8()\n"
        "from rich.console import Console; from worker.session.report import View\n"
        "from worker.commands.terminal import Terminal\n"
        "Terminal(Console()).show(View(status='connecting', state='waiting_for_scan', say='Scan it 🍊', qr='2@abc'))\n"
        "print(chr(0xd83d))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", draw], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "█" in done.stdout.decode()
    assert "🍊" in done.stdout.decode()

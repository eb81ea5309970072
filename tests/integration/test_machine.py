"""Faults of the machine: full and read-only disks, a name that is not found, clocks that are set, sleep, no stdout.

What a mount is needed for runs as root, or with a sudo that asks no password, and is skipped elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testkit.blobs import MEDIA_KEY, Sealed, seal
from testkit.cdn import cdn_on_loopback, serving
from testkit.database import Database
from testkit.embedded import EmbeddedSupabase, seed
from testkit.inside import inside
from testkit.phone import Group, VirtualPhone
from testkit.processes import PYTHON, Child, descendants, free_port
from testkit.waiting import until
from testkit.worker import Worker, environment
from worker.commands.doctor import check_reachable
from worker.errors import MediaUnavailable, SettingsError, StoreUnavailable
from worker.media.decrypt import Claims
from worker.media.download import Limits, Source, open_downloader
from worker.media.keys import derive_keys
from worker.store import connect_store
from worker.store.embedded import Embedded, Endpoint, embedded_supabase, read_endpoint

pytestmark = pytest.mark.anyio

BOUND = 60.0
HOUR = 3600
FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
)
CLOCK_HOOK = Path(__file__).parent / "hooks" / "clock.mjs"


@contextmanager
def mounted(folder: Path, size: str, *more: str) -> Iterator[Path]:
    """A disk of `size` at `folder`, made for it; with `more` of tmpfs' options."""
    folder.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = ",".join((f"size={size}", f"uid={os.getuid()}", "mode=700", *more))
    made = subprocess.run(
        [*sudo, "mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*sudo, "umount", "-l", folder], check=True)


def resized(folder: Path, size: str) -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*sudo, "mount", "-o", f"remount,size={size}", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes what is left of this disk."""
    path = folder / "fill"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    return path


# stdout


@pytest.mark.parametrize("stdout", ["closed", "/dev/full", "a pipe that nobody reads"])
async def test_up_goes_on_without_a_stdout_and_says_so_once(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, stdout: str
) -> None:
    redirected = {"closed": ">&-", "/dev/full": "> /dev/full", "a pipe that nobody reads": "> >(true)"}[stdout]
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        settings = {
            **supabase.worker_env, **phone.worker_env, "WORKER_SESSION": session,
            "WORKER_HTTP_PORT": str(free_port()), "WORKER_POLL_MS": "250",
        }  # fmt: skip
        command = f"exec {shlex.quote(str(PYTHON))} -m worker up --no-console {redirected}"
        log = tmp_path / "up.log"
        child = Child.start("up", ["bash", "-c", command], log=log, cwd=tmp_path, env=environment(settings))
        try:
            await phone.scan(await database.wait_qr(tell=child.tail))
            await database.wait_status("connected", tell=child.tail)
            os.killpg(child.pid, signal.SIGTERM)
            assert await child.wait(BOUND) == 0
        finally:
            child.kill()
        text = log.read_text()
        assert "please report it" not in text
        assert "Traceback" not in text
        assert "Exception ignored" not in text
        assert text.count("stdout cannot be written") == (0 if stdout == "closed" else 1), text


@pytest.mark.parametrize("arguments", ["--version", "--help", "version", "doctor"])
def test_a_command_whose_output_fills_the_disk_says_so_in_one_line(tmp_path: Path, arguments: str) -> None:
    settings = {"WORKER_DATA_DIR": str(tmp_path), "WA_SOCKET_URL": "ws://127.0.0.1:9"}
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [PYTHON, "-m", "worker", arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            cwd=tmp_path, env=environment(settings),
        )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr == "wa-worker: the output cannot be written: no space is left on the disk\n"


# Disks


async def test_a_disk_too_small_for_the_embedded_database_is_named_and_a_larger_one_is_enough(
    tmp_path: Path, node: Path
) -> None:
    with mounted(tmp_path / "small", "1M") as disk:
        place = Embedded(data_dir=disk / "data", node=node)
        with pytest.raises(StoreUnavailable, match=r"the disk of .* has \d MB left"):
            async with embedded_supabase(place):
                pass
        resized(disk, "200M")
        async with embedded_supabase(place) as endpoint, connect_store(endpoint.url, endpoint.key) as store:
            await store.check()


async def test_a_read_only_disk_is_named(tmp_path: Path, node: Path) -> None:
    with (
        mounted(tmp_path / "disk", "1M", "ro") as disk,
        pytest.raises(SettingsError, match=r"WORKER_DATA_DIR .*Read-only file system"),
    ):
        async with embedded_supabase(Embedded(data_dir=disk / "data", node=node)):
            pass


async def test_a_database_whose_disk_is_full_is_an_outage_that_says_so_and_no_message_is_lost(
    tmp_path: Path, node: Path, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.session.discovery.SPACING_SECONDS", 0.05)
    with mounted(tmp_path / "disk", "400M") as disk:
        await seed(disk)
        place = Embedded(data_dir=disk, node=node)
        async with embedded_supabase(place) as endpoint, inside(tmp_path, endpoint, session) as it:
            await it.link()
            await it.stored(it.market, "while there is room")
            ballast = fill(disk)
            sent = [await it.phone.send("Ana", it.market.id, f"{n} " + "x" * 500_000) for n in range(8)]

            async def shown() -> bool:
                return any("its disk is full" in line for line in it.lines)

            await it.until("the cause in the log", shown, seconds=BOUND)
            receipted = {item["id"] for item in await it.phone.receipts()}
            ballast.unlink()
            for each in sent:
                row = await it.row(each)
                assert row["wa_msg_id"] == each.id
            await it.phone.wait_receipts(sent, seconds=BOUND)
            assert sent[-1].id not in receipted, "it did not fit"


async def test_a_database_that_dies_on_a_full_disk_comes_back_and_one_that_cannot_start_is_tried_again(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.store.embedded.RESTART_AFTER_FAILURE_SECONDS", 0.2)
    said: list[str] = []
    with mounted(tmp_path / "disk", "150M") as disk:
        await seed(disk)
        async with embedded_supabase(Embedded(data_dir=disk, node=node, report=said.append)) as endpoint:
            ballast = fill(disk)
            os.kill(endpoint.pid, signal.SIGKILL)
            await answers_again(endpoint, said)
            ballast.unlink()

            settings = disk / "embedded" / "supabase"
            settings.rename(disk / "elsewhere")
            settings.touch()  # what should be a folder
            last = read_endpoint(disk)
            assert last is not None
            os.kill(last.pid, signal.SIGKILL)

            async def cannot() -> bool:
                return any("cannot start again" in line for line in said)

            await until("it to say that it cannot", cannot, seconds=BOUND, tell=lambda: str(said))
            settings.unlink()
            await answers_again(endpoint, said)


async def answers_again(endpoint: Endpoint, said: list[str]) -> None:
    async with connect_store(endpoint.url, endpoint.key) as store:

        async def answers() -> bool:
            with contextlib.suppress(StoreUnavailable):
                await store.check()
                return True
            return False

        await until("it to answer again", answers, seconds=2 * BOUND, tell=lambda: str(said))


LARGE = seal(bytes(2_000_000))


async def fetch(origin: str, ca: Path, sealed: Sealed) -> bytes:
    keys, claims = derive_keys(MEDIA_KEY, "image"), Claims(enc_sha256=sealed.enc_sha256, length=len(sealed.plain))
    async with (
        open_downloader(Source(origin=origin, ca=ca), Limits(max_bytes=10_000_000)) as downloader,
        downloader.fetch("/file", None, keys, claims) as file,
    ):
        return file.content.read_bytes()


async def test_a_full_temporary_folder_is_an_outage_of_files_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cdn_on_loopback(tmp_path) as cdn:
        cdn.routes["/file"] = serving(LARGE.blob)
        with mounted(tmp_path / "disk", "1M") as disk:
            monkeypatch.setattr(tempfile, "tempdir", str(disk))
            monkeypatch.setenv("TMPDIR", str(disk))
            with pytest.raises(MediaUnavailable, match=rf"the temporary folder {disk}: no space is left"):
                await fetch(cdn.origin, cdn.ca, LARGE)
            resized(disk, "10M")
            assert await fetch(cdn.origin, cdn.ca, LARGE) == LARGE.plain


@pytest.mark.parametrize("trouble", ["no such folder", "a limit on files"])
async def test_a_temporary_file_that_cannot_be_written_is_an_outage_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    async with cdn_on_loopback(tmp_path) as cdn:
        cdn.routes["/file"] = serving(LARGE.blob)
        if trouble == "no such folder":
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
            with pytest.raises(MediaUnavailable, match="no such file or directory"):
                await fetch(cdn.origin, cdn.ca, LARGE)
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(MediaUnavailable, match="ulimit -f"):
                await fetch(cdn.origin, cdn.ca, LARGE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# The network


@pytest.mark.parametrize("what", ["DNS", "TLS", "refused"])
async def test_a_supabase_that_cannot_be_reached_is_told_with_the_cause(tmp_path: Path, what: str) -> None:
    async with cdn_on_loopback(tmp_path) as untrusted:
        url = {
            "DNS": "https://no-such-project.invalid",
            "TLS": untrusted.origin,
            "refused": f"https://127.0.0.1:{free_port()}",
        }[what]
        assert what in (await check_reachable(url)).text
        settings = {"SUPABASE_URL": url, "SUPABASE_SERVICE_KEY": "sb_secret_any", "WORKER_BOOT_WAIT_S": "1"}
        async with Worker.start(tmp_path, settings=settings) as worker:
            assert await worker.child.wait(BOUND) == 4, "a restart may help"
            last = worker.child.text().splitlines()[-1]
            assert what in last, last


@pytest.mark.parametrize("what", ["DNS", "TLS", "refused"])
async def test_a_whatsapp_that_cannot_be_reached_is_told_with_the_cause_and_tried_again(
    tmp_path: Path, embedded: Endpoint, session: str, what: str
) -> None:
    async with cdn_on_loopback(tmp_path) as untrusted:
        url = {
            "DNS": "wss://no-such-host.invalid/",
            "TLS": untrusted.origin.replace("https:", "wss:"),
            "refused": f"wss://127.0.0.1:{free_port()}/",
        }[what]
        async with inside(tmp_path, embedded, session, settings={"wa_socket_url": url}) as it:

            async def tried_twice() -> bool:
                return len(await it.payloads("disconnect")) >= 2

            await it.until("two attempts", tried_twice, seconds=BOUND)
            assert any("WhatsApp could not be reached: " in line and what in line for line in it.lines), it.tail()


# Clocks, sleep, processes that are stopped


async def link(phone: VirtualPhone, database: Database, group: Group, tell: Callable[[], str]) -> None:
    """The phone scans the code, and its group is switched on."""
    await phone.scan(await database.wait_qr(tell=tell))
    await database.wait_groups([group.id], tell=tell)
    await database.monitor([group.id])
    await database.fetch_groups(tell=tell)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_clock_that_is_set_by_an_hour_loses_no_message(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, step: int
) -> None:
    library = next((path for path in FAKETIME if path.exists()), None)
    if library is None:
        pytest.skip("Debian's libfaketime is not installed, and Python's clock cannot be set without it")
    python_clock, node_clock = tmp_path / "python", tmp_path / "node"
    python_clock.write_text("+0")
    node_clock.write_text("0")
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        await phone.person("Ana")
        market = await phone.group("Market", ["Ana"], "lid")
        settings = {
            **supabase.worker_env, "WORKER_SESSION": session, "WORKER_CATCH_UP_S": "0",
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(python_clock), "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NODE_OPTIONS": f"--import={CLOCK_HOOK.as_uri()}?file={node_clock}", "PYTHONPATH": str(CLOCK_HOOK.parent),
        }  # fmt: skip
        async with Worker.start(tmp_path, phone=phone, settings=settings) as worker:
            tell = worker.child.tail
            await link(phone, database, market, tell)
            before = await phone.send("Ana", market.id, "before the clock was set")
            await database.wait_message(before.id, seconds=BOUND, tell=tell)

            python_clock.write_text(f"{step:+d}")
            node_clock.write_text(str(step))
            sent = [await phone.send("Ana", market.id, f"after it, {n}") for n in range(3)]
            await phone.wait_receipts(sent, seconds=BOUND)
            await phone.fault("drop")
            await phone.wait_for("connected", seconds=BOUND)
            sent += [await phone.send("Ana", market.id, f"on a new connection, {n}") for n in range(3)]
            for each in sent:
                await database.wait_message(each.id, seconds=BOUND, tell=tell)
            assert await database.rows("wa_discards", session_id=session, reason="too_old") == []
            assert await database.rows("wa_discards", session_id=session, reason="waited_too_long") == []
            assert "please report it" not in worker.child.text()


async def test_a_machine_that_sleeps_for_hours_takes_what_waited(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    """All its processes stop; meanwhile the lease ends, WhatsApp hangs up, and messages wait for eight hours."""
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        await phone.person("Ana")
        market = await phone.group("Market", ["Ana"], "lid")
        settings = {
            **supabase.worker_env, "WORKER_SESSION": session, "WORKER_CATCH_UP_S": "86400", "WORKER_LEASE_S": "2",
        }  # fmt: skip
        async with Worker.start(tmp_path, phone=phone, settings=settings) as worker:
            tell = worker.child.tail
            await link(phone, database, market, tell)
            processes = [worker.child.pid, *descendants(worker.child.pid)]
            for pid in processes:
                os.kill(pid, signal.SIGSTOP)
            try:
                await phone.fault("drop")
                await phone.wait_for("disconnected", seconds=BOUND)
                now = (await phone.send("Ana", market.id, "just before it wakes")).t
                sent = [
                    await phone.send("Ana", market.id, f"{hours} hours ago", t=now - hours * HOUR) for hours in (8, 4)
                ]

                async def lease_has_ended() -> bool:
                    status = await connected_status(supabase, session)
                    return not status["lease_held"]

                await until("the lease to end", lease_has_ended, seconds=BOUND, tell=tell)
            finally:
                for pid in processes:
                    os.kill(pid, signal.SIGCONT)
            for each in sent:
                await database.wait_message(each.id, seconds=BOUND, tell=tell)
            await phone.wait_receipts(sent, seconds=BOUND)
            await database.wait_status("connected", seconds=BOUND, tell=tell)
            await database.wait_message(
                (await phone.send("Ana", market.id, "it is awake")).id, seconds=BOUND, tell=tell
            )
            texts = [row["text"] for row in await database.messages(chat_id=market.id)]
            assert sorted(texts) == sorted({*texts}), "each once"


async def connected_status(supabase: EmbeddedSupabase, session: str) -> dict[str, object]:
    async with connect_store(supabase.url, supabase.service_key) as store:
        found: dict[str, object] = (await store.status(session))["session"]
        return found


async def test_a_database_that_is_stopped_for_longer_than_our_patience_delays_messages_and_loses_none(
    tmp_path: Path, node: Path, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.session.discovery.SPACING_SECONDS", 0.05)
    await seed(tmp_path / "data")
    place, settings = Embedded(data_dir=tmp_path / "data", node=node), {"worker_lease_s": 6}
    async with embedded_supabase(place) as endpoint, inside(tmp_path, endpoint, session, settings=settings) as it:
        await it.link()
        os.kill(endpoint.pid, signal.SIGSTOP)
        try:
            sent = await it.phone.send("Ana", it.market.id, "to a database that does not move")

            async def left() -> bool:
                return not (await it.phone.state())["connected"]

            await it.until("the socket to be ended", left, seconds=BOUND)
            assert await it.phone.receipts() == [] or sent.id not in {item["id"] for item in await it.phone.receipts()}
        finally:
            os.kill(endpoint.pid, signal.SIGCONT)
        assert (await it.row(sent))["text"] == "to a database that does not move"
        await it.phone.wait_receipts([sent], seconds=BOUND)

"""What shows: the health pages, the terminal, discovery's manners, the housekeeping's accounts, exit codes."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.abc
import httpx
import pytest
from rich.console import Console

from tests.unit.doubles import BOUND, Database, Sidecar, make_flag, until
from worker.bridge.protocol import Commit, Group, GroupEvent, Me, Member
from worker.cli import app
from worker.commands.terminal import Terminal, draw_qr
from worker.errors import (
    CallFailed,
    CallTimeout,
    ExitCode,
    SettingsError,
    StateError,
    StoreRefused,
    StoreUnavailable,
    Stuck,
    TooSlow,
    WorkerError,
)
from worker.ingest.rules.batch import ingest
from worker.ingest.rules.normalise import Rules
from worker.session import discovery as discovery_module
from worker.session import members as members_module
from worker.session.discovery import Discovery, as_change
from worker.session.flags import Request, RequestKind
from worker.session.housekeeping import Housekeeping, Retention
from worker.session.members import MemberLists
from worker.session.report import Report, View
from worker.store import Batch, Committed, Flag
from worker.store import retry as retry_module
from worker.store.session import SessionStore
from worker.web.app import CONNECTIONS_MAX, bind, make_app, serve
from worker.web.health import Health

# ── web ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def get(health: Health, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(make_app(health))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as http:
        return await http.get(path)


async def test_alive_from_the_first_moment_and_ready_only_when_messages_are_stored() -> None:
    health = Health()
    assert (await get(health, "/healthz")).json() == {"ok": True}
    answer = await get(health, "/readyz")
    assert answer.status_code == 503
    assert [reason.split(":")[0] for reason in answer.json()["reasons"]][:2] == ["Supabase", "lease"]

    health.supabase_ok = health.session.lease_ok = True
    health.session.sidecar_pid = 1
    health.session.view = View(status="connecting", state="waiting_for_scan", say="Scan the QR code.", qr="2@secret")
    answer = await get(health, "/readyz")
    assert answer.json()["reasons"] == ["not connected: Scan the QR code."]
    assert "secret" not in answer.text, "the QR code links an account: it is not for whoever can reach the port"

    health.session.view = View(status="connected", state="connected", say="Connected.")
    answer = await get(health, "/readyz")
    assert (answer.status_code, answer.json()["ok"]) == (200, True)


async def test_readyz_shows_no_path_and_no_address() -> None:
    """Its port may be public (WORKER_HTTP_HOST is 0.0.0.0 by default)."""
    health = Health(supabase="embedded, in /srv/wa/data (http://127.0.0.1:27506)", supabase_ok=True)
    health.bucket_trouble = "does not answer (https://ref.supabase.co/storage/v1: 10.0.0.7:443 refused)"
    health.session.lease = "another worker (db-7.internal:2591) serves this session, and/or HTTP/1.1 at 12:30"
    say = "Files pass through the temporary folder /var/tmp: no space is left; see docs/operations.md."
    health.session.view = View(status="disconnected", state="failed", say=say)
    answer = await get(health, "/readyz")
    for planted in ("/srv", "/var", "://", "127.0.0.1", "10.0.0.7", "ref.supabase.co", "27506", "db-7"):
        assert planted not in answer.text
    document = answer.json()
    assert document["supabase"] == "embedded, in … (…)"
    assert document["reasons"] == [
        "bucket: does not answer (…: … refused)",
        "lease: another worker (…) serves this session, and/or HTTP/1.1 at 12:30",
        "not connected: Files pass through the temporary folder …: no space is left; see docs/operations.md.",
        "the sidecar is not running",
    ]
    assert document["session"]["say"].startswith("Files pass")


async def test_the_server_serves_and_leaves_its_port() -> None:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:
            await task_group.start(serve, Health(), listener)
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"http://127.0.0.1:{port}/healthz")).json() == {"ok": True}
            task_group.cancel_scope.cancel()
    bind("127.0.0.1", port).close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_strangers_who_connect_and_say_nothing_neither_take_all_descriptors_nor_keep_others_out() -> None:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    silent: list[anyio.abc.SocketStream] = []
    before = descriptors()
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:
            await task_group.start(serve, Health(), listener)
            for _ in range(3 * CONNECTIONS_MAX):
                silent.append(await anyio.connect_tcp("127.0.0.1", port))
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"http://127.0.0.1:{port}/healthz")).json() == {"ok": True}
            servers = descriptors() - before - len(silent)
            assert servers <= CONNECTIONS_MAX + 2
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await silent[0].receive()
            task_group.cancel_scope.cancel()
    for stream in silent:
        await anyio.aclose_forcefully(stream)


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"WORKER_HTTP_PORT: port {port} is taken"):
            bind("127.0.0.1", port)


async def test_a_port_that_another_worker_has_is_said_to_be_its() -> None:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:
            await task_group.start(serve, Health(), listener)
            with pytest.raises(SettingsError, match=f"port {port} is taken by another wa-worker; stop it, or set"):
                await anyio.to_thread.run_sync(bind, "127.0.0.1", port)
            task_group.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["203.0.113.7", "ü" * 70 + ".example"], ids=["of another machine", "no name at all"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(SettingsError, match="WORKER_HTTP_HOST"):
        bind(host, 3001)


# ── terminal ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_terminal_draws_each_code_once_and_greets() -> None:
    out = io.StringIO()
    terminal = Terminal(Console(file=out, width=100))
    waiting = View(status="connecting", state="waiting_for_scan", say="Scan it.", qr="2@abc")
    for view in (waiting, waiting, View(status="connected", state="connected", say="Connected.", wa_name="Ana")):
        terminal.show(view)
    text = out.getvalue()
    assert text.count("Scan it.") == 1
    assert "█" in text
    assert "Connected as Ana" in text


@pytest.mark.parametrize(
    ("columns", "lines", "terminal", "said"),
    [
        (100, 60, True, False),
        (15, 60, True, True),
        (100, 10, True, True),
        (15, 10, False, False),  # a file has no window
    ],
)
def test_a_code_that_does_not_fit_into_the_window_is_not_broken_up_and_the_remedy_is_said(
    columns: int, lines: int, terminal: bool, said: bool
) -> None:
    out = io.StringIO()
    console = Console(
        file=out, width=columns, height=lines, force_terminal=terminal, color_system=None, _environ={"TERM": "xterm"}
    )
    Terminal(console).show(View(status="connecting", state="waiting_for_scan", say="Scan it.", qr="2@abc"))
    assert draw_qr("2@abc").strip() in out.getvalue()
    before, after = (" ".join(part.split()) for part in out.getvalue().split(draw_qr("2@abc").strip()))
    assert ("window is too small" in before) is said
    assert ("window is too small" in after) is said, "the first has scrolled away"


def test_a_new_code_takes_the_place_of_the_old_one_on_a_terminal_and_follows_it_in_a_file() -> None:
    for terminal in (True, False):
        out = io.StringIO()
        shown = Terminal(Console(file=out, width=100, height=60, force_terminal=terminal, color_system=None))
        for code in ("2@first", "2@second"):
            shown.show(View(status="connecting", state="waiting_for_scan", say="Scan it.", qr=code))
        first, cleared, second = out.getvalue().partition("\x1b[2J")
        assert bool(cleared) is terminal
        assert draw_qr("2@first") in first
        assert draw_qr("2@second") in (second if terminal else first)


def test_the_terminal_shows_a_pairing_code() -> None:
    out = io.StringIO()
    view = View(status="connecting", state="waiting_for_scan", say="Enter it.", qr="2@abc", pairing_code="ABCD1234")
    Terminal(Console(file=out, width=100)).show(view)
    assert "ABCD1234" in out.getvalue()


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (View(status="connected", state="connected", say="", wa_name="Ana [/] Dev"), "Connected as Ana [/] Dev"),
        (View(status="connected", state="connected", say="", wa_name="[red]"), "Connected as [red]"),
        (View(status="connected", state="connected", say="", wa_name="A\x1b[2Jb"), "Connected as A[2Jb"),
        (View(status="disconnected", state="crashing", say="It ended ([/dev/x])."), "It ended ([/dev/x])."),
    ],
    ids=["a closing tag that closes nothing", "a tag", "an escape sequence", "a reason with brackets"],
)
def test_the_terminal_takes_no_name_and_no_reason_for_markup(view: View, shown: str) -> None:
    out = io.StringIO()
    Terminal(Console(file=out, width=100)).show(view)
    assert out.getvalue().startswith(shown)


# ── discovery ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Discovering:
    """A discovery at work on a sidecar that is told how to fail."""

    def __init__(self, *failures: Exception) -> None:
        self.database, self.sidecar, self.done = Database(), Sidecar(), list[Flag]()
        self.sidecar.failures["groups"] = list(failures)
        self.report = Report(self.database.store)
        self.discovery = Discovery(self.database.store, self.report, self.finish)

    def finish(self, request: Request, result: str = "") -> None:
        self.done.append(request.flag)

    async def until(self, probe: Any) -> None:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self.report.run)
            task_group.start_soon(self.discovery.run, self.sidecar.peer)
            await until(probe)
            task_group.cancel_scope.cancel()
        self.sidecar.hang_up()


RATE_LIMITED = CallFailed("rate-overlimit", -32000, {"status": 429})
REQUEST = Request(kind=RequestKind.GROUPS, flag=make_flag("fetch_groups_requested"))


async def test_a_rate_limit_is_waited_out_and_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "PAUSE_FIRST_SECONDS", 0.02)
    it = Discovering(RATE_LIMITED, RATE_LIMITED)
    await it.until(lambda: it.database.groups and len(it.database.audits) == 2)
    assert [entry["code"] for entry in it.database.events("error")] == ["GROUPS_RATE_LIMITED"] * 2


async def test_a_rate_limit_is_not_answered_with_another_query_at_once() -> None:
    it = Discovering(RATE_LIMITED)
    await it.until(lambda: len(it.database.audits) == 1)
    assert it.sidecar.calls.count("groups") == 1
    assert it.database.events("error")[0]["ctx"]["pause_s"] == discovery_module.PAUSE_FIRST_SECONDS


async def test_a_request_that_keeps_failing_is_turned_down_and_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery_module, "SPACING_SECONDS", 0.0)
    it = Discovering(*(CallTimeout("no answer") for _ in range(3)))
    it.discovery.ask(REQUEST)
    await it.until(lambda: it.done and len(it.database.audits) == 3)  # the audit is written behind the events
    assert it.done == [REQUEST.flag]
    assert [entry["code"] for entry in it.database.events("error")] == ["GROUPS_FAILED"] * 3


async def test_a_request_that_came_while_down_is_carried_out_at_the_next_connection() -> None:
    it = Discovering()
    it.discovery.ask(REQUEST)
    await it.until(lambda: it.done)
    assert it.sidecar.calls == ["groups"], "one query serves both"


async def test_a_revoke_that_waits_asks_for_the_admins_every_ten_minutes_at_most() -> None:
    now = 1000.0
    it = Discovering()
    it.discovery = Discovery(it.database.store, it.report, it.finish, clock=lambda: now)
    await it.until(lambda: it.database.groups)
    batch = Batch(fence=1, epoch=1, seq=1, changes=[{"kind": "revoke"}])
    other = Batch(fence=1, epoch=1, seq=1, changes=[{"kind": "edit"}])
    waits, done = Committed(seq=1, duplicate=False, held=1), Committed(seq=1, duplicate=False)
    commit = Commit(epoch=1, seq=1, stanzas=[], events=[])
    queries = []
    for passed, told, answer in ((0, other, waits), (0, batch, done), (10, batch, waits), (300, batch, waits)):
        now += passed
        it.discovery.committed(commit, told, answer, 0.1)
        queries.append(it.discovery.due)
    it.discovery.due = False
    now += 600
    it.discovery.committed(commit, batch, waits, 0.1)
    assert [*queries, it.discovery.due] == [False, False, True, True, True]


async def listing(it: Discovering, *, wanted: bool) -> None:
    members = MemberLists(it.database.store, it.report, lambda: ["1@g.us"]) if wanted else None
    if members:
        members.linked_as(Me(id="4915100000000:7@s.whatsapp.net", lid="2001:7@lid"))
    people = [Member(id=jid, also=None, role="member") for jid in ("1001@lid", "2001@lid")]
    first = Group(id="1@g.us", subject="", addressing_mode=None, size=2, admins=[], members=people)
    it.sidecar.groups_found = [first, first.model_copy(update={"id": "2@g.us", "members": None})]
    it.sidecar.asked_at_ms = 1_790_000_000_000.0
    it.discovery = Discovery(it.database.store, it.report, it.finish, members=members)
    await it.until(lambda: not it.discovery.due)


async def test_a_discovery_writes_the_members_of_the_groups_that_are_switched_on() -> None:
    it = Discovering()
    await listing(it, wanted=True)
    assert (it.sidecar.calls, it.sidecar.members_of) == (["groups"], ["1@g.us"])
    (entry,) = it.database.members
    assert (entry["wa_group_id"], entry["complete"]) == ("1@g.us", True)
    assert [member["member"] for member in entry["members"]] == ["1001@lid", "2001@lid"]


async def test_a_revoke_that_waits_brings_no_list_that_is_written_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "SPACING_SECONDS", 0.0)
    now, monitored, it = 1000.0, ["1@g.us", "2@g.us"], Discovering()
    members = MemberLists(it.database.store, it.report, lambda: monitored)
    one = Group(
        id="1@g.us",
        subject="",
        addressing_mode=None,
        size=1,
        admins=[],
        members=[Member(id="7@lid", also=None, role="member")],
    )
    it.sidecar.asked_at_ms = 1_790_000_000_000.0
    it.sidecar.groups_found = [one.model_copy(update={"id": group}) for group in monitored]
    it.discovery = Discovery(it.database.store, it.report, it.finish, clock=lambda: now, members=members)
    await it.until(lambda: not it.discovery.due)
    asked = [sorted(it.sidecar.members_of)]

    async def next_query(*, because: str) -> None:
        nonlocal now
        now += discovery_module.ADMINS_SPACING_SECONDS
        if because == "a revoke":
            batch = Batch(fence=1, epoch=1, seq=1, changes=[{"kind": "revoke"}])
            it.discovery.committed(
                Commit(epoch=1, seq=1, stanzas=[], events=[]), batch, Committed(seq=1, duplicate=False, held=1), 0.1
            )
        elif because == "a request":
            it.discovery.ask(REQUEST)
        else:
            it.discovery.again()
        it.sidecar.calls.clear()
        await it.until(lambda: it.sidecar.calls and not it.discovery.due and not it.discovery._wanted)
        asked.append(sorted(it.sidecar.members_of))

    await next_query(because="a revoke")
    monitored = ["2@g.us", "3@g.us"]  # the one is switched off, the other on
    it.sidecar.groups_found = [one.model_copy(update={"id": group}) for group in monitored]
    await next_query(because="a revoke")
    monitored = ["1@g.us", "2@g.us", "3@g.us"]
    await next_query(because="a revoke")
    await next_query(because="a request")
    await next_query(because="another account")
    everything = ["1@g.us", "2@g.us", "3@g.us"]
    assert asked == [["1@g.us", "2@g.us"], [], ["3@g.us"], ["1@g.us"], everything, everything]


async def test_without_the_setting_a_discovery_asks_for_no_members_and_writes_none() -> None:
    it = Discovering()
    await listing(it, wanted=False)
    assert (it.sidecar.members_of, it.database.members) == ([], [])


@pytest.mark.parametrize("error", [StoreRefused("22P02", "22P02"), TooSlow("no answer")])
async def test_a_list_that_cannot_be_written_is_reported_and_fails_no_discovery(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(members_module, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(retry_module, "PAUSE_FIRST_SECONDS", 0.001)
    it = Discovering()

    async def refuse(_: object) -> int:
        await anyio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(it.database, "write_members", refuse)
    await listing(it, wanted=True)
    noted = [*it.database.audits, *it.report._audits]  # written, or not yet
    assert {audit.payload["code"] for audit in noted} == {"MEMBERS_FAILED"}
    assert it.database.groups


@pytest.mark.parametrize(
    ("subject", "name", "because"),
    [
        ("Harbour", "Harbour", "as it is"),
        ("", None, "a group without a name keeps the one that it had"),
        ("a\0b", "ab", "Postgres takes no NUL"),
        ("Board\u202egpj.exe", "Boardgpj.exe", "an override would show it backwards"),
        ("Two\nlines", "Twolines", "a name is one line"),
        ("x" * 300, "x" * 256, "and has an end"),
    ],
)
def test_a_groups_name_is_the_same_whether_discovery_or_an_event_brings_it(
    subject: str, name: str | None, because: str
) -> None:
    group = Group(id="1@g.us", subject=subject, addressing_mode=None, size=None, admins=[])
    event = GroupEvent(type="group", id="1@g.us", subject=subject, left=False)
    told = ingest(Commit(epoch=1, seq=1, stanzas=[], events=[event]), Rules(monitored=()), 0.0)["groups"]
    assert [as_change(group).name, *(each.name for each in told)] == [name, name], because


# ── housekeeping ────────────────────────────────────────────────────────────────────────────────────────────────────


class Counting:
    """A store that only counts discards."""

    def __init__(self, *counts: dict[str, str]) -> None:
        self._counts = list(counts)

    async def status(self) -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        return {"discards": self._counts.pop(0)}


async def test_discards_are_summed_up_in_the_audit_log_by_reason_and_only_the_new_ones() -> None:
    database = Database()
    report = Report(database.store)
    store = Counting({"too_old": "5"}, {"too_old": "7", "unmonitored": "1"}, {"too_old": "7", "unmonitored": "1"})
    housekeeping = Housekeeping(cast(SessionStore, store), report, Retention(lost=60.0, changes=60.0))
    for _ in range(3):
        await housekeeping.account_for_discards()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(report.run)
        await until(lambda: database.audits)
        task_group.cancel_scope.cancel()
    assert database.events("ingest") == [{"discarded": {"too_old": 2, "unmonitored": 1}}]


# ── exit codes ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("x"), 2),
        (StateError("x"), 3),
        (StoreUnavailable("x"), 4),
        (Stuck("x"), 5),
        (WorkerError("x"), 1),
    ],
)
def test_each_kind_of_end_has_its_exit_code(error: WorkerError, code: int) -> None:
    assert error.exit_code == code


def test_the_help_names_every_exit_code_and_the_page_for_operators_too() -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8").partition("## Exit codes")[2]
    for code in ExitCode:
        assert f"{code.value} {code.meaning}" in str(app.info.epilog)
        assert f"\n| {code.value} |" in page.partition("\n## ")[0]

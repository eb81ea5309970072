"""`python -m acceptance`, the run for a real phone, with the virtual one instead and a script as the tester."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from rich.console import Console

from acceptance import linking
from acceptance.later import BACKLOG, Scale
from acceptance.program import AcceptanceRun
from acceptance.steps import STEPS
from acceptance.tester import Choice, Task
from acceptance.verdict import EXIT_FAILED, EXIT_INCOMPLETE, LINES, State, verdict
from demo.screen import Screen
from testkit.database import Database
from testkit.embedded import EmbeddedSupabase, seed
from testkit.phone import Media, PhoneError, VirtualPhone
from testkit.processes import PYTHON, ROOT, Child, alive, descendants
from testkit.waiting import until
from testkit.worker import POLL_MS, environment
from tests.e2e.town import photo

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

HAPPY_SECONDS = 60.0  # a bound, not a wait: each step ends when its outcome is known
SHORT_SECONDS = 8.0  # waited for what never comes
BRIEF = Scale(hold_seconds=3.0)  # an hour, with WhatsApp
MONITORED, OTHER = "Market", "Family"


class Script:
    """A tester whose phone is the virtual one. What is in `leaves_out` is not done, what is in `skips` is refused."""

    def __init__(
        self,
        phone: VirtualPhone,
        leaves_out: Collection[str] = (),
        skips: Collection[str] = (),
        unlinks: bool = False,
        goes_on: bool = False,
    ) -> None:
        self._phone = phone
        self._goes_on = goes_on
        self._unlinks = unlinks
        self._leaves_out = leaves_out
        self._skips = skips
        self._last_photo = ""
        self.scans = 0
        self.tasks: list[Task] = []

    async def scan(self, qr: str) -> None:
        self.scans += 1
        with contextlib.suppress(PhoneError):  # as on the phone: an error, and the tester scans the next code
            await self._phone.scan(qr)

    async def choose_group(self, question: str, groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
        wanted = OTHER if "NOT" in question else MONITORED
        return next(row for row in groups if row["name"] == wanted)

    async def agrees(self, question: str) -> bool:
        return (self._unlinks and "Unlink" in question) or (self._goes_on and "second part" in question)

    async def number(self, question: str) -> str | None:
        return (await self._phone.owner()).pn.partition("@")[0]

    async def type_code(self, code: str) -> None:
        await self._phone.pair_code(code)

    async def perform(self, task: Task) -> Choice | None:
        self.tasks.append(task)
        if task.name in self._skips:
            return Choice.SKIP
        if task.name not in self._leaves_out:
            await self._send(task)
        return Choice.DONE if task.name == "backlog" else None

    async def _send(self, task: Task) -> None:
        group, (first, second) = task.group.id, task.words
        match task.name:
            case "text" | "live" | "after":
                await self._phone.send("Ana", group, first.capitalize())  # as a phone's keyboard writes it
            case "text_photo":
                await self._phone.send("Ana", group, first)
                await self._phone.send("Ana", group, media=photo())
            case "photo":
                self._last_photo = (await self._phone.send("Ana", group, media=photo("oranges.jpg"))).id
            case "forward":
                await self._phone.send_raw({"from": "Ana", "to": group, "forward_of": self._last_photo})
            case "large":
                size = task.limit_mb * 1024 * 1024 + 1
                large = Media(kind="document", data=bytes(size), mime="application/zip", file_name="large.zip")
                await self._phone.send("Ana", group, media=large)
            case "unmonitored":
                await self._phone.send("Ana", task.other.id, first)
                await self._phone.send("Ana", group, second)
            case "backlog":
                await self._phone.burst(["Ana", "Ben"], [group], task.count)
            case "status":
                await self._phone.send("Ben", "status", first)
                await self._phone.send("Ana", group, second)


class Accept(Protocol):
    def __call__(
        self, phone: VirtualPhone, tester: Script, seconds: float = HAPPY_SECONDS, *, embedded: bool = False
    ) -> AcceptanceRun: ...


@pytest.fixture
def acceptance(tmp_path: Path, supabase: EmbeddedSupabase, session: str) -> Accept:
    """Makes runs, each on the folder and the session of the one before; `embedded`: on a Supabase of their own."""

    def run(
        phone: VirtualPhone, tester: Script, seconds: float = HAPPY_SECONDS, *, embedded: bool = False
    ) -> AcceptanceRun:
        settings = {**phone.worker_env, "WORKER_MAX_MEDIA_MB": "1", "WORKER_POLL_MS": str(POLL_MS)}
        if not embedded:
            settings |= {**supabase.worker_env, "WORKER_SESSION": session}
        screen = Screen(Console(file=sys.stdout, width=120))
        return AcceptanceRun(screen, tmp_path / "run", tester, settings, seconds, BRIEF)

    return run


def verdicts(run: AcceptanceRun) -> dict[int, State]:
    return {line: verdict(line, run.findings) for line in LINES}


async def two_groups(phone: VirtualPhone) -> None:
    await phone.group(MONITORED, ["Ana", "Ben"])
    await phone.group(OTHER, ["Ana"])


NOT_MET = dict.fromkeys((10, 11), State.NOT_MET)
LATER = (12, 13, 14, 15)


async def test_every_line_passes_with_a_tester_who_does_as_told_and_the_next_run_needs_no_qr(
    tmp_path: Path, acceptance: Accept
) -> None:
    await seed(tmp_path / "run" / "data")  # its own Supabase: what was not stored is looked for in the files
    async with await VirtualPhone.start(tmp_path) as phone:
        await two_groups(phone)
        tester = Script(phone, goes_on=True)
        run = acceptance(phone, tester, embedded=True)

        assert await run.run() == 0

        assert verdicts(run) == {**dict.fromkeys(LINES, State.PASSED), **NOT_MET}
        assert tester.scans == 1
        assert run.report is not None
        report = run.report.read_text()
        assert f"- pass: {BACKLOG} messages that waited are rows\n" in report
        assert "- pass: 1 statuses came and were answered\n" in report
        assert "- of these without an answer when their connection ended: none\n" in report
        assert "- WhatsApp Web, as served now: not asked for: a local server\n" in report
        assert not [word for task in tester.tasks for word in task.words if word in report]
        assert (await phone.owner()).pn.partition("@")[0] not in report

        later = Script(phone, skips=("large", "unmonitored"))
        again = acceptance(phone, later, embedded=True)

        assert await again.run() == EXIT_INCOMPLETE

        assert later.scans == 0
        assert verdicts(again) == {
            **dict.fromkeys(LINES, State.PASSED),
            **dict.fromkeys((1, 2, 4, 8, 10, 11, *LATER), State.SKIPPED),
        }


async def test_an_account_behind_the_passkey_gate_is_a_verdict_of_its_own(tmp_path: Path, acceptance: Accept) -> None:
    async with await VirtualPhone.start(tmp_path) as phone:
        await phone.realism(passkey=True)
        tester = Script(phone)
        run = acceptance(phone, tester)

        assert await run.run() == EXIT_FAILED

        assert tester.scans == 1
        assert (verdicts(run)[1], verdicts(run)[11]) == (State.FAILED, State.FAILED)
        assert run.report is not None
        assert "the phone was not linked: WhatsApp asks for this account's passkey" in run.report.read_text()


class Owner(Script):
    """Answers for the passkey as well, as in another terminal."""

    def __init__(self, phone: VirtualPhone, database: Database) -> None:
        super().__init__(phone, skips=[step.name for step in STEPS])
        self._database = database

    async def scan(self, qr: str) -> None:
        await super().scan(qr)
        await self._database.until("the request", lambda: self._passkey("options"))
        await self._database.raise_flag("wa_passkey_answered", assertion=await self._phone.passkey_assert())
        code = await self._database.until("the code", lambda: self._passkey("code"))
        await self._phone.passkey_confirm()
        await self._database.raise_flag("wa_passkey_compared", code=code, same=True)

    async def _passkey(self, field: str) -> Any:
        return (await self._database.detail()).get("passkey", {}).get(field)


async def test_with_the_passkey_switched_on_the_run_waits_for_its_owner(
    tmp_path: Path, acceptance: Accept, supabase: EmbeddedSupabase, session: str
) -> None:
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        await two_groups(phone)
        await phone.realism(passkey=True)
        run = acceptance(phone, Owner(phone, database))
        run.settings["WORKER_PASSKEY"] = "true"

        assert await run.run() == EXIT_INCOMPLETE

    assert [verdicts(run)[line] for line in (1, 10, 11)] == [State.PASSED, State.NOT_MET, State.PASSED]


async def test_a_linked_account_can_be_unlinked_and_scanned_once_more(tmp_path: Path, acceptance: Accept) -> None:
    everything = [step.name for step in STEPS]
    async with await VirtualPhone.start(tmp_path) as phone:
        await two_groups(phone)
        first = acceptance(phone, Script(phone, skips=everything))
        assert await first.run() == EXIT_INCOMPLETE

        tester = Script(phone, skips=everything, unlinks=True)
        again = acceptance(phone, tester)
        assert await again.run() == EXIT_INCOMPLETE

    assert tester.scans == 1
    assert [line for line, state in verdicts(again).items() if state is State.PASSED] == [1, 2, 3, 9]
    assert verdicts(again)[10] is State.NOT_MET


VERSION = "2.3000.1040000000"
# Baileys answers no such query.
QUESTION = {"tag": "iq", "attrs": {"id": "q1", "from": "s.whatsapp.net", "type": "get", "xmlns": "nobody:knows"}}


class Asking(Script):
    """Meanwhile the server asks something that gets no answer."""

    async def choose_group(self, question: str, groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if "NOT" in question:
            await self._phone.post("/stanza", {"node": QUESTION})
        return await super().choose_group(question, groups)


async def test_a_code_that_whatsapp_retires_is_scanned_anew_and_the_report_counts_what_was_seen(
    tmp_path: Path, acceptance: Accept
) -> None:
    async with await VirtualPhone.start(tmp_path) as phone:
        await two_groups(phone)
        await phone.fault("refresh_at_scan")
        await phone.realism(web_version=VERSION)
        tester = Asking(phone, skips=[step.name for step in STEPS])
        run = acceptance(phone, tester)
        run.settings["WA_VERSION_URL"] = f"{phone.control_url}/sw.js"

        assert await run.run() == EXIT_INCOMPLETE

    assert tester.scans == 2
    assert run.report is not None
    report = run.report.read_text()
    assert verdicts(run)[10] is State.PASSED
    assert f"- WhatsApp Web, as served now: {VERSION}\n- WhatsApp Web, as claimed: {VERSION} (fetched)\n" in report
    assert "- of these without an answer when their connection ended: iq 1\n" in report
    assert "515: 1" in report, "the restart that WhatsApp asks for after a scan"
    assert "notification companion_reg_refresh 1" in report


class LateTypist(Script):
    """WhatsApp retires the first pairing code before it is typed."""

    def __init__(self, phone: VirtualPhone) -> None:
        everything = [step.name for step in STEPS]
        super().__init__(phone, skips=[*everything, "backlog", "status", "hold"], goes_on=True)
        self.codes: list[str] = []

    async def type_code(self, code: str) -> None:
        self.codes.append(code)
        if len(self.codes) == 1:
            await self._phone.post("/pair_code/refresh", {})
        else:
            await super().type_code(code)


async def test_a_pairing_code_that_whatsapp_retires_is_followed_by_one_that_links(
    tmp_path: Path, acceptance: Accept, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "LINK_SECONDS", HAPPY_SECONDS)
    async with await VirtualPhone.start(tmp_path) as phone:
        await two_groups(phone)
        tester = LateTypist(phone)
        run = acceptance(phone, tester)

        assert await run.run() == EXIT_INCOMPLETE

    assert len(set(tester.codes)) == 2
    assert verdicts(run)[12] is State.PASSED
    assert "retired the previous pairing code" in " ".join(capsys.readouterr().out.split())


async def test_a_photo_that_never_comes_fails_its_line_and_the_run(
    tmp_path: Path, acceptance: Accept, capsys: pytest.CaptureFixture[str]
) -> None:
    async with await VirtualPhone.start(tmp_path) as phone:
        await two_groups(phone)
        run = acceptance(phone, Script(phone, leaves_out=("photo",)), SHORT_SECONDS)

        assert await run.run() == EXIT_FAILED

    assert verdicts(run) == {
        **dict.fromkeys(LINES, State.PASSED),
        **NOT_MET,
        **dict.fromkeys(LATER, State.SKIPPED),
        5: State.FAILED,
        6: State.SKIPPED,  # there is nothing to forward
    }
    assert f"FAIL     an image in messages: not within {SHORT_SECONDS:.0f} s" in capsys.readouterr().out


async def test_ctrl_c_at_the_qr_ends_the_run_and_leaves_a_report_and_no_process(tmp_path: Path) -> None:
    await seed(tmp_path / "run" / "data")  # a Supabase of its own, as for somebody who sets nothing
    async with await VirtualPhone.start(tmp_path) as phone:
        terminal, inner = pty.openpty()
        command: list[str | Path] = [PYTHON, "-m", "acceptance", "--folder", tmp_path / "run"]
        settings = {**phone.worker_env, "PYTHONPATH": str(ROOT)}
        running = Child.start(
            "acceptance", command, log=tmp_path / "screen.log", cwd=tmp_path, env=environment(settings), stdin=inner
        )
        os.close(inner)
        try:

            async def asked_to_scan() -> bool:
                return "Linked devices" in running.text()

            await until("the QR on the screen", asked_to_scan, seconds=90, tell=running.tail)
            below = descendants(running.pid)
            assert len(below) >= 3, "worker, sidecar, Supabase"

            running.interrupt()

            assert await running.wait(40) == 130, running.tail()
            assert [pid for pid in below if alive(pid)] == []
        finally:
            running.kill()
            os.close(terminal)
    [report] = (tmp_path / "run").glob("report-*.md")
    assert "interrupted" in report.read_text()

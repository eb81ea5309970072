"""One acceptance run: the ordinary worker, a tester with a phone, the contract's list, a report.

Acts as operator and web app at once, and asks the tester for the rest. Whether WhatsApp or the virtual phone is at the
other end, the settings say; the run does not know.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import httpx
from rich.markup import escape
from rich.table import Table

from acceptance.record import claimed, closes, stanzas
from acceptance.steps import STEPS, Scene, Since, Step
from acceptance.tester import Choice, Place, Task, Tester
from acceptance.verdict import (
    EXIT_FAILED,
    LINES,
    Finding,
    State,
    awaited,
    exit_code,
    failed,
    make_report,
    passed_if,
    settled,
    skipped,
    time_is_up,
    verdict,
)
from demo.screen import Screen, alone
from testkit.database import DEFAULT_SESSION, Database, Row, parse_time
from testkit.embedded import endpoint
from testkit.worker import Worker

STEP_SECONDS = 180.0  # to find a photo and send it, without hurry
READY_SECONDS = 120.0  # a first start makes a database
LINK_SECONDS = 300.0  # several rounds of codes; also a lease of 30 s that a killed run left behind
CALL_SECONDS = 60.0  # what needs nobody but WhatsApp
LOOK_SECONDS = 0.5
CONNECTED = "wa_connected 1.0"  # the line of /metrics
QR_LIFETIME = timedelta(seconds=61)  # the first code lives 60 s (docs/whatsapp.md, "Closes")
EARLY = timedelta(seconds=5)  # a code that is replaced so long before its end was retired by WhatsApp
RETIRED = "WhatsApp has retired the code before its end. An error on the phone is expected: scan the new code."
GROUPS_NEEDED = 2
FIRST_STEP = 4  # after the start, the phone, the groups
COLOURS = {State.PASSED: "green", State.FAILED: "bold red", State.SKIPPED: "yellow"}

# A session of its own, so that a run over somebody's Supabase does not take the lease of the account that works there.
DEFAULTS: Mapping[str, str] = {
    "WORKER_SESSION": "acceptance",
    "WORKER_MAX_MEDIA_MB": "5",  # a file above it is quickly found; photos are far below
    "WORKER_QR_AGAIN_S": "2",
    "WORKER_POLL_MS": "500",
    "LOG_LEVEL": "debug",  # the counts of stanzas are debugging to an operator
}


class AcceptanceRun:
    """One run in one folder, which holds the log, the reports, and the embedded Supabase if that is used."""

    def __init__(
        self,
        screen: Screen,
        folder: Path,
        tester: Tester,
        settings: Mapping[str, str],
        seconds: float = STEP_SECONDS,
    ) -> None:
        self.screen = screen
        self.folder = folder
        self.tester = tester
        self.settings = {**DEFAULTS, **settings}
        self.seconds = seconds
        self.findings: list[Finding] = []
        self.report: Path | None = None
        self._began = datetime.now(UTC)
        self._seen: dict[str, str] = {}
        self._log: Path | None = None
        self._broken: str | None = "interrupted"

    async def run(self) -> int:
        """Everything; the exit code. A report is written however it ends."""
        try:
            async with AsyncExitStack() as running:
                worker, database, before = await self._start(running)
                try:
                    await self._with(worker, database, before)
                finally:
                    await self._record(database, before)
                self.screen.faint("stopping the worker")
            self._broken = None
        except AssertionError as missed:  # a wait ran out, or the tester left
            self._broken = str(missed).partition("\n")[0]
            self.screen.wrong(str(missed))
        finally:
            self.report = self._write_report()
        self._conclude()
        return EXIT_FAILED if self._broken else exit_code(self.findings)

    async def _with(self, worker: Worker, database: Database, before: int) -> None:
        await self._link(worker, database)
        scene = await self._choose(worker, database)
        for number, step in enumerate(STEPS, start=FIRST_STEP):
            self.screen.title(f"{number}  {step.title}")
            await self._play(step, scene, worker)
        await self._audit(database, before)

    async def _record(self, database: Database, before: int) -> None:
        """For the report; it must not hide how the run ended."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(CALL_SECONDS):
            try:
                row, events = await database.session_row(), await database.events("disconnect")
            except (httpx.HTTPError, OSError):
                return
            self._seen["WhatsApp Web, as claimed"] = claimed(row)
            self._seen["ends of connections, by code"] = closes(event for event in events if event["id"] > before)

    # Before the first message

    async def _start(self, running: AsyncExitStack) -> tuple[Worker, Database, int]:
        """The worker, its database, and the last entry of the audit log that is not this worker's."""
        self.screen.title("1  Start: the worker")
        url, key = self.settings.get("SUPABASE_URL"), self.settings.get("SUPABASE_SERVICE_KEY")
        start = partial(Worker.start, self.folder, settings=self.settings)
        if url and key:  # a linked worker may be connected before anybody looks
            database, before = await self._look(running, url, key)
            worker = await running.enter_async_context(start())
        else:
            worker = await running.enter_async_context(start())
            async with self.screen.waiting("the worker starts, with its Supabase"):
                supabase = await endpoint(worker.data_dir, READY_SECONDS, tell=worker.child.tail)
            url = supabase.url
            database, before = await self._look(running, url, supabase.key)
        self._log = worker.child.log
        async with self.screen.waiting("the worker starts"):
            await worker.ready(READY_SECONDS)
        self._note([passed_if(await worker.healthz() == {"ok": True}, 9, "/healthz answers {ok: true}")])
        self.screen.faint(f"Supabase: {url}; the worker's log: {worker.child.log}")
        return worker, database, before

    async def _look(self, running: AsyncExitStack, url: str, key: str) -> tuple[Database, int]:
        session = self.settings.get("WORKER_SESSION") or DEFAULT_SESSION
        database = await running.enter_async_context(await Database.connect(url, key, session))
        return database, await database.last_event()

    async def _link(self, worker: Worker, database: Database) -> None:
        self.screen.title("2  Link the phone")
        shown = await self._connected(worker, database)
        if shown is None and await self.tester.agrees(
            "This account is linked since an earlier run. Unlink it and scan a QR code again (lines 1 and 2)?"
        ):
            await database.raise_flag("wa_disconnect_requested")
            await database.wait_status("disconnected", CALL_SECONDS, tell=worker.child.tail)
            await database.wait_flag_handled("wa_disconnect_requested", CALL_SECONDS, tell=worker.child.tail)
            await database.raise_flag("wa_refresh_qr_requested")
            shown = await self._connected(worker, database)
        if shown is None:
            self._note(skipped((1, 2), "linked since an earlier run: no QR code was needed"))
            return
        row, seen_at = shown
        after = await database.session_row() or {}
        lives = parse_time(row["detail"]["expiresAt"]) - seen_at
        self._note(
            [
                passed_if(row["status"] == "connecting", 1, "status is connecting while the QR waits"),
                passed_if(after.get("status") == "connected", 1, "status is connected after the scan"),
                passed_if("qr" not in after.get("detail", {}), 1, "the QR is gone once it is used"),
                passed_if(after.get("wa_number"), 1, "wa_number is known"),
                passed_if(row["detail"]["qr"], 2, "the QR is in wa_sessions.detail"),
                passed_if(timedelta(0) < lives <= QR_LIFETIME, 2, f"expiresAt is {lives.total_seconds():.0f} s ahead"),
            ]
        )

    async def _connected(self, worker: Worker, database: Database) -> tuple[Row, datetime] | None:
        """Wait until the account is linked, handing each new QR to the tester.

        The session's row as it was when the last QR waited, and when that was; None if none was needed.
        """
        last: tuple[str, Row, datetime] | None = None
        retired = 0

        async def probe() -> bool:
            nonlocal last, retired
            _still_running(worker)
            row = await database.session_row() or {}
            if row.get("status") == "connected":  # a row that a killed worker left says so too
                metrics = await worker.get("/metrics")
                return metrics is not None and CONNECTED in metrics.text.splitlines()
            await self._stop_if_refused(worker)
            detail = row.get("detail") or {}
            if detail.get("qr") and detail.get("expiresAt") and (last is None or last[0] != detail["qr"]):
                if last and datetime.now(UTC) < parse_time(last[1]["detail"]["expiresAt"]) - EARLY:
                    retired += 1
                    self.screen.say(RETIRED)
                last = detail["qr"], row, datetime.now(UTC)
                await self.tester.scan(detail["qr"])
            return False

        await database.until("a linked phone", probe, LINK_SECONDS, worker.child.tail, every=LOOK_SECONDS)
        if retired:
            self._seen["codes that WhatsApp retired, each followed by a second scan"] = str(retired)
        row = await database.session_row() or {}
        self.screen.say(f"WhatsApp Web {claimed(row)} is claimed.")
        self.screen.say(f"Connected as {row.get('wa_name') or 'this account'}.")
        return last[1:] if last else None

    async def _stop_if_refused(self, worker: Worker) -> None:
        """When the worker waits for a person, as at the passkey gate, no code comes; its own words are the verdict.

        Raises:
            AssertionError: it does.
        """
        answer = await worker.get("/readyz")  # the session's row may be one that an earlier worker left
        session = (answer.json()["session"] if answer is not None else None) or {}
        if session.get("state") == "needs_you":
            self._note([passed_if(False, 1, f"the phone was not linked: {session['say']}")])
            raise AssertionError(f"the phone was not linked: {session['say']}")

    async def _choose(self, worker: Worker, database: Database) -> Scene:
        self.screen.title("3  The groups")
        rows = await self._groups(worker, database)
        while len(rows) < GROUPS_NEEDED:
            if not await self.tester.agrees(
                f"{GROUPS_NEEDED} groups are needed, {len(rows)} found. Make more on the phone. Look again?"
            ):
                raise AssertionError(f"{GROUPS_NEEDED} groups are needed")
            rows = await self._groups(worker, database)
        group = _place(await self.tester.choose_group("Which group shall be monitored?", rows))
        others = [row for row in rows if row["wa_group_id"] != group.id]
        other = _place(await self.tester.choose_group("And which one shall NOT be monitored?", others))
        await database.monitor([group.id])
        await database.monitor([other.id], on=False)
        before = await _switches(database)
        last = await database.last_event()
        await self._groups(worker, database)
        after = await _switches(database)
        found = next(row for row in await database.events("discovery") if row["id"] > last)
        present = [row for row in await database.groups() if row["left_at"] is None]
        self._note(
            [
                passed_if(all(row["name"] for row in present), 3, f"{len(present)} groups have a row and a name"),
                passed_if(found["payload"]["count"] == len(present), 3, "the discovery in audit_log counts as many"),
                passed_if(after[group.id] and not after[other.id], 3, "the choice is in groups.monitor"),
                passed_if({**after, **before} == after, 3, "monitor flags are as they were before the discovery"),
            ]
        )
        ours = () if self.settings.get("SUPABASE_URL") else (worker.data_dir, worker.child.log)
        return Scene(
            database=database,
            group=group,
            other=other,
            limit_mb=int(self.settings["WORKER_MAX_MEDIA_MB"]),
            seconds=self.seconds,
            places=ours,
        )

    async def _groups(self, worker: Worker, database: Database) -> list[Row]:
        async with self.screen.waiting("the list of groups"):
            await database.fetch_groups(CALL_SECONDS, tell=worker.child.tail)
        return [row for row in await database.groups() if row["left_at"] is None]

    # The steps

    async def _play(self, step: Step, scene: Scene, worker: Worker) -> None:
        """One step, as often as the tester wants; the last attempt counts."""
        if step.needs_photo and scene.photo is None:
            self._note(skipped(step.lines, "needs the photo of the step before"))
            return
        while True:
            task, since = step.task(scene), await scene.now()
            findings, choice = await self._watch(step, task, scene, since, worker)
            if choice is Choice.SKIP:
                findings = skipped(step.lines, f"skipped by the tester: {step.title.lower()}")
            elif choice is Choice.REPEAT:
                continue
            elif failed(findings):
                self._tell(findings)
                if await self.tester.agrees("Repeat this step?"):
                    continue
                self.findings += findings
                return
            self._note(findings)
            return

    async def _watch(
        self, step: Step, task: Task, scene: Scene, since: Since, worker: Worker
    ) -> tuple[list[Finding], Choice | None]:
        """Have the task done and look until the outcome is known, the tester chooses otherwise, or time is up."""
        findings = [awaited(line, step.title.lower()) for line in step.lines]
        choice: Choice | None = None

        async def act() -> None:
            nonlocal choice
            choice = await self.tester.perform(task)

        async with alone(), anyio.create_task_group() as tasks:
            tasks.start_soon(act)
            with anyio.move_on_after(task.seconds):
                while choice is None:
                    _still_running(worker)
                    try:
                        findings = await step.look(scene, task, since)
                    except httpx.TransportError:
                        continue  # the way to a Supabase elsewhere may fail; the time is bounded
                    if settled(findings):
                        break
                    await anyio.sleep(LOOK_SECONDS)
            tasks.cancel_scope.cancel()
        return time_is_up(findings, task.seconds), choice

    async def _audit(self, database: Database, before: int) -> None:
        """Line 8 but for the forced failure, which was a step."""
        self.screen.title(f"{FIRST_STEP + len(STEPS)}  The audit log")
        events = await database.events()
        fresh = {row["event"] for row in events if row["id"] > before}
        self._note(
            [
                passed_if("connect" in fresh, 8, "audit_log has connect"),
                passed_if("discovery" in fresh, 8, "audit_log has discovery"),
                passed_if("qr_generated" in {row["event"] for row in events}, 8, "audit_log has qr_generated"),
            ]
        )

    # What is said

    def _note(self, findings: Sequence[Finding]) -> None:
        self.findings += findings
        self._tell(findings)

    def _tell(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            say = self.screen.wrong if finding.state is State.FAILED else self.screen.say
            say(f"{finding.state:<8} {finding.what}")

    def _conclude(self) -> None:
        table = Table("", "line of the contract's list (§13)", "verdict", title="Acceptance", title_justify="left")
        for line, text in LINES.items():
            state = verdict(line, self.findings)
            table.add_row(str(line), escape(text), f"[{COLOURS[state]}]{state}[/]")
        self.screen.console.print()
        self.screen.console.print(table)
        self.screen.faint(f"report: {self.report}")

    def _write_report(self) -> Path:
        path = self.folder / f"report-{self._began:%Y%m%dT%H%M%SZ}.md"
        about = {
            "began": f"{self._began:%Y-%m-%d %H:%M:%S} UTC",
            "worker": importlib.metadata.version("wa-worker"),
            "server": "a local one (WA_SOCKET_URL)" if self.settings.get("WA_SOCKET_URL") else "WhatsApp",
            "Supabase": "configured" if self.settings.get("SUPABASE_URL") else "embedded",
            **self._seen,
        }
        if self._log and self._log.exists():
            seen = stanzas(self._log.read_text(errors="replace"))
            about["stanzas by kind"] = ", ".join(f"{kind} {count}" for kind, count in sorted(seen.items())) or "unknown"
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(make_report(about, self.findings, self._broken))
        return path


def _still_running(worker: Worker) -> None:
    if not worker.child.running:
        raise AssertionError(f"the worker ended with code {worker.child.process.returncode}\n{worker.child.tail()}")


def _place(row: Row) -> Place:
    return Place(id=row["wa_group_id"], name=row["name"] or row["wa_group_id"])


async def _switches(database: Database) -> dict[str, bool]:
    return {row["wa_group_id"]: row["monitor"] for row in await database.groups()}

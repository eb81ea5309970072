"""One acceptance run: the ordinary worker, a tester with a phone, the contract's list, a report.

Acts as operator and web app at once, and asks the tester for the rest. Whether WhatsApp or the virtual phone is at the
other end, the settings say; the run does not know.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import anyio
import httpx
from rich.markup import escape
from rich.table import Table

from acceptance.later import Scale, SecondPart
from acceptance.linking import CALL_SECONDS, LOOK_SECONDS, Linking
from acceptance.record import claimed, closes, listed, stanzas
from acceptance.running import Running
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
from demo.screen import Screen, unwrap_single_error
from testkit.database import Database, Row
from worker.session.version import SOURCE, fetch_version

STEP_SECONDS = 180.0  # to find a photo and send it, without hurry
FULL = Scale()
GROUPS_NEEDED = 2
FIRST_STEP = 4  # after the start, the phone, the groups
COLOURS = {State.PASSED: "green", State.FAILED: "bold red", State.SKIPPED: "yellow", State.NOT_MET: "dim"}

# A session of its own, so that a run over somebody's Supabase does not take the lease of the account that works there.
DEFAULTS: Mapping[str, str] = {
    "WORKER_SESSION": "acceptance",
    "WORKER_MAX_MEDIA_MB": "5",  # a file above it is quickly found; photos are far below
    "WORKER_CATCH_UP_S": "86400",  # what waits while the worker is stopped is to be stored
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
        scale: Scale = FULL,
    ) -> None:
        self.screen = screen
        self.folder = folder
        self.tester = tester
        self.settings = {**DEFAULTS, **settings}
        self.seconds = seconds
        self.scale = scale
        self.findings: list[Finding] = []
        self.report: Path | None = None
        self._began = datetime.now(UTC)
        self._seen: dict[str, str] = {}
        self._log: Path | None = None
        self._log_began = 0
        self._broken: str | None = "interrupted"

    async def run(self) -> int:
        """Everything; the exit code. A report is written however it ends."""
        try:
            self.screen.title("1  Start: the worker")
            log = self.folder / "worker.log"
            self._log_began = log.stat().st_size if log.exists() else 0
            async with Running(self.folder, self.settings, self.screen) as running:
                self._log = log
                try:
                    await self._with(running)
                finally:
                    await self._record(running)
                self.screen.faint("stopping the worker")
            self._broken = None
        except AssertionError as missed:  # a wait ran out, or the tester left
            self._broken = str(missed).partition("\n")[0]
            self.screen.wrong(str(missed))
        finally:
            self._count_stanzas()
            self.report = self._write_report()
        self._conclude()
        return EXIT_FAILED if self._broken else exit_code(self.findings)

    async def _with(self, running: Running) -> None:
        self._note([passed_if(await running.worker.healthz() == {"ok": True}, 9, "/healthz answers {ok: true}")])
        self.screen.faint(f"Supabase: {running.url}; the worker's log: {running.worker.child.log}")
        self.screen.title("2  Link the phone")
        linking = Linking(running, self.tester, self.screen, self._note)
        await self._versions(running, linking)
        scene = await self._choose(running)
        for number, step in enumerate(STEPS, start=FIRST_STEP):
            self.screen.title(f"{number}  {step.title}")
            await self._play(step, scene, running)
        scene.mark = await scene.database.last_message()

        async def play(step: Step) -> None:
            await self._play(step, scene, running)

        later = SecondPart(running, self.tester, self.screen, self.scale, play, self._note)
        self.screen.title(f"{FIRST_STEP + len(STEPS)}  The second part")
        await later.run(scene, linking)
        await self._audit(running)

    async def _versions(self, running: Running, linking: Linking) -> None:
        """Link the phone; the version that is claimed beside the one that WhatsApp serves now."""
        url = self.settings.get("WA_VERSION_URL") or (None if self.settings.get("WA_SOCKET_URL") else SOURCE)
        now = await fetch_version(url) if url else None
        served = ".".join(map(str, now)) if now else "could not be fetched" if url else "not asked for: a local server"
        self._seen["WhatsApp Web, as served now"] = served
        try:
            await linking.scan()
        finally:
            if linking.claimed:
                self.screen.say(f"WhatsApp Web: {linking.claimed} is claimed; served now: {served}.")

    async def _record(self, running: Running) -> None:
        """For the report; it must not hide how the run ended."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(CALL_SECONDS):
            try:
                row, events = await running.database.session_row(), await running.database.events("disconnect")
            except (httpx.HTTPError, OSError, RuntimeError):  # RuntimeError: the client is closed, the worker stopped
                return
            self._seen["WhatsApp Web, as claimed"] = claimed(row)
            self._seen["ends of connections, by code"] = closes(e for e in events if e["id"] > running.before)

    async def _choose(self, running: Running) -> Scene:
        self.screen.title("3  The groups")
        worker, database = running.worker, running.database
        rows = await self._groups(running)
        while len(rows) < GROUPS_NEEDED:
            if not await self.tester.agrees(
                f"{GROUPS_NEEDED} groups are needed, {len(rows)} found. Make more on the phone. Look again?"
            ):
                raise AssertionError(f"{GROUPS_NEEDED} groups are needed")
            rows = await self._groups(running)
        group = _place(await self.tester.choose_group("Which group shall be monitored?", rows))
        others = [row for row in rows if row["wa_group_id"] != group.id]
        other = _place(await self.tester.choose_group("And which one shall NOT be monitored?", others))
        await database.monitor([group.id])
        await database.monitor([other.id], on=False)
        before = await _switches(database)
        last = await database.last_event()
        await self._groups(running)
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

    async def _groups(self, running: Running) -> list[Row]:
        async with self.screen.waiting("the list of groups"):
            await running.database.fetch_groups(CALL_SECONDS, tell=running.worker.child.tail)
        return [row for row in await running.database.groups() if row["left_at"] is None]

    # The steps

    async def _play(self, step: Step, scene: Scene, running: Running) -> None:
        """One step, as often as the tester wants; the last attempt counts."""
        if step.needs_photo and scene.photo is None:
            self._note(skipped(step.lines, "needs the photo of the step before"))
            return
        while True:
            task, since = step.task(scene), await scene.now()
            findings, choice = await self._watch(step, task, scene, since, running)
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
        self, step: Step, task: Task, scene: Scene, since: Since, running: Running
    ) -> tuple[list[Finding], Choice | None]:
        """Have the task done and look until the outcome is known, the tester chooses otherwise, or time is up."""
        findings = [awaited(line, step.title.lower()) for line in step.lines]
        choice: Choice | None = None

        async def act() -> None:
            nonlocal choice
            choice = await self.tester.perform(task)

        async with unwrap_single_error(), anyio.create_task_group() as tasks:
            tasks.start_soon(act)
            with anyio.move_on_after(task.seconds):
                while choice in (None, Choice.DONE):
                    running.check()
                    try:
                        findings = await step.look(scene, task, since)
                    except httpx.TransportError:
                        continue  # the way to a Supabase elsewhere may fail; the time is bounded
                    if settled(findings):
                        break
                    await anyio.sleep(LOOK_SECONDS)
            tasks.cancel_scope.cancel()
        return time_is_up(findings, task.seconds), choice

    async def _audit(self, running: Running) -> None:
        """Line 8 but for the forced failure, which was a step."""
        self.screen.title(f"{FIRST_STEP + len(STEPS) + 1}  The audit log")
        events = await running.database.events()
        fresh = {row["event"] for row in events if row["id"] > running.before}
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

    def _count_stanzas(self) -> None:
        """From the log, after the worker has ended: a connection says it at its end."""
        if self._log is None:
            return
        seen, unanswered = stanzas(self._log.read_bytes()[self._log_began :].decode(errors="replace"))
        self._seen["stanzas by kind"] = listed(seen) or "unknown"
        self._seen["of these without an answer when their connection ended"] = listed(unanswered) or "none"
        if State.PASSED in {finding.state for finding in self.findings if finding.line == 14}:
            came = seen["status"]
            what = "statuses came and were answered" if came else "no status came: has each the other's number saved?"
            self._note([passed_if(not unanswered["status"], 14, f"{came} {what}")] if came else skipped((14,), what))

    def _conclude(self) -> None:
        table = Table("", "line (1 to 9: contract §13)", "verdict", title="Acceptance", title_justify="left")
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
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(make_report(about, self.findings, self._broken))
        return path


def _place(row: Row) -> Place:
    return Place(id=row["wa_group_id"], name=row["name"] or row["wa_group_id"])


async def _switches(database: Database) -> dict[str, bool]:
    return {row["wa_group_id"]: row["monitor"] for row in await database.groups()}

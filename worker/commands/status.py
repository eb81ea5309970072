"""`wa-worker status`: shows session, worker, groups and files on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from worker.commands.coverage import name_of, sentence
from worker.commands.groups import as_json as groups_as_json
from worker.commands.groups_table import GroupsTable
from worker.commands.runtime import perform
from worker.commands.show import ago, number_of, out, plain, print_json, span
from worker.errors import ExitCode
from worker.settings import Settings
from worker.store import Store
from worker.store.console import Figures, ListedGroup

COVERAGE_LINES = 10
FAULTS = "yellow"
GOOD = "green"
# Descriptions of the counts of `wa_discards`, after the number.
LEFT_OUT = {
    "unmonitored": "from groups that are not switched on",
    "not_a_group": "from direct messages, statuses and channels",
    "too_old": "that were delivered too late",
    "key_share": "with keys only",
    "history": "with history",
    "protocol": "between the account's own devices",
    "malformed": "that made no sense",
}


@dataclass(frozen=True, kw_only=True)
class SessionOverview:
    """The database's view of one session."""

    session: str
    row: Mapping[str, Any]  # the answer of wa_status
    figures: Figures
    groups: list[ListedGroup]
    coverage: list[dict[str, Any]] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        return self.figures.now

    @property
    def account(self) -> Mapping[str, Any]:
        return self.row.get("session") or {}

    @property
    def storing(self) -> bool:
        """Whether messages are being received and stored, as far as the database knows."""
        return bool(self.account.get("status") == "connected" and self.account.get("lease_held"))


def status(
    json_: Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless a worker is connected and storing messages.")
    ] = False,
) -> None:
    """Show the session, its worker, groups with their last message, and files that wait.

    Read from the database, so it works from any machine. Exit codes: 0 shown · 1 with --check: not storing ·
    2 a setting is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> int:
        overview = await read_overview(settings.worker_session, store)
        if json_:
            print_json(document(overview))
        else:
            out().print(render(overview))
        return ExitCode.FAULT if check and not overview.storing else 0

    perform(work)


async def read_overview(session: str, store: Store) -> SessionOverview:
    """Read everything from the database."""
    return SessionOverview(
        session=session,
        row=await store.status(session),
        figures=await store.console.figures(session),
        groups=await store.console.groups(session),
        coverage=await store.console.all_coverage(session),
    )


def document(overview: SessionOverview) -> dict[str, Any]:
    """The output of `--json`."""
    figures = overview.figures
    return {
        **overview.row,
        "storing": overview.storing,
        "jobs": {
            "running": figures.running,
            "due": figures.due,
            "waiting": figures.waiting,
            "oldest_s": figures.oldest_seconds,
            "abandoned": dict(figures.abandoned),
        },
        "group_list": groups_as_json(overview.groups),
        "coverage": overview.coverage,
    }


def render(overview: SessionOverview) -> Group:
    """The two tables."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for label, text in describe(overview):
        facts.add_row(label, text)
    if not overview.groups:
        return Group(facts, Text("\nNo groups yet: they appear when a phone is linked."))
    return Group(facts, Text(""), GroupsTable(overview.groups, overview.now))


def describe(overview: SessionOverview) -> list[tuple[str, Text]]:
    """The rows of the first table: label and text."""
    row, now = overview.row, overview.now
    lines = [("Session", _session(overview)), ("Worker", _worker(overview))]
    if row.get("last_message_at") or row["messages"]:
        last = ago(row["last_message_at"], now)
        about = "" if row.get("messages_exact", True) else "about "
        lines.append(("Messages", Text(f"{about}{number_of(row['messages'], 'message')} stored, the last {last}")))
    if heard := (overview.account.get("detail") or {}).get("heard"):
        lines.append(("Heard", Text(heard_from(heard, now))))
    if claims := (overview.account.get("detail") or {}).get("claims"):
        lines.append(("Client", Text(f"WhatsApp Web {claimed(claims, now)}")))
    if any(row["monitor"] for row in overview.coverage):
        lines.append(("Archive", _archive(overview.coverage)))
    lines += [("Files", _files(overview.figures, row)), *_troubles(overview)]
    return lines


def heard_from(heard: Mapping[str, Any], now: datetime) -> str:
    """When something last arrived from WhatsApp, and from a group, to the minute."""
    anything, group = (ago(heard.get(name), now) for name in ("any", "group"))
    return plain(f"from WhatsApp {anything}, from a group {group}")


def claimed(claims: Mapping[str, Any], now: datetime) -> str:
    """The claimed version, its source and age."""
    source, at = str(claims.get("source")), claims.get("at")
    words = {
        "WA_VERSION": "set by WA_VERSION",
        "fetched": "fetched",
        "kept": "worked before, fetched",
        "bundled": "bundled with Baileys, of unknown age",
    }
    since = f" {ago(at, now)}" if at else ""
    return plain(f"{claims.get('version') or 'unknown'}, {words.get(source, source)}{since}")


def _session(overview: SessionOverview) -> Text:
    account = overview.account
    if not account:
        return Text(f"{overview.session}: no worker has served it yet; start one with `wa-worker up`", FAULTS)
    detail = account.get("detail") or {}
    who = f" as {plain(account['wa_name'] or account['wa_number'])}" if _is_named(account) else ""
    number = f" ({account['wa_number']})" if account.get("wa_name") and account.get("wa_number") else ""
    good = account["status"] == "connected"
    text = Text(f"{overview.session}: ")
    text.append(f"{account['status']}{who}{number}", GOOD if good else FAULTS)
    if detail.get("say"):
        text.append(f"\n{plain(detail['say'])}")
    if account.get("has_qr"):
        text.append("\n`wa-worker link` draws the code")
    return text


def _is_named(account: Mapping[str, Any]) -> bool:
    return account["status"] == "connected" and bool(account.get("wa_name") or account.get("wa_number"))


def _worker(overview: SessionOverview) -> Text:
    account = overview.account
    if not account.get("lease_owner"):
        return Text("none is running", FAULTS)
    holder = plain(str(account["lease_owner"]).rpartition(":")[0] or account["lease_owner"])
    if not account.get("lease_held"):
        return Text(f"none: {holder} (host:process) ended without releasing its lease {_when(overview)}", FAULTS)
    return Text(f"{holder} (host:process), its lease ends {_when(overview)} unless renewed")


def _when(overview: SessionOverview) -> str:
    return ago(overview.account.get("lease_expires_at"), overview.now)


def _archive(coverage: list[dict[str, Any]]) -> Text:
    """A line per group that is switched on, incomplete ones first."""
    rows = sorted((row for row in coverage if row["monitor"]), key=lambda row: row["since"] is not None)
    text = Text("\n").join(Text(f"{name_of(row)}: {sentence(row)}") for row in rows[:COVERAGE_LINES])
    if len(rows) > COVERAGE_LINES:
        text.append(f"\n… and {number_of(len(rows) - COVERAGE_LINES, 'group')} more: `wa-worker coverage`")
    return text


def _files(figures: Figures, row: Mapping[str, Any]) -> Text:
    text = Text(f"{number_of(row['media'], 'file')} stored")
    open_ = figures.running + figures.due + figures.waiting
    if open_:
        age = span(figures.oldest_seconds or 0)
        text.append(
            f", {open_} to come ({figures.running} running, {figures.due} due, {figures.waiting} waiting; oldest {age})"
        )
    abandoned = ", ".join(f"{count} {status}" for status, count in sorted(figures.abandoned.items()))
    if abandoned:
        text.append(f"\nabandoned: {abandoned}; `wa-worker media retry` tries again", FAULTS)
    return text


def left_out(discards: Mapping[str, Any]) -> list[tuple[str, Text]]:
    """What was not stored, on purpose or because of a setting."""
    lines = []
    if waited := int(discards.get("waited_too_long", 0)):
        what = f"{number_of(waited, 'message')} so far, which had waited longer than WORKER_CATCH_UP_S"
        lines.append(("Dropped", Text(f"{what}; 86400 keeps those of a day", FAULTS)))
    why = [
        f"{int(count):,} {LEFT_OUT.get(reason, plain(reason))}"
        for reason, count in sorted(discards.items())
        if reason != "waited_too_long"
    ]
    return [*lines, ("Left out", Text(", ".join(why)))] if why else lines


def _refused(figures: Figures) -> str:
    waiting = f", {figures.refused_waiting} of them tried again" if figures.refused_waiting else ""
    unread = f", {figures.undecrypted} of them never decrypted" if figures.undecrypted else ""
    count = number_of(figures.refused, "item")
    return f"{count} could not be stored{waiting}{unread}; `wa-worker refused list` names them"


def _troubles(overview: SessionOverview) -> list[tuple[str, Text]]:
    row, figures = overview.row, overview.figures
    lines: list[tuple[str, Text]] = []
    if figures.pending_stubs:
        lines.append(("Unreadable", Text(f"{number_of(figures.pending_stubs, 'message')} asked for again", FAULTS)))
    if figures.refused:
        lines.append(("Refused", Text(_refused(figures), FAULTS)))
    lines += left_out(row.get("discards") or {})
    if error := row.get("last_error"):
        payload = error.get("payload") or {}
        what = plain(f"{payload.get('code', 'error')}: {payload.get('msg', '')}", 160)
        lines.append(("Last error", Text(f"{ago(error['at'], overview.now)}, {what}")))
    return lines

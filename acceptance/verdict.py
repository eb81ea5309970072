"""What was found, what that means for each line of the acceptance list, and the report. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

# The contract's list, in its order (docs/contract.md §13); from 10 on, what only the real server can show.
LINES: Mapping[int, str] = {
    1: "On start, wa_sessions shows connecting, then connected after the QR scan",
    2: "The QR is written to wa_sessions.detail with a future expiresAt",
    3: "fetch_groups_requested: groups are upserted, monitor flags are preserved",
    4: "Messages of a monitored group become rows, those of another do not",
    5: "Media becomes an object at its sha256, a media row, and a link",
    6: "The same file in several messages is one media row",
    7: "A text, then an image of the same sender within 90 s, are linked by parent_id",
    8: "audit_log has connect, qr_generated, discovery, and error on a forced failure",
    9: "/healthz answers {ok: true}",
    10: "A code that WhatsApp retires at the scan is followed by one that links",
    11: "An account that WhatsApp gates behind its passkey is linked with it",
    12: "The phone is linked by a code that is typed on it",
    13: "What waits while the worker is stopped is stored, and a text after its start within 60 s",
    14: "A contact's status comes, and nothing of it is stored",
    15: "Groups still arrive after an hour, and no unanswered stanza ends the connection",
}
OF_THE_CONTRACT = 9
EXIT_FAILED = 1
EXIT_INCOMPLETE = 3  # nothing failed, and not everything was tried; 2 is a wrong option


class State(StrEnum):
    PASSED = "pass"
    AWAITED = "awaited"  # may still come
    FAILED = "FAIL"
    SKIPPED = "skipped"
    NOT_MET = "not met"  # WhatsApp did not do what the line is about: nothing to judge


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at, for one line of the list. `what` names no person, group or text."""

    line: int
    what: str
    state: State


def passed_if(truth: object, line: int, what: str) -> Finding:
    """A final finding: passed or failed."""
    return Finding(line=line, what=what, state=State.PASSED if truth else State.FAILED)


def awaited(line: int, what: str) -> Finding:
    return Finding(line=line, what=what, state=State.AWAITED)


def skipped(lines: Iterable[int], why: str) -> list[Finding]:
    return [Finding(line=line, what=why, state=State.SKIPPED) for line in lines]


def not_met(line: int, what: str) -> Finding:
    return Finding(line=line, what=what, state=State.NOT_MET)


def settled(findings: Sequence[Finding]) -> bool:
    """Whether the verdict is final: something failed, or nothing is awaited."""
    states = {finding.state for finding in findings}
    return State.FAILED in states or State.AWAITED not in states


def time_is_up(findings: Iterable[Finding], seconds: float) -> list[Finding]:
    """Turn findings that are still awaited into failures."""
    return [
        replace(finding, what=f"{finding.what}: not within {seconds:.0f} s", state=State.FAILED)
        if finding.state is State.AWAITED
        else finding
        for finding in findings
    ]


def failed(findings: Iterable[Finding]) -> bool:
    return any(finding.state is State.FAILED for finding in findings)


def verdict(line: int, findings: Iterable[Finding]) -> State:
    """One failure fails a line. It stays open if something was not tried, or nothing is known."""
    states = {finding.state for finding in findings if finding.line == line}
    if State.FAILED in states or State.AWAITED in states:
        return State.FAILED
    return states.pop() if states in ({State.PASSED}, {State.NOT_MET}) else State.SKIPPED


def exit_code(findings: Sequence[Finding]) -> int:
    states = {verdict(line, findings) for line in LINES}
    if State.FAILED in states:
        return EXIT_FAILED
    return EXIT_INCOMPLETE if State.SKIPPED in states else 0


def make_report(about: Mapping[str, str], findings: Sequence[Finding], broken: str | None = None) -> str:
    """The run as a Markdown page: the environment, each line's verdict, and the findings behind it."""
    parts = ["# Acceptance run", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    if broken:
        parts += [f"**The run ended early:** {broken}", ""]
    parts += [f"| | line (1 to {OF_THE_CONTRACT}: contract §13) | verdict |", "|---|---|---|"]
    parts += [f"| {line} | {text} | {verdict(line, findings)} |" for line, text in LINES.items()]
    for line in LINES:
        mine = [finding for finding in findings if finding.line == line]
        parts += ["", f"## {line}. {LINES[line]}", "", *(f"- {each.state}: {each.what}" for each in mine)]
        parts += [] if mine else ["- not reached"]
    return "\n".join(parts) + "\n"

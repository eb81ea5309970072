"""The table at the end of a run. Prints; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

from tests.chaos.checks import MB, POINTS, SHOWN, Violation, grouped
from tests.chaos.deck import Tally

SENTENCES = {
    0: "the run settled, every kind of fault was injected and seen, no process is left",
    1: "receipted = in the table, exactly once, text intact (on defaults: or counted as discarded); the rest is a gap",
    2: "no receipt before the answer to its commit",
    3: "nothing in good form acked instead of receipted, or left undecryptable",
    4: "every stored file has its object, named by its hash; no content twice",
    5: "one lease holder; nothing unmonitored; memory bounded",
}


@dataclass(kw_only=True)
class Result:
    """What a run found."""

    seed: int
    seconds: float = 0.0
    sent: int = 0
    monitored: int = 0
    receipted: int = 0
    rows: int = 0
    files: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    starts: Mapping[str, int] = field(default_factory=dict)
    logins: int = 0
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    supabase_calls: int = 0
    cold_reads: int = 0
    discarded: int = 0
    odd_answers: int = 0
    control_ms: list[float] = field(default_factory=list)
    attacked_ms: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    @property
    def failed(self) -> set[str]:
        return {check for check, _ in self.violations}


def _times(sorted_ms: list[float]) -> str:
    """Median and longest of some times in milliseconds, shortest first."""
    if not sorted_ms:
        return "not measured"
    median, longest = sorted_ms[len(sorted_ms) // 2], sorted_ms[-1]
    return f"{median / 1000:.2f} s (median), {longest / 1000:.2f} s (longest), of {len(sorted_ms)}"


def show(result: Result, console: Console) -> None:
    """The run in figures, and its verdict."""
    facts = Table(box=box.SIMPLE, show_header=False)
    facts.add_row("seed", str(result.seed))
    facts.add_row("time", f"{result.seconds:.0f} s")
    facts.add_row(
        "messages", f"{result.sent} sent, {result.monitored} of them in monitored groups, {result.receipted} receipted"
    )
    facts.add_row(
        "stored", f"{result.rows} rows, {result.files} objects; {result.discarded} discarded as too old, and counted"
    )
    facts.add_row("restarts", ", ".join(f"{name} {count - 1}" for name, count in sorted(result.starts.items())))
    facts.add_row("logins", str(result.logins))
    facts.add_row(
        "calls to Supabase", f"{result.supabase_calls}, {result.cold_reads} of them for keys that no cache had"
    )
    facts.add_row("odd answers of a gateway", f"{result.odd_answers} of 732 (statuses 301 to 544), besides the bursts")
    facts.add_row("a member's message, receipted after", _times(result.control_ms))
    facts.add_row("… while attackers attack", _times(result.attacked_ms))
    facts.add_row(
        "memory, at most", ", ".join(f"{name} {peak // MB} MB" for name, peak in sorted(result.peak_bytes.items()))
    )
    facts.add_row("traffic", ", ".join(f"{kind} {count}" for kind, count in sorted(result.kinds.items())))
    console.print(facts)
    faults = Table(box=box.SIMPLE)
    for column in ("fault", "injected", "seen") * 2:
        faults.add_column(column, justify="left" if column == "fault" else "right")
    kinds = sorted(result.tally.injected)
    half = (len(kinds) + 1) // 2
    for n in range(half):
        cells: list[str] = []
        for kind in (kinds[n], kinds[n + half] if n + half < len(kinds) else ""):
            cells += [kind, str(result.tally.injected[kind]), str(result.tally.seen[kind])] if kind else ["", "", ""]
        faults.add_row(*cells)
    console.print(faults)
    for line in result.tally.unseen:
        console.print(f"  not seen at first: {line}", markup=False, highlight=False)
    found = grouped(result.violations)
    for point, sentence in SENTENCES.items():
        broken = [check for check in found if POINTS.get(check, 0) == point]
        console.print(
            f"  {point}. {sentence}: {'NO, ' + ', '.join(broken) if broken else 'yes'}", markup=False, highlight=False
        )
    for check, texts in found.items():
        console.print(f"\n{check}: {len(texts)} violation{'s' if len(texts) > 1 else ''}", markup=False)
        for text in texts[:SHOWN]:
            console.print(f"    {text}", markup=False, highlight=False, soft_wrap=True)

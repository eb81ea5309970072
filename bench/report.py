"""Results of a run as tables, as JSON and as two plots; and which goals the run met."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

Result = dict[str, Any]
BAR_WIDTH, BAR_HEIGHT, LABEL_WIDTH = 420, 22, 250
STOCK, NATIVE = "stock Baileys, in memory", "native signatures, in memory"
EMBEDDED, POSTGRES = "wa-worker, embedded", "wa-worker, PostgreSQL"
GROWTH_FLAT = 1.5  # times the first size's commit: within this it is the machine


def write(folder: Path, about: Result, results: list[Result], skipped: list[str]) -> None:
    """Prints the table; leaves it as table.md, everything as results.json, and the plots beside it."""
    folder.mkdir(exist_ok=True)
    good = [result for result in results if "failed" not in result]
    lines = [*_queues(good), *_live(good), *_kills(good), *_restarts(good), *_media(good), *_growth(good)]
    lines += _goals(Figures(good))
    lines += [f"failed: {one['what']}, {one['side']}: {one['failed']}" for one in results if "failed" in one]
    lines += [f"no time for: {what}" for what in skipped]
    lines += ["", ", ".join(f"{name} {value}" for name, value in about.items())]
    text = "\n".join(lines) + "\n"
    print(f"\n{text}")
    (folder / "table.md").write_text(text)
    (folder / "results.json").write_text(json.dumps({"about": about, "results": results, "skipped": skipped}, indent=1))
    (folder / "throughput.svg").write_text(_bars("messages a second from a queue", _rates(good, "queue")))
    p50 = {f"{one['side']}, {one['away_ms']} ms away": one["p50"] for one in good if one["what"] == "live"}
    (folder / "latency.svg").write_text(_bars("ms from the server's socket to the receipt, p50", p50))


def _rates(results: list[Result], what: str) -> dict[str, float]:
    sides = list(dict.fromkeys(one["side"] for one in results if one["what"] == what))
    return {side: _median(results, what, side, "per_second") for side in sides}


def _median(results: list[Result], what: str, side: str, name: str) -> float:
    return statistics.median(float(one[name]) for one in results if one["what"] == what and one["side"] == side)


def _roles(results: list[Result], what: str, side: str, name: str) -> str:
    """`worker 1.2 + sidecar 0.4`: the program's own processes."""
    found = [one[name] for one in results if one["what"] == what and one["side"] == side]
    roles = [role for role in found[0] if role != "phone" and (role != "database" or found[0][role])]
    return " + ".join(f"{role} {statistics.median(one[role] for one in found):.3g}" for role in roles)


def _queues(results: list[Result]) -> list[str]:
    lines: list[str] = []
    for what in dict.fromkeys(one["what"] for one in results if one["what"].startswith("queue")):
        rates = _rates(results, what)
        stock = next((rate for side, rate in rates.items() if side.startswith("stock")), 0.0)
        lines += [
            "",
            f"| {what} | messages | messages/s | x stock | CPU s per 1,000 | PSS MB at rest | at load "
            "| round trips | bytes |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for side, rate in rates.items():
            one = next(each for each in results if each["what"] == what and each["side"] == side)
            trips, size = one.get("round_trips_per_message"), one.get("bytes_per_message")
            lines.append(
                f"| {side} | {one['messages']:,} | {rate:.0f} | {f'{rate / stock:.1f}' if stock else '-'} "
                f"| {_roles(results, what, side, 'cpu_s_per_1000')} | {_roles(results, what, side, 'mb_at_rest')} "
                f"| {_roles(results, what, side, 'mb_at_load')} | {'-' if trips is None else f'{trips:.3f}'} "
                f"| {'-' if size is None else f'{size:,.0f}'} |"
            )
    return lines


def _live(results: list[Result]) -> list[str]:
    found = [one for one in results if one["what"] == "live"]
    if not found:
        return []
    lines = ["", "| live, 10/s | away ms | p50 ms | p95 | p99 | max |", "|---|---|---|---|---|---|"]
    return lines + [
        f"| {one['side']} | {one['away_ms']} | "
        + " | ".join(f"{one[name]:.0f}" for name in ("p50", "p95", "p99", "max"))
        + " |"
        for one in found
    ]


def _kills(results: list[Result]) -> list[str]:
    found = [one for one in results if one["what"] == "kill"]
    if not found:
        return []
    lines = ["", "| killed | acknowledged | of them lost | killed → receiving s |", "|---|---|---|---|"]
    for one in found:
        again = "-" if one["killed_to_receiving_s"] is None else f"{one['killed_to_receiving_s']:.1f}"
        lines.append(f"| {one['side']} | {one['acknowledged']:,} | {one['lost']:,} | {again} |")
    return lines


def _media(results: list[Result]) -> list[str]:
    found = [one for one in results if one["what"] == "media"]
    if not found:
        return []
    lines = ["", "| media | bytes | files | MB/s | files/s | worker MB |", "|---|---|---|---|---|---|"]
    return lines + [
        f"| {one['side']} | {one['bytes']:,} | {one['files']} | {one['mb_per_s']:.1f} | {one['files_per_s']:.1f} "
        f"| {one['worker_mb']:.0f} |"
        for one in found
    ]


def _restarts(results: list[Result]) -> list[str]:
    found = [one for one in results if one["what"] == "restart"]
    if not found:
        return []
    lines = ["", "| until a message is receipted, s | started | sidecar killed | worker killed |", "|---|---|---|---|"]
    return lines + [
        f"| {one['side']} | {one['start_s']:.1f} | {one['sidecar_killed_s']:.1f} | {one['worker_killed_s']:.1f} |"
        for one in found
    ]


def _growth(results: list[Result]) -> list[str]:
    found = [one for one in results if one["what"] == "growth"]
    if not found:
        return []
    lines = ["", "| rows | keys | groups | a commit of 20, ms |", "|---|---|---|---|"]
    return lines + [
        f"| {one['rows']:,} | {one['keys']:,} | {one['groups']:,} | {one['commit_ms']:.1f} |" for one in found
    ]


class Figures:
    """Figures of a run by name. A figure that the run does not have raises KeyError."""

    def __init__(self, results: list[Result]) -> None:
        self._results = results

    def all(self, what: str, side: str | None = None, **like: Any) -> list[Result]:
        found = [
            one
            for one in self._results
            if one["what"] == what and side in (None, one["side"]) and like.items() <= one.items()
        ]
        if not found:
            raise KeyError(what)
        return found

    def median(self, name: str, what: str, side: str, **like: Any) -> float:
        return statistics.median(float(one[name]) for one in self.all(what, side, **like))

    def memory(self, name: str) -> float:
        """Megabytes of worker and sidecar, the larger of the two databases' sides."""
        sides = [self.all("queue", side) for side in (EMBEDDED, POSTGRES)]
        both = [[float(one[name]["worker"] + one[name]["sidecar"]) for one in side] for side in sides]
        return max(statistics.median(side) for side in both)


def _rate(figures: Figures, side: str) -> float:
    return figures.median("per_second", "queue", side)


def _seconds_for_all(figures: Figures) -> float:
    return 10_000 / figures.median("per_second", "queue", EMBEDDED, messages=10_000)


def _round_trips(figures: Figures) -> float:
    """Those to the database in the time to a receipt, with the database 150 ms away; the slower side."""
    return max(figures.median("p50", "live", side, away_ms=150) for side in (EMBEDDED, POSTGRES)) / 150


def _trips(figures: Figures) -> float:
    return max(figures.median("round_trips_per_message", "queue", side) for side in (EMBEDDED, POSTGRES))


def _killed(figures: Figures, name: str) -> float:
    return max(figures.median(name, "restart", side) for side in (EMBEDDED, POSTGRES))


def _grown(figures: Figures) -> float:
    sizes = figures.all("growth")
    if max(one["rows"] for one in sizes) < 1_000_000:
        raise KeyError("growth")
    return float(max(one["commit_ms"] for one in sizes) / sizes[0]["commit_ms"])


def _lost(figures: Figures) -> float:
    return float(sum(one["lost"] for side in (EMBEDDED, POSTGRES) for one in figures.all("kill", side)))


# What is aimed at, the figure's format, the figure, the bound; a bound below 0 is the least, else the most.
GOALS: list[tuple[str, str, Callable[[Figures], float], float]] = [
    ("embedded at least 12 x stock", "{:.1f} x", lambda f: _rate(f, EMBEDDED) / _rate(f, STOCK), -12),
    ("PostgreSQL at least 14 x stock", "{:.1f} x", lambda f: _rate(f, POSTGRES) / _rate(f, STOCK), -14),
    ("PostgreSQL at least 0.85 x native", "{:.2f} x", lambda f: _rate(f, POSTGRES) / _rate(f, NATIVE), -0.85),
    ("10,000 queued in at most 12 s, embedded", "{:.1f} s", _seconds_for_all, 12),
    ("at 10/s p50 at most 25 ms, embedded", "{:.0f} ms", lambda f: f.median("p50", "live", EMBEDDED, away_ms=0), 25),
    ("at 10/s p99 at most 100 ms, embedded", "{:.0f} ms", lambda f: f.median("p99", "live", EMBEDDED, away_ms=0), 100),
    ("150 ms away p50 at most 1.2 round trips", "{:.2f}", _round_trips, 1.2),
    ("at most 0.01 round trips a message at load", "{:.4f}", _trips, 0.01),
    (
        "16 MB files at least 100 MB/s to a plain server",
        "{:.0f} MB/s",
        lambda f: f.median("mb_per_s", "media", POSTGRES, bytes=16_000_000),
        -100,
    ),
    ("worker and sidecar at rest at most 150 MB", "{:.0f} MB", lambda f: f.memory("mb_at_rest"), 150),
    ("worker and sidecar at load at most 220 MB", "{:.0f} MB", lambda f: f.memory("mb_at_load"), 220),
    ("sidecar killed, receiving in at most 2 s", "{:.1f} s", lambda f: _killed(f, "sidecar_killed_s"), 2),
    ("worker killed, receiving in at most 3 s", "{:.1f} s", lambda f: _killed(f, "worker_killed_s"), 3),
    ("flat to 1,000,000 rows", "{:.2f} x the first", _grown, GROWTH_FLAT),
    ("a kill loses nothing of ours", "{:.0f} lost", _lost, 0),
]


def judged(figures: Figures) -> list[tuple[str, str, str]]:
    """Each goal, what was seen, and whether it is met, missed or not measured."""
    found = []
    for goal, form, figure, bound in GOALS:
        try:
            seen = figure(figures)
        except KeyError:
            found.append((goal, "-", "not measured"))
            continue
        met = seen >= -bound if bound < 0 else seen <= bound
        found.append((goal, form.format(seen), "met" if met else "missed"))
    return found


def _goals(figures: Figures) -> list[str]:
    return ["", "| goal | seen | |", "|---|---|---|", *(f"| {' | '.join(line)} |" for line in judged(figures))]


def _bars(title: str, values: dict[str, float]) -> str:
    """Horizontal bars, the longest as wide as the picture allows."""
    most = max(values.values(), default=1.0) or 1.0
    height = (len(values) + 1) * (BAR_HEIGHT + 6) + 10
    parts = [f'<text x="4" y="18" font-weight="bold">{escape(title)}</text>']
    for n, (name, value) in enumerate(values.items()):
        y = (n + 1) * (BAR_HEIGHT + 6)
        width = max(1.0, value / most * BAR_WIDTH)
        parts.append(f'<text x="4" y="{y + 16}">{escape(name)}</text>')
        parts.append(
            f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.0f}" height="{BAR_HEIGHT}" fill="#4a7ebb"/>'
            f'<text x="{LABEL_WIDTH + width + 6:.0f}" y="{y + 16}">{value:,.0f}</text>'
        )
    full = LABEL_WIDTH + BAR_WIDTH + 80
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="{height}" font-family="sans-serif" '
        f'font-size="13">{"".join(parts)}</svg>\n'
    )

"""Results of a run as a table, as JSON and as two plots."""

from __future__ import annotations

import json
import statistics
from html import escape
from pathlib import Path
from typing import Any

Result = dict[str, Any]
BAR_WIDTH, BAR_HEIGHT, LABEL_WIDTH = 420, 22, 250


def quantile(ordered: list[float], percent: int) -> float:
    """The value that so many percent of these do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * percent // 100) - 1))]


def write(folder: Path, about: Result, results: list[Result], skipped: list[str]) -> None:
    """Prints the table; leaves it as table.md, everything as results.json, and the plots beside it."""
    folder.mkdir(exist_ok=True)
    good = [result for result in results if "failed" not in result]
    lines = [*_queues(good), *_live(good), *_kills(good), *_media(good)]
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

"""The metrics that the dashboard and the alert rules in deploy/grafana query."""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "grafana"
HOST_METRICS = ("wa_host_", "wa_session_stopped_")  # prefixes of metrics that only `wa-worker host` has
_NAME = re.compile(r"\b(?:wa|process)_[a-z0-9_]+\b")


def dashboard_queries() -> list[str]:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def alert_queries() -> list[str]:
    return re.findall(r"^ +expr: (.+)$", (FOLDER / "alerts.yml").read_text(), re.MULTILINE)


def metric_names() -> set[str]:
    """Every metric that a query names."""
    return {name for query in dashboard_queries() + alert_queries() for name in _NAME.findall(query)}

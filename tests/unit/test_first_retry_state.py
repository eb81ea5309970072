"""Where a session stands when a worker starts, by what the row says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.session.reconnect_policy import Connect, StayDown, first_retry_state

LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


def row(state: str, **extra: Any) -> dict[str, Any]:
    return {"wa_number": "491511234567", "has_creds": True, "detail": {"state": state, "say": "said", **extra}}


@pytest.mark.parametrize(
    ("found", "stays", "because"),
    [
        ({}, False, "a new session"),
        (row("connected"), False, "a worker that was killed"),
        (row("logged_out") | {"has_creds": False}, True, "somebody asked for it"),
        (row("logged_out"), False, "linked since"),
        (row("needs_you"), False, "a restart is a person's act: one try"),
        (row("needs_you", next_attempt_at=LATER), True, "banned for a time, which is not over"),
        (row("needs_you", next_attempt_at="soon"), False, "not a time"),
        (row("needs_you", next_attempt_at="2026-01-31T12:00:00"), False, "no zone: not ours"),
        (row("reconnecting", next_attempt_at=LATER), False, "a backoff is of one process"),
    ],
)
def test_what_outlives_a_restart(found: dict[str, Any], stays: bool, because: str) -> None:
    assert isinstance(first_retry_state(found).plan, StayDown if stays else Connect), because


def test_a_ban_goes_on_where_it_was_and_never_longer_than_two_weeks() -> None:
    now = datetime.now(UTC)
    later = now + timedelta(hours=2)
    plan = first_retry_state(row("needs_you", next_attempt_at=later.isoformat())).plan
    assert isinstance(plan, StayDown)
    assert now + timedelta(seconds=plan.seconds or 0) <= later
    assert datetime.now(UTC) + timedelta(seconds=plan.seconds or 0) >= later
    assert plan.view.say == "said"
    assert plan.view.next_attempt_at == later
    after_a_year = (now + timedelta(days=365)).isoformat()
    plan = first_retry_state(row("needs_you", next_attempt_at=after_a_year)).plan
    assert isinstance(plan, StayDown)
    assert plan.seconds == 14 * 86_400


def test_a_ban_that_is_over_is_over() -> None:
    plan = first_retry_state(row("needs_you", next_attempt_at="2026-01-31T12:00:00Z")).plan
    assert isinstance(plan, StayDown)
    assert (plan.seconds or 0) <= 0, "nothing is waited for"

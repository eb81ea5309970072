"""When silence means that a connection is deaf, and that a quiet account is left in peace."""

from __future__ import annotations

from tests.unit.test_policies import pong
from worker.session.deafness import ENOUGH_GAPS, FLOOR_SECONDS, DeafnessDetector

START = 1_790_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
LOOK_SECONDS = 10 * MINUTE


class Account:
    """One account's hours, looked at every ten minutes, with a new connection whenever one is asked for."""

    def __init__(self) -> None:
        self.deafness = DeafnessDetector()
        self.now = self.opened_at = START
        self.any_at: float | None = None
        self.group_at: float | None = None
        self.reconnects: list[tuple[float, str]] = []

    def comes(self, *, group: bool = True) -> None:
        self.any_at = self.now
        if group:
            self.group_at = self.now
        self.look()

    def look(self) -> None:
        told = pong(last_stanza_at_ms=_ms(self.any_at), last_group_stanza_at_ms=_ms(self.group_at))
        reason = self.deafness.observe(told, now=self.now, opened_at=self.opened_at)
        if reason:
            self.reconnects.append((self.now - START, reason))
            self.opened_at, self.any_at, self.group_at = self.now, None, None

    def passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + LOOK_SECONDS)
            self.look()

    def lives(self, seconds: float, every: float = 30 * MINUTE, *, group: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            self.passes(every)
            self.comes(group=group)


def _ms(at: float | None) -> float | None:
    return None if at is None else at * 1000


def test_a_silence_far_beyond_the_usual_leads_to_one_new_connection_and_a_warning() -> None:
    account = Account()
    account.lives(DAY)
    assert account.deafness.warnings == []
    account.passes(FLOOR_SECONDS)
    assert account.reconnects == []
    account.passes(3 * DAY)
    [(_, reason)] = account.reconnects
    assert reason.startswith("nothing has arrived from WhatsApp for 6 hours")
    assert len(account.deafness.warnings) == 1
    account.comes()
    assert account.deafness.warnings == []


def test_groups_alone_are_judged_while_other_things_come() -> None:
    account = Account()
    account.lives(DAY)
    account.lives(2 * DAY, group=False)
    [(_, reason)] = account.reconnects
    assert reason.startswith("nothing has arrived from any group")
    assert "group" in account.deafness.warnings[0]
    account.comes()
    assert account.deafness.warnings == []


def test_groups_are_not_judged_while_nothing_at_all_comes() -> None:
    account = Account()
    account.lives(DAY)
    account.passes(10 * DAY)
    assert [reason.split(" for ")[0] for _, reason in account.reconnects] == ["nothing has arrived from WhatsApp"]


def test_nothing_is_unusual_for_an_account_of_which_little_was_seen() -> None:
    account = Account()
    for _ in range(ENOUGH_GAPS):
        account.passes(MINUTE)
        account.comes()
    account.passes(10 * DAY)
    assert account.reconnects == []


def test_quiet_nights_cost_one_new_connection_and_then_are_usual() -> None:
    account = Account()
    for _ in range(20):
        account.lives(14 * HOUR)
        account.passes(10 * HOUR)
        account.comes()
    assert len(account.reconnects) == 1


def test_a_login_that_always_brings_something_makes_a_quiet_account_no_loop() -> None:
    account = Account()
    account.lives(DAY)
    for _ in range(7):
        seen = len(account.reconnects)
        account.passes(DAY)
        if len(account.reconnects) > seen:
            account.comes()  # as if it had waited
    assert len(account.reconnects) <= 4


def test_a_silence_that_a_deaf_connection_made_is_not_learnt() -> None:
    account = Account()
    account.lives(DAY)
    for _ in range(2):
        account.passes(40 * HOUR)
        account.opened_at = account.now
        account.comes()  # it had waited
        account.lives(9 * DAY)
    assert len(account.reconnects) == 2


def test_time_without_a_connection_is_no_silence() -> None:
    account = Account()
    account.lives(DAY)
    account.now += 5 * DAY
    account.opened_at = account.now
    account.any_at = account.group_at = None
    account.look()
    assert account.reconnects == []
    account.comes()
    assert account.deafness.anything.usual == 30 * MINUTE


def test_the_times_go_to_the_row_at_most_once_a_minute_and_only_if_something_came() -> None:
    account = Account()
    assert account.deafness.times_to_store(account.now) is None
    account.comes(group=False)
    assert account.deafness.times_to_store(account.now) == {"any": "2026-09-21T14:13:20Z", "group": None}
    account.now += 10
    account.comes()
    assert account.deafness.times_to_store(account.now) is None
    assert account.deafness.times_to_store(account.now + MINUTE) is not None
    assert account.deafness.times_to_store(account.now + 3 * MINUTE) is None

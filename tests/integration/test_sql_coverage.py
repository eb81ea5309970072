"""The ledger of gaps and `coverage()` on a real PostgreSQL: what makes a gap, what ends it, and what makes none."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.database import GROUP, OTHER_GROUP, message, stub
from tests.integration.test_sql_host_poll import expire, held, news, poll, version
from tests.integration.test_sql_races import Connection, batch, call, connect, session

__all__ = ["connect", "session"]  # fixtures

Json = dict[str, Any]
LONG_AGO = 10_000_000  # seconds


class Served:
    """A session of which everything is written as the worker writes it. Times are seconds before now."""

    def __init__(self, connection: Connection, session: str) -> None:
        self.connection, self.session = connection, session
        self.epoch, self.seq = 1, 0
        self.moves = False
        self.now: datetime = connection.execute("select now()").fetchone()[0]  # type: ignore[index]

    def ago(self, seconds: float) -> str:
        return (self.now - timedelta(seconds=seconds)).astimezone(UTC).isoformat()

    def connected(self) -> None:
        patch = json.dumps({"status": "connected", "wa_number": "4917"})
        call(self.connection, "wa_set_session", self.session, 1, patch)

    def reconnected(self) -> None:
        call(self.connection, "wa_begin_epoch", self.session, 1)
        self.epoch, self.seq = self.epoch + 1, 0
        self.connected()

    def mark(self, seconds: float, epoch: int | None = None) -> None:
        """Everything that came until then is durable."""
        complete = {"epoch": str(epoch or self.epoch), "complete_to": self.ago(seconds)}
        poll(self.connection, held(self.session, **complete))

    def take_groups(self) -> None:
        news(self.connection, self.session, monitored=str(version(self.connection, self.session)))

    def served(self, seconds: float = 0) -> None:
        """Connected, with everything delivered, and the group known for a long time. An old mark moves when we look."""
        self.moves = seconds >= 1000
        self.connected()
        self.take_groups()
        self.connection.execute(
            "update public.coverage_gaps set to_at = %s where session_id = %s", (self.ago(LONG_AGO), self.session)
        )
        self.mark(seconds)

    def commit(self, **parts: Any) -> None:
        self.old_commit(**{"dropped": [], **parts})

    def old_commit(self, **parts: Any) -> None:
        """As a worker from before the ledger commits: nothing says what it has dropped."""
        self.seq += 1
        call(self.connection, "wa_commit", self.session, batch(self.seq, epoch=self.epoch, **parts))

    def drop(self, *times: tuple[float, float, int], reason: str = "waited_too_long", chat: str = GROUP) -> None:
        dropped = [
            {"chat_id": chat, "reason": reason, "from_at": self.ago(first), "to_at": self.ago(last), "count": count}
            for first, last, count in times
        ]
        self.commit(dropped=dropped)

    def monitor(self, on: bool, group: str = GROUP) -> None:
        self.connection.execute(
            "update public.groups set monitor = %s where session_id = %s and wa_group_id = %s",
            (on, self.session, group),
        )

    def coverage(self, first: float | None = None, last: float | None = None, chat: str = GROUP) -> Json:
        if self.moves:
            self.mark(0)
        times = [None if seconds is None else self.ago(seconds) for seconds in (first, last)]
        return dict(call(self.connection, "coverage", self.session, chat, *times))

    def gaps(
        self, first: float | None = 5000, last: float | None = None, chat: str = GROUP
    ) -> list[tuple[object, ...]]:
        """(reason, seconds ago from, to, count)"""
        return [
            (gap["reason"], self._seconds(gap["from"]), self._seconds(gap["to"]), gap["count"])
            for gap in self.coverage(first, last, chat)["gaps"]
        ]

    def reasons(self, first: float | None = 5000) -> list[object]:
        return [gap[0] for gap in self.gaps(first)]

    def _seconds(self, at: str | None) -> int | None:
        return None if at is None else round((self.now - datetime.fromisoformat(at)).total_seconds())


@pytest.fixture
def mine(connect: Callable[[], Connection], session: str) -> Served:
    connection = connect()
    connection.autocommit = True
    return Served(connection, session)


def test_a_group_is_complete_since_the_worker_knows_that_it_is_switched_on(mine: Served) -> None:
    mine.connected()
    mine.mark(0)
    assert mine.gaps(None) == [("not_monitored", None, None, None)], "switched on, but the worker has not heard of it"
    mine.take_groups()
    answer = mine.coverage()
    assert [(gap["reason"], gap["from"]) for gap in answer["gaps"]] == [("not_monitored", None)]
    assert answer["since"] == answer["gaps"][0]["to"] is not None
    assert not answer["complete"]
    mine.now = mine.connection.execute("select clock_timestamp()").fetchone()[0]  # type: ignore[index]
    assert mine.coverage(0) == {
        "complete": True, "since": None, "complete_to": answer["complete_to"], "gaps": [], "gap_count": 0,
    }  # fmt: skip


def test_a_group_that_nobody_switched_on_is_not_monitored(mine: Served) -> None:
    mine.served()
    assert mine.gaps(None, chat=OTHER_GROUP) == [("not_monitored", None, None, None)]


def test_a_group_switched_off_has_a_gap_from_the_mark_on(mine: Served) -> None:
    mine.served(20)
    mine.monitor(False)
    assert mine.gaps(19) == [("not_monitored", 20, None, None)], "what had not come yet is lost"
    mine.monitor(True)
    mine.monitor(False)
    mine.monitor(True)
    assert mine.gaps(19) == [("not_monitored", 20, None, None)]
    mine.take_groups()
    ((reason, start, end, _),) = mine.gaps(19)
    assert (reason, start) == ("not_monitored", 20)
    assert end is not None


def test_a_group_whose_row_is_deleted_was_switched_off(mine: Served) -> None:
    mine.served(20)
    mine.connection.execute("delete from public.groups where session_id = %s", (mine.session,))
    assert mine.gaps(19) == [("not_monitored", 20, None, None)]
    groups = json.dumps([{"wa_group_id": GROUP, "name": "Family"}])
    call(mine.connection, "wa_upsert_groups", mine.session, 1, groups, False)
    mine.take_groups()
    mine.monitor(True)
    assert mine.gaps(19) == [("not_monitored", 20, None, None)], "the worker has not heard of it"
    mine.take_groups()
    ((reason, start, end, _),) = mine.gaps(19)
    assert (reason, start) == ("not_monitored", 20)
    assert end is not None


def test_a_group_switched_on_while_no_worker_runs_is_read_before_the_next_one_connects(mine: Served) -> None:
    mine.served(20)
    mine.monitor(False)
    call(mine.connection, "wa_lease_release", mine.session, "a", 1)
    mine.monitor(True)
    ends = {gap[0]: gap[2] for gap in mine.gaps(19)}
    assert ends["not_monitored"] is not None
    assert ends["away"] is None


def test_the_poll_closes_nothing_while_a_newer_version_is_on_its_way(mine: Served) -> None:
    mine.served()
    old = str(version(mine.connection, mine.session))
    mine.monitor(False)
    mine.monitor(True)
    news(mine.connection, mine.session, monitored=old)
    assert mine.gaps(1)[0][2] is None


def test_a_time_away_is_a_gap_until_what_had_waited_has_come(mine: Served) -> None:
    mine.served(300)
    expire(mine.connection, mine.session, -1)
    assert mine.gaps(299) == [("away", 300, None, None)]
    assert mine.coverage(4000, 301)["complete"]
    call(mine.connection, "wa_lease_acquire", mine.session, "a", 60)
    call(mine.connection, "wa_begin_epoch", mine.session, 1)
    mine.epoch += 1
    call(mine.connection, "wa_set_session", mine.session, 1, json.dumps({"status": "connecting"}))
    assert mine.gaps(299) == [("not_connected", 300, None, None)]
    mine.connected()
    assert mine.gaps(299) == [("backlog", 300, None, None)]
    mine.mark(200, epoch=1)
    assert mine.gaps(299) == [("backlog", 300, None, None)], "a mark of the former connection says nothing"
    mine.mark(5)
    assert mine.coverage(5000)["complete"]


def test_a_mark_that_does_not_move_is_a_gap(mine: Served) -> None:
    mine.served(170)
    assert mine.reasons() == [], "two minutes, and a lease of one"
    mine.connection.execute(
        "update public.wa_sessions set complete_to = %s where id = %s", (mine.ago(190), mine.session)
    )
    assert mine.gaps() == [("backlog", 190, None, None)]


def test_the_mark_never_goes_back(mine: Served) -> None:
    mine.served(50)
    mine.reconnected()
    mine.mark(90)
    expire(mine.connection, mine.session, -1)
    assert ("away", 50, None, None) in mine.gaps()


def test_a_mark_of_the_future_says_nothing_of_it(mine: Served) -> None:
    mine.served()
    mine.mark(-3600)
    row = mine.connection.execute(
        "select complete_to <= now() from public.wa_sessions where id = %s", (mine.session,)
    ).fetchone()
    assert row == (True,)


def test_longer_away_than_whatsapp_promises_to_keep_is_a_gap(mine: Served) -> None:
    day = 86_400
    mine.served(20 * day)
    mine.reconnected()
    mine.mark(0)
    assert ("away", 20 * day, 14 * day, None) in mine.gaps(30 * day)
    mine.reconnected()
    mine.mark(0)
    assert mine.reasons(30 * day).count("away") == 1


def test_while_no_phone_is_linked_nothing_is_kept_for_us(mine: Served) -> None:
    mine.served(100)
    mine.commit(creds="creds")
    for _ in range(2):
        call(mine.connection, "wa_wipe_credentials", mine.session, 1)
    mine.epoch += 2
    call(mine.connection, "wa_set_session", mine.session, 1, json.dumps({"status": "disconnected"}))
    assert mine.gaps(99)[0] == ("unlinked", 100, None, None)
    assert "not_connected" not in mine.reasons()
    mine.reconnected()
    ((reason, start, end, _), *_) = mine.gaps(99)
    assert (reason, start) == ("unlinked", 100)
    assert end is not None, "WhatsApp keeps messages for the new link"
    assert "backlog" in mine.reasons()
    mine.mark(0)
    assert mine.reasons(99) == ["unlinked"]


def test_what_is_dropped_for_its_age_is_a_gap_that_grows_while_nothing_stored_lies_between(mine: Served) -> None:
    mine.served(4000)
    mine.drop((1000, 990, 3))
    mine.drop((980, 980, 1), (1002, 995, 2))
    mine.commit(messages=[message("A", ts=mine.ago(970))])
    mine.drop((960, 950, 2))
    dropped = [gap for gap in mine.gaps() if gap[0] == "waited_too_long"]
    assert dropped == [("waited_too_long", 1002, 980, 6), ("waited_too_long", 960, 950, 2)]


def test_a_stored_message_of_the_same_batch_parts_two_gaps(mine: Served) -> None:
    mine.served(4000)
    mine.drop((1000, 1000, 1))
    times = {"chat_id": GROUP, "reason": "waited_too_long", "from_at": mine.ago(900), "to_at": mine.ago(900)}
    mine.commit(messages=[message("A", ts=mine.ago(950))], dropped=[{**times, "count": 1}])
    assert [gap[1:3] for gap in mine.gaps() if gap[0] == "waited_too_long"] == [(1000, 1000), (900, 900)]


def test_drops_of_two_times_away_are_two_gaps(mine: Served) -> None:
    mine.served(2000)
    mine.drop((1900, 1800, 5))
    mine.mark(1000)
    mine.drop((500, 400, 5))
    mine.drop((450, 450, 1), reason="too_old")
    assert [gap[:3] for gap in mine.gaps()] == [
        ("waited_too_long", 1900, 1800), ("waited_too_long", 500, 400), ("too_old", 450, 450),
    ]  # fmt: skip


def test_a_batch_that_is_sent_twice_drops_once(mine: Served) -> None:
    mine.served(2000)
    mine.drop((1000, 990, 3))
    mine.seq -= 1
    mine.drop((1000, 990, 3))
    assert ("waited_too_long", 1000, 990, 3) in mine.gaps()


def test_what_a_worker_from_before_the_ledger_commits_is_not_recorded(mine: Served) -> None:
    mine.connected()
    mine.take_groups()
    mine.connection.execute(
        "update public.coverage_gaps set to_at = %s where session_id = %s", (mine.ago(LONG_AGO), mine.session)
    )
    mine.old_commit(discards={"waited_too_long": 5})
    mine.reconnected()
    mine.mark(0)
    ((reason, start, end, count),) = mine.gaps()
    assert (reason, start, count) == ("not_recorded", None, None)
    assert end is not None, "the new worker says what it drops"


def test_one_goes_back_to_such_a_worker_and_nothing_is_recorded_since_the_mark(mine: Served) -> None:
    mine.served(3000)
    mine.moves = False
    mine.reconnected()
    mine.old_commit()
    mine.old_commit()
    unrecorded = [gap for gap in mine.gaps() if gap[0] == "not_recorded"]
    assert [gap[1] for gap in unrecorded] == [3000]
    mine.connection.execute(
        "update public.coverage_gaps set to_at = %s where session_id = %s and reason = 'not_recorded'",
        (mine.ago(2000), mine.session),
    )
    mine.mark(1000)
    mine.commit(messages=[message("A", ts=mine.ago(900))])
    assert mine.gaps(1999, 1001) == []
    mine.reconnected()
    mine.old_commit(messages=[message("B", ts=mine.ago(800))])
    unrecorded = [gap for gap in mine.gaps() if gap[0] == "not_recorded"]
    assert [gap[1] for gap in unrecorded] == [3000, 1000]


def test_a_refused_message_is_a_gap_until_it_is_taken_back(mine: Served) -> None:
    mine.served(2000)
    mine.commit(messages=[message("A", ts=mine.ago(800), kind="")])
    assert ("refused", 800, 800, 1) in mine.gaps()
    mine.connection.execute(
        "update public.wa_refused_stanzas set body = encode(convert_to(%s, 'UTF8'), 'base64') where session_id = %s",
        (json.dumps(message("A", ts=mine.ago(800))), mine.session),
    )
    id_ = mine.connection.execute(
        "select id from public.wa_refused_stanzas where session_id = %s", (mine.session,)
    ).fetchone()[0]  # type: ignore[index]
    assert call(mine.connection, "wa_retry_refused", mine.session, id_) == {"taken": True}
    assert "refused" not in mine.reasons()


def test_a_refused_item_without_a_time_lies_where_it_was_refused(mine: Served) -> None:
    mine.served(2000)
    refused = {"chat_id": GROUP, "code": "slow", "reason": "", "state": "waiting", "sent_at": "no time", "body": "e30="}
    mine.commit(refused=[refused])
    (gap,) = [gap for gap in mine.coverage()["gaps"] if gap["reason"] == "waiting"]
    assert gap["from"] == gap["to"] is not None


def test_a_stub_is_a_gap_until_its_content_comes(mine: Served) -> None:
    mine.served(2000)
    mine.commit(messages=[stub("A", ts=mine.ago(700)), stub("B", ts=mine.ago(600))])
    assert [gap[:2] for gap in mine.gaps()] == [("undecryptable", 700), ("undecryptable", 600)]
    call(mine.connection, "wa_mark_lost", mine.session, -1e9)
    assert mine.reasons() == ["lost", "lost"]
    mine.commit(messages=[message("A", ts=mine.ago(700))])
    assert ("lost", 600, 600, 1) in mine.gaps()
    assert mine.reasons().count("lost") == 1


def test_what_retention_deletes_is_a_gap(mine: Served) -> None:
    mine.served(2000)
    call(mine.connection, "wa_delete_messages", mine.session, mine.ago(900), 10)
    assert "deleted" not in mine.reasons(), "there was nothing to delete"
    mine.commit(messages=[message("A", ts=mine.ago(800)), message("B", ts=mine.ago(700))])
    for before in (750, 650):
        call(mine.connection, "wa_delete_messages", mine.session, mine.ago(before), 10)
    assert ("deleted", None, 650, None) in mine.gaps()


def test_a_range_begins_behind_its_first_time_and_ends_with_its_last(mine: Served) -> None:
    mine.served(2000)
    mine.drop((1000, 900, 4))
    assert mine.coverage(900)["complete"]
    assert not mine.coverage(901)["complete"]
    assert mine.coverage(1500, 1001)["complete"]
    assert not mine.coverage(1500, 1000)["complete"]
    assert mine.coverage(None, -100) == mine.coverage()


def test_only_the_newest_gaps_are_listed_and_all_are_counted(mine: Served) -> None:
    mine.served(2000)
    mine.commit(messages=[stub(f"S{n}", ts=mine.ago(500 + n)) for n in range(30)])
    mine.mark(0)
    (listed,) = call(mine.connection, "wa_coverage", mine.session)["groups"]
    assert (listed["wa_group_id"], listed["monitor"], listed["gap_count"], len(listed["gaps"])) == (GROUP, True, 31, 20)
    assert listed["since"] is not None
    assert not listed["complete"]
    mine.monitor(False)
    (listed,) = call(mine.connection, "wa_coverage", mine.session)["groups"]
    assert (listed["monitor"], listed["since"]) == (False, None)


def test_the_coverage_of_many_groups_comes_page_by_page(mine: Served) -> None:
    mine.served(2000)
    names = [{"wa_group_id": f"12036399{n}@g.us", "name": f"Group {n}"} for n in range(5)]
    call(mine.connection, "wa_upsert_groups", mine.session, 1, json.dumps(names), False)
    mine.connection.execute("update public.groups set monitor = true where session_id = %s", (mine.session,))
    found = [call(mine.connection, "wa_coverage", mine.session, None, 2, start) for start in (0, 2, 4, 6)]
    assert [each["group_count"] for each in found] == [6, 6, 6, 6]
    assert [row["name"] for each in found for row in each["groups"]] == [
        *(row["name"] for row in call(mine.connection, "wa_coverage", mine.session)["groups"])
    ]
    assert [len(each["groups"]) for each in found] == [2, 2, 2, 0]


def test_a_time_narrows_the_coverage_of_all_groups(mine: Served) -> None:
    mine.served(5000)
    mine.drop((1000, 900, 4))
    mine.mark(0)
    (whole,) = call(mine.connection, "wa_coverage", mine.session)["groups"]
    (late,) = call(mine.connection, "wa_coverage", mine.session, mine.ago(800))["groups"]
    assert [gap["reason"] for gap in whole["gaps"]] == ["not_monitored", "waited_too_long"]
    assert late["complete"]


def test_a_group_that_was_left_is_complete_no_longer(mine: Served) -> None:
    mine.served(2000)
    call(
        mine.connection, "wa_upsert_groups", mine.session, 1, json.dumps([{"wa_group_id": GROUP, "left": True}]), False
    )
    assert mine.reasons() == ["left"]


def test_the_time_outside_of_a_group_stays_a_gap_when_the_account_is_in_it_again(mine: Served) -> None:
    mine.served(20)
    for left in (True, True, False, False):
        news = [{"wa_group_id": GROUP, "name": "Family", "left": left}]
        mine.commit(groups=news)
        ((reason, start, end, _),) = mine.gaps(21)
        assert (reason, start, end is None) == ("left", 20, left), "from the mark on: nobody knows when it was"
    mine.commit(groups=[{"wa_group_id": GROUP, "left": True}])
    mine.connection.execute("delete from public.groups where session_id = %s", (mine.session,))
    assert [gap[2] for gap in mine.gaps(21) if gap[0] == "left"].count(None) == 0, "a row without a group says nothing"


def test_a_group_switched_on_before_the_first_phone_is_linked_has_a_gap_until_then(mine: Served) -> None:
    """Nothing that was sent before came to this device."""
    mine.take_groups()
    (switched_on,) = [gap["to"] for gap in mine.coverage()["gaps"] if gap["reason"] == "not_monitored"]
    for _ in range(2):
        mine.reconnected()
    mine.mark(0)
    (unlinked,) = [gap for gap in mine.coverage()["gaps"] if gap["reason"] == "unlinked"]
    assert unlinked["from"] is None
    assert unlinked["to"] > switched_on
    assert mine.coverage()["since"] == unlinked["to"]


def test_fourteen_days_are_counted_from_the_latest_link(mine: Served) -> None:
    """It was linked 20 days ago, and has received nothing since."""
    day = 86_400
    mine.served(40 * day)
    mine.commit(creds="creds")
    call(mine.connection, "wa_wipe_credentials", mine.session, 1)
    mine.epoch += 1
    mine.reconnected()
    mine.connection.execute(
        "update public.coverage_gaps set to_at = %s where session_id = %s and reason = 'unlinked'",
        (mine.ago(20 * day), mine.session),
    )
    mine.mark(0)
    mine.moves = False
    gaps = mine.gaps(45 * day)
    assert ("away", 20 * day, 14 * day, None) in gaps
    assert ("unlinked", 40 * day, 20 * day, None) in gaps


def test_what_is_dated_later_than_now_is_missing_all_the_same(mine: Served) -> None:
    """WhatsApp's clock and the database's may differ."""
    mine.served(0)
    mine.commit(messages=[stub("A", ts=mine.ago(-3600))])
    mine.drop((-1800, -7200, 5), reason="too_old")
    assert [gap[:3] for gap in mine.gaps(1)] == [("too_old", -1800, -7200), ("undecryptable", -3600, -3600)]
    assert not mine.coverage(1)["complete"]
    assert mine.coverage(4000, 100)["complete"]


def test_a_group_switched_two_hundred_times_is_complete_since_the_last(mine: Served) -> None:
    mine.served(0)
    for _ in range(200):
        for on in (False, True):
            mine.monitor(on)
            mine.take_groups()
    answer = mine.coverage()
    assert (answer["gap_count"], len(answer["gaps"])) == (201, 201)
    ends = [datetime.fromisoformat(gap["to"]) for gap in answer["gaps"]]
    starts = [datetime.fromisoformat(gap["from"]) for gap in answer["gaps"][1:]]
    assert all(start <= end for start, end in zip(starts[1:], ends[1:-1], strict=True)), (
        "the mark has not moved: none ends early"
    )
    assert answer["since"] == answer["gaps"][-1]["to"]


def test_the_ledger_hides_from_users(mine: Served, connect: Callable[[], Connection]) -> None:
    other = connect()
    other.execute("reset role")
    rights = other.execute(
        "select has_table_privilege('authenticated', 'public.coverage_gaps', 'select'),"
        " has_function_privilege('anon', 'public.wa_coverage(text, timestamptz, integer, integer)', 'execute')"
    ).fetchone()
    assert rights == (False, False)


def test_the_answer_reads_gaps_and_not_messages(mine: Served) -> None:
    mine.served(0)
    mine.connection.execute(
        "insert into public.messages (session_id, group_id, wa_msg_id, chat_id, sender, ts, kind, text)"
        " select g.session_id, g.id, 'M' || n, g.wa_group_id, 'ana@lid', now() - make_interval(secs => n),"
        "  case when n %% 4000 = 0 then 'undecryptable' else 'text' end, repeat('x', 200)"
        " from public.groups as g, generate_series(1, 20000) as n where g.session_id = %s and g.monitor",
        (mine.session,),
    )
    mine.connection.execute("reset role; analyze public.messages; set role service_role")
    assert len(mine.gaps(None)) == 6
    for _ in range(2):  # the first reads the catalogue as well
        (plan,) = mine.connection.execute(
            "explain (analyze, buffers, format json) select public.coverage(%s, %s)", (mine.session, GROUP)
        ).fetchone()  # type: ignore[misc]
    blocks = plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
    assert blocks < 100, "20,000 messages lie in about 800"

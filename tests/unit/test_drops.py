"""Messages that waited too long: summed up in one warning, and shown by the commands."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from loguru import logger

from testkit.waiting import until
from worker.commands.doctor import check_drops, check_settings
from worker.commands.status import left_out
from worker.session.drop_warnings import DropWarnings
from worker.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    said: list[str] = []
    sink = logger.add(lambda line: said.append(str(line).strip()), level="WARNING", format="{message}")
    yield said
    logger.remove(sink)


def drop(drops: DropWarnings, count: int) -> None:
    drops.committed(
        cast(Any, None), cast(Any, SimpleNamespace(discards={"waited_too_long": count})), cast(Any, None), 0
    )


async def said(warnings: list[str]) -> bool:
    return bool(warnings)


async def test_a_burst_is_one_warning_and_what_comes_soon_after_it_is_said_at_the_end(warnings: list[str]) -> None:
    drops = DropWarnings(0, gather=0.0, quiet=3600.0)
    async with anyio.create_task_group() as task_group:
        drop(drops, 2)
        drop(drops, 1)
        task_group.start_soon(drops.run)
        await until("the warning", lambda: said(warnings))
        drop(drops, 1)
        task_group.cancel_scope.cancel()
    assert [line.partition(":")[0] for line in warnings] == ["3 messages dropped", "1 message dropped"]
    assert all("WORKER_CATCH_UP_S (0)" in line for line in warnings)


async def test_a_batch_without_dropped_messages_is_not_worth_a_line(warnings: list[str]) -> None:
    drops = DropWarnings(0, gather=0.0, quiet=0.0)
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(drops.run)
        for count in (0, 1):  # the second one's warning shows that the first one had its turn
            drop(drops, count)
            await anyio.wait_all_tasks_blocked()
        await until("the warning", lambda: said(warnings))
        task_group.cancel_scope.cancel()
    assert [line.partition(":")[0] for line in warnings] == ["1 message dropped"]


def test_status_names_the_setting_beside_the_count_and_says_the_rest_in_words() -> None:
    lines = dict(left_out({"waited_too_long": "3", "unmonitored": "90211", "not_a_group": "4"}))
    assert "3 messages" in lines["Dropped"].plain
    assert "WORKER_CATCH_UP_S" in lines["Dropped"].plain
    assert lines["Left out"].plain == (
        "4 from direct messages, statuses and channels, 90,211 from groups that are not switched on"
    )
    assert left_out({}) == []


@pytest.mark.parametrize(
    ("given", "words"), [({}, "`run` drops them"), ({"worker_catch_up_s": 0}, "is 0"), ({"worker_catch_up_s": 60}, "")]
)
def test_doctor_says_what_a_restart_would_drop(given: dict[str, int], words: str) -> None:
    text = check_settings(Settings(_env_file=None, **given)).text  # type: ignore[call-arg,arg-type]
    assert ("WORKER_CATCH_UP_S" in text) is bool(words)
    assert words in text


def test_doctor_says_what_was_dropped() -> None:
    finding = check_drops(3)
    assert finding.grade == "note"
    assert "3 messages" in finding.text


def test_up_catches_up_a_day_unless_the_setting_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKER_CATCH_UP_S", raising=False)
    assert Settings(_env_file=None).catching_up().worker_catch_up_s == 86_400  # type: ignore[call-arg]
    monkeypatch.setenv("WORKER_CATCH_UP_S", "0")
    assert Settings(_env_file=None).catching_up().worker_catch_up_s == 0  # type: ignore[call-arg]

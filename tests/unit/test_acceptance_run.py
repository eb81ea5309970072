"""The run for a real phone, without one: what findings mean, and how a person at a terminal answers."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import anyio
import pytest
from rich.console import Console

from acceptance import later
from acceptance.human import Human
from acceptance.record import claimed, closes, listed, stanzas, unanswered_ends
from acceptance.steps import STEPS
from acceptance.tester import Choice, Place, Task
from acceptance.verdict import (
    EXIT_FAILED,
    EXIT_INCOMPLETE,
    LINES,
    Finding,
    State,
    awaited,
    exit_code,
    make_report,
    not_met,
    passed_if,
    settled,
    skipped,
    time_is_up,
    verdict,
)
from demo.screen import Screen
from testkit.waiting import until
from worker.commands.keyboard import Keyboard

PLACE = Place(id="120363000000000001@g.us", name="Market")
TASK = Task(name="text", say="Send [this]", group=PLACE, other=PLACE, words=("a 1", "b 2"), limit_mb=1, seconds=9.0)
PASSED = [passed_if(True, line, "fine") for line in LINES]


@pytest.mark.parametrize(
    ("findings", "state", "because"),
    [
        ([], State.SKIPPED, "nothing is known of it"),
        ([passed_if(True, 4, "")], State.PASSED, "all that was looked at is right"),
        ([passed_if(True, 4, ""), passed_if(False, 4, "")], State.FAILED, "one failure is enough"),
        ([passed_if(True, 4, ""), *skipped([4], "")], State.SKIPPED, "one part was not tried"),
        ([passed_if(False, 4, ""), *skipped([4], "")], State.FAILED, "a failure outweighs what was not tried"),
        ([not_met(4, "")], State.NOT_MET, "WhatsApp did not do what it is about"),
        ([not_met(4, ""), passed_if(False, 4, "")], State.FAILED, "one failure is enough"),
        ([awaited(4, "")], State.FAILED, "it ended before it came"),
        ([passed_if(False, 5, "")], State.SKIPPED, "another line's finding says nothing here"),
    ],
)
def test_the_verdict_on_a_line(findings: list[Finding], state: State, because: str) -> None:
    assert verdict(4, findings) is state, because


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        (PASSED, 0),
        (PASSED[1:], EXIT_INCOMPLETE),
        ([*PASSED, *skipped([6], "")], EXIT_INCOMPLETE),
        ([*PASSED[:9], not_met(10, ""), *PASSED[10:]], 0),
        ([*PASSED[1:], passed_if(False, 1, "")], EXIT_FAILED),
    ],
)
def test_the_exit_code_is_that_of_the_worst_line(findings: list[Finding], code: int) -> None:
    assert exit_code(findings) == code


def test_waiting_ends_when_it_can_change_nothing() -> None:
    assert settled(PASSED)
    assert not settled([awaited(4, "a row"), *PASSED])
    assert settled([awaited(4, "a row"), passed_if(False, 4, "wrong")])
    [late] = time_is_up([awaited(4, "a row")], 7.0)
    assert (late.state, late.what) == (State.FAILED, "a row: not within 7 s")


def test_the_report_has_every_line_and_says_what_was_not_reached() -> None:
    report = make_report({"server": "WhatsApp"}, PASSED[:1], "the worker ended")
    assert "| 1 | On start" in report
    assert report.count("- not reached") == len(LINES) - 1
    assert "**The run ended early:** the worker ended" in report


def test_the_steps_and_what_is_seen_without_a_phone_cover_the_whole_list() -> None:
    steps = (*STEPS, later.LIVE, later.STATUS, later.AFTER)
    assert {line for step in steps for line in step.lines} | {1, 2, 3, 9, 10, 11, 12} == set(LINES)


@pytest.fixture
def typed() -> Iterator[tuple[int, Human, io.StringIO]]:
    """Something to type into, the tester who reads it, and the screen."""
    reading, writing = os.pipe()
    out = io.StringIO()
    yield writing, Human(Screen(Console(file=out, width=100)), Keyboard(reading)), out
    for end in (reading, writing):
        if end >= 0:
            os.close(end)


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("keys", "choice"), [("s\n", Choice.SKIP), ("d\n", Choice.DONE), ("\nwhat?\nR\n", Choice.REPEAT)]
)
async def test_a_step_can_be_skipped_or_repeated(
    typed: tuple[int, Human, io.StringIO], keys: str, choice: Choice
) -> None:
    writing, human, out = typed
    os.write(writing, keys.encode())
    with anyio.fail_after(5):
        assert await human.perform(TASK) is choice
    assert "Send [this]" in out.getvalue()


async def test_a_group_is_chosen_by_its_number(typed: tuple[int, Human, io.StringIO]) -> None:
    writing, human, out = typed
    groups = [
        {"name": "Market", "wa_group_id": "1", "monitor": True},
        {"name": "", "wa_group_id": "2", "monitor": False},
    ]

    async def answer() -> None:
        for asked, line in enumerate((b"0\n", b"x\n", b"2\n"), start=1):

            async def question(times: int = asked) -> bool:
                return out.getvalue().count("Which?") == times

            await until("the question", question, seconds=5)
            os.write(writing, line)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            assert (await human.choose_group("Which?", groups))["wa_group_id"] == "2"
    assert "Market  (monitored)" in out.getvalue()
    assert "A number from 1 to 2" in out.getvalue()


@pytest.mark.parametrize(("keys", "answer"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False)])
async def test_only_a_yes_is_a_yes(typed: tuple[int, Human, io.StringIO], keys: str, answer: bool) -> None:
    writing, human, _ = typed
    os.write(writing, keys.encode())
    with anyio.fail_after(5):
        assert await human.agrees("Again?") is answer


def test_the_report_counts_ends_of_connections_and_stanzas_and_names_the_version() -> None:
    ends: list[dict[str, dict[str, int]]] = [
        {"payload": {"code": 515}},
        {"payload": {"code": 428}},
        {"payload": {"code": 428}},
        {"payload": {}},
    ]
    assert closes(ends) == "428: 2, 515: 1, ours: 1"
    assert closes([]) == "none"
    assert claimed({"detail": {"claims": {"version": "2.3000.1", "source": "fetched"}}}) == "2.3000.1 (fetched)"
    assert claimed(None) == "unknown (unknown)"
    line = '{"message": "stanzas of this connection", "type": "message", "count": 2, "unanswered": 1}'
    other = '{"message": "stanzas of this connection", "type": "call", "count": 1, "unanswered": 0}'
    seen, unanswered = stanzas(f"{line}\nother\n{line}\n{other}\n" + line[:60])
    assert (listed(seen), listed(unanswered)) == ("call 1, message 4", "message 2")
    ended = [
        {"payload": {"code": 500, "reason": "Stream Errored (ack)"}},
        {"payload": {"code": 500, "reason": "other"}},
    ]
    assert unanswered_ends(ended) == 1


async def test_a_number_is_put_right_or_asked_for_again(typed: tuple[int, Human, io.StringIO]) -> None:
    writing, human, out = typed
    answers: list[str | None] = []

    async def ask() -> None:
        answers.append(await human.number("Whose?"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            for asked, line in enumerate((b"0151 1\n", b"+49 151 1234567\n"), start=1):

                async def question(times: int = asked) -> bool:
                    return out.getvalue().count("Whose?") == times

                await until("the question", question, seconds=5)
                os.write(writing, line)
    assert answers == ["491511234567"]
    assert "With the country code" in out.getvalue()

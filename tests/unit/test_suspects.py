"""When the end of a sidecar counts against the stanza that it was decrypting, and what follows from the count."""

from __future__ import annotations

import signal

import pytest

from tests.unit.doubles import Database
from worker.errors import BridgeError, CallTimeout, SidecarGone
from worker.session.suspects import Cause, Suspects, cause_of, treatments
from worker.store import Suspect

pytestmark = pytest.mark.anyio

HUNG = CallTimeout("the sidecar did not answer 'ping' within 10 s")
GONE = SidecarGone("the sidecar closed its end of the pipe")
A, B = "aa" * 32, "bb" * 32


@pytest.mark.parametrize(
    ("gone", "code", "forced", "cause"),
    [
        (GONE, 1, False, "death"),
        (GONE, -signal.SIGABRT, False, "death"),  # V8, out of memory
        (GONE, -signal.SIGSEGV, False, "death"),
        (GONE, -signal.SIGKILL, False, "kill"),
        (GONE, -signal.SIGTERM, False, "kill"),
        (HUNG, -signal.SIGTERM, True, "death"),
        (HUNG, 0, False, "death"),  # it answered again when it was told to end: a hang of some seconds
        (GONE, 0, False, None),
        (GONE, -signal.SIGTERM, True, None),
        (GONE, None, False, None),
    ],
)
def test_only_an_end_that_nobody_ordered_counts(
    gone: BridgeError, code: int | None, forced: bool, cause: Cause | None
) -> None:
    assert cause_of(gone, code, forced=forced) == cause


@pytest.mark.parametrize(
    ("deaths", "kills", "treatment"),
    [(0, 1, None), (0, 4, None), (0, 5, "alone"), (0, 6, "unread"), (1, 0, "alone"), (1, 4, "alone"), (1, 5, "unread"),
     (2, 0, "unread"), (9, 9, "unread")],
)  # fmt: skip
def test_signals_from_outside_count_from_the_fifth_on(deaths: int, kills: int, treatment: str | None) -> None:
    found = treatments([Suspect(hash=A, deaths=deaths, kills=kills)])
    assert found == ({} if treatment is None else {A: treatment})


async def test_an_end_without_a_stanza_in_work_or_without_a_cause_is_not_noted() -> None:
    database = Database()
    suspects = Suspects(database.store)
    await suspects.treatments()
    await suspects.note(None, "death")
    await suspects.note(A, None)
    await suspects.note(A, "death")
    await suspects.treatments()
    await suspects.note(B, "kill")
    (first, _, first_killed), (second, _, second_killed) = database.deaths
    assert [(first, first_killed), (second, second_killed)] == [(A, False), (B, True)]


async def test_what_happens_in_one_connection_is_counted_once_and_in_two_twice() -> None:
    database = Database()
    suspects = Suspects(database.store)
    await suspects.treatments()
    await suspects.note(A, "death")  # it stalled
    await suspects.note(A, "death")  # then it did not answer
    await suspects.note(B, "kill")  # then it was killed
    await suspects.treatments()
    await suspects.note(A, "death")
    assert [digest for digest, _, _ in database.deaths] == [A, A]
    assert len({death for _, death, _ in database.deaths}) == 2, "an end has a name of its own"

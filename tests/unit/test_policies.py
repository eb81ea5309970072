"""Small pure rules: the backoff, the sidecar's crashes, the watchdog's verdict, the client version."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from worker.bridge.protocol import Pong
from worker.session.backoff import LOOP_AFTER, LOOP_SECONDS, Crashes, next_delay
from worker.session.version import SCRIPT_BYTES_MAX, VersionClaim, VersionPolicy, fetch_version, parse_kept
from worker.session.watchdog import LOOP_LAG_MS, STANZA_STUCK_MS, Stall, judge
from worker.settings import Version

PAGE = b" " * 65_536


@pytest.mark.parametrize(
    ("attempt", "jitter", "expected", "because"),
    [
        (0, 0.0, 1.0, "the first wait is the base"),
        (1, 0.0, 2.0, "doubled"),
        (4, 0.0, 16.0, "doubled again and again"),
        (5, 0.0, 30.0, "the cap"),
        (5, 0.5, 30.5, "jitter comes on top of the cap (contract §5)"),
        (10_000, 0.25, 30.25, "no overflow, however long it lasts"),
    ],
)
def test_the_backoff_is_the_contracts(attempt: int, jitter: float, expected: float, because: str) -> None:
    assert next_delay(attempt, jitter, base=1.0, cap=30.0) == expected, because


def test_attempts_are_counted_from_0() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        next_delay(-1, 0.0, 1.0, 30.0)


def test_a_sidecar_that_keeps_ending_is_no_hot_loop() -> None:
    crashes = Crashes(base=1.0, cap=30.0)
    delays = [crashes.note(0.1, 0.0) for _ in range(LOOP_AFTER + 2)]
    assert delays[:5] == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert delays[LOOP_AFTER - 1 :] == [LOOP_SECONDS] * 3
    assert crashes.looping


def test_a_sidecar_that_lived_long_starts_the_count_anew() -> None:
    crashes = Crashes(base=1.0, cap=30.0)
    for _ in range(LOOP_AFTER):
        crashes.note(0.1, 0.0)
    assert crashes.note(3600.0, 0.5) == 0.0
    assert not crashes.looping


STUCK: dict[str, Any] = {"stuck_ms": STANZA_STUCK_MS + 1, "stuck_hash": "aa" * 32}


def pong(**changes: object) -> Pong:
    figures: dict[str, object] = {
        "rss_bytes": 1, "heap_bytes": 1, "log_items": 0, "log_bytes": 0, "log_bytes_max": 0, "held_frames": 0,
        "longest_hold_ms": 0, "open_sections": 0, "loop_lag_ms": 1, "stanzas_in": 0, "stanzas_out": 0,
        "stuck_ms": None, "stuck_hash": None, "last_stanza_at_ms": None, "last_group_stanza_at_ms": None,
        "swallowed": 0, "complete": None,
    }  # fmt: skip
    return Pong.model_validate({**figures, **changes})


@pytest.mark.parametrize(
    ("figures", "away", "stalled", "because"),
    [
        ({}, False, False, "silence in a quiet group is no stall"),
        ({"last_stanza_at_ms": 1}, False, False, "a day without a message is no stall"),
        (STUCK, False, True, "begun and never ended"),
        (STUCK | {"stuck_ms": STANZA_STUCK_MS}, False, False, "still within two queries' time-outs"),
        (STUCK, True, False, "it waits for the database: another rule"),
        ({"loop_lag_ms": LOOP_LAG_MS + 1}, False, True, "too busy to do anything"),
    ],
)
def test_a_stall_is(figures: dict[str, float], away: bool, stalled: bool, because: str) -> None:
    assert (judge(pong(**figures), pong(**figures), database_away=away) is not None) is stalled, because


@pytest.mark.parametrize(
    ("before", "stalled", "because"),
    [
        (None, False, "the first look"),
        (pong(), False, "the machine may have slept: everything looks old"),
        (pong(**STUCK | {"stuck_hash": "bb" * 32}), False, "that one has moved"),
        (pong(**STUCK), True, "the same, and still stuck"),
    ],
)
def test_a_stanza_is_stuck_when_two_looks_say_so_and_it_is_the_one_to_blame(
    before: Pong | None, stalled: bool, because: str
) -> None:
    found = judge(pong(**STUCK), before, database_away=False)
    blamed = Stall(reason="a message has been in work for too long", blamed=STUCK["stuck_hash"])
    assert found == (blamed if stalled else None), because


PINNED, GOOD, FETCHED = (2, 1, 1), (2, 2, 2), (2, 3000, 333333333)


async def fetched() -> Version | None:
    return FETCHED


async def unfetchable() -> Version | None:
    return None


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_policy(
    pin: Version | None = None,
    last_good: VersionClaim | None = None,
    *,
    unasked: bool = True,
    clock: Clock | None = None,
) -> tuple[VersionPolicy, list[VersionClaim]]:
    kept: list[VersionClaim] = []
    return VersionPolicy(pin, last_good, kept.append, unasked=unasked, clock=clock or Clock()), kept


def good(days: float) -> VersionClaim:
    return VersionClaim(version=GOOD, source="kept", at=datetime.now(UTC) - timedelta(days=days))


async def test_the_operators_version_wins_over_all() -> None:
    policy, _ = make_policy(PINNED, good(1))
    policy.outdated()
    await policy.refresh(fetched, linked=False)
    assert policy.present() == PINNED
    assert policy.claim.source == "WA_VERSION"
    assert policy.doubt() is None


async def test_while_no_account_is_linked_the_present_version_is_fetched_and_kept_once_it_has_worked() -> None:
    policy, kept = make_policy(None, good(1))
    await policy.refresh(fetched, linked=False)
    assert policy.present() == FETCHED
    assert kept == []
    policy.worked()
    assert [(claim.version, claim.source) for claim in kept] == [(FETCHED, "kept")]
    assert kept[0].at == policy.claim.at


async def test_a_linked_account_keeps_its_version_until_whatsapp_refuses_it() -> None:
    policy, _ = make_policy(None, good(400))
    await policy.refresh(fetched, linked=True)
    assert policy.present() == GOOD
    policy.outdated()
    await policy.refresh(fetched, linked=True)
    assert policy.present() == FETCHED


async def test_a_local_server_is_not_a_reason_to_ask_whatsapp() -> None:
    policy, _ = make_policy(unasked=False)
    await policy.refresh(fetched, linked=False)
    assert policy.present() is None


async def test_the_version_is_fetched_once_an_hour_and_after_a_failure_once_a_minute() -> None:
    clock, answers = Clock(), [None, FETCHED, FETCHED]

    async def fetch() -> Version | None:
        return answers.pop(0)

    policy, _ = make_policy(clock=clock)
    for seconds, left in [(0, 2), (59, 2), (2, 1), (3590, 1), (20, 0)]:
        clock.now += seconds
        await policy.refresh(fetch, linked=False)
        assert len(answers) == left, f"after {seconds} s"


async def test_a_version_that_cannot_be_fetched_leaves_the_bundled_one() -> None:
    policy, _ = make_policy(None, good(1))
    policy.outdated()
    await policy.refresh(unfetchable, linked=True)
    assert policy.present() is None
    policy.connected_with(GOOD)
    assert policy.present() is None
    assert policy.claim.facts() == {"version": ".".join(map(str, GOOD)), "source": "bundled", "at": None}


@pytest.mark.parametrize(
    ("last_good", "doubtful", "because"),
    [
        (None, True, "the bundled one may be of any age"),
        (good(31), True, "months old"),
        (good(29), False, "it worked this month"),
        (VersionClaim(version=GOOD, source="kept"), True, "of unknown age"),
    ],
)
async def test_a_version_that_may_be_stale_is_said_when_no_other_could_be_fetched(
    last_good: VersionClaim | None, doubtful: bool, because: str
) -> None:
    policy, _ = make_policy(None, last_good)
    assert policy.doubt() is None, "nothing has failed yet"
    await policy.refresh(unfetchable, linked=False)
    assert (policy.doubt() is not None) == doubtful, because


@pytest.mark.parametrize(
    ("status", "body", "expected", "because"),
    [
        (200, 'x={"client_revision":1023223821}', (2, 3000, 1023223821), "as WhatsApp writes it"),
        (200, r"x=\"client_revision\":1023223821", (2, 3000, 1023223821), "escaped inside a string"),
        (200, "<html>captcha</html>", None, "another page"),
        (500, '{"client_revision":1023223821}', None, "an error page"),
    ],
)
async def test_the_present_version_is_read_from_whatsapps_script(
    status: int, body: str, expected: Version | None, because: str
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    assert await fetch_version(client=httpx.AsyncClient(transport=transport)) == expected, because


async def test_a_script_without_end_is_not_read_to_its_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += len(PAGE)
            yield PAGE

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=endless()))
    assert await fetch_version(client=httpx.AsyncClient(transport=transport)) is None
    assert read <= SCRIPT_BYTES_MAX + len(PAGE)


async def test_a_network_that_is_down_gives_no_version() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert await fetch_version(client=httpx.AsyncClient(transport=httpx.MockTransport(refuse))) is None


async def test_whatsapp_is_asked_as_a_browser_asks() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, text='{"client_revision":1023223821}')

    await fetch_version(client=httpx.AsyncClient(transport=httpx.MockTransport(answer)))
    assert str(seen[0].url) == "https://web.whatsapp.com/sw.js"
    assert re.fullmatch(
        r"Mozilla/5\.0 \(.+\) AppleWebKit/.+ Chrome/[\d.]+ Safari/[\d.]+", seen[0].headers["user-agent"]
    )


@pytest.mark.parametrize("stored", [None, "2.3000.1", [2, 3000], [2, 3000, "1"], {}, 5])
def test_a_stored_version_that_makes_no_sense_is_none(stored: object) -> None:
    assert parse_kept({"version": stored, "version_at": "2026-01-31T12:00:00+00:00"}) is None


@pytest.mark.parametrize("at", [None, "yesterday", "2026-01-31T12:00:00", 5])
def test_a_stored_version_without_a_time_is_of_unknown_age(at: object) -> None:
    assert parse_kept({"version": list(GOOD), "version_at": at}) == VersionClaim(version=GOOD, source="kept")

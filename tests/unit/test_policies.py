"""Small pure rules: the backoff, the sidecar's crashes, the watchdog's verdict, the client version."""

from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.bridge.protocol import Pong
from worker.session.backoff import LOOP_AFTER, LOOP_SECONDS, Crashes, next_delay
from worker.session.version import SCRIPT_BYTES_MAX, VersionPolicy, fetch_version, parse_version
from worker.session.watchdog import LOOP_LAG_MS, STANZA_STUCK_MS, judge
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


@given(st.integers(0, 5000), st.floats(0, 0.5), st.floats(0.001, 60), st.floats(0.001, 3600))
def test_the_backoff_never_shrinks_and_stays_within_its_bounds(
    attempt: int, jitter: float, base: float, cap: float
) -> None:
    delay = next_delay(attempt, jitter, base, cap)
    assert min(base, cap) <= delay <= cap + 0.5
    assert next_delay(attempt + 1, jitter, base, cap) >= delay


def test_attempts_are_counted_from_0() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        next_delay(-1, 0.0, 1.0, 30.0)


def test_a_sidecar_that_keeps_ending_is_no_hot_loop() -> None:
    crashes = Crashes(base=1.0, cap=30.0)
    delays = [crashes.note(0.1, 0.0) for _ in range(LOOP_AFTER + 2)]
    assert delays[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert delays[LOOP_AFTER - 1 :] == [LOOP_SECONDS] * 3
    assert crashes.looping


def test_a_sidecar_that_lived_long_starts_the_count_anew() -> None:
    crashes = Crashes(base=1.0, cap=30.0)
    for _ in range(LOOP_AFTER):
        crashes.note(0.1, 0.0)
    assert crashes.note(3600.0, 0.0) == 1.0
    assert not crashes.looping


def pong(**changes: float | None) -> Pong:
    figures: dict[str, float | None] = {
        "rss_bytes": 1, "heap_bytes": 1, "log_items": 0, "log_bytes": 0, "log_bytes_max": 0, "held_frames": 0,
        "longest_hold_ms": 0, "open_sections": 0, "loop_lag_ms": 1, "stanzas_in": 0, "stanzas_out": 0,
        "oldest_stanza_ms": None, "last_stanza_at_ms": None, "swallowed": 0,
    }  # fmt: skip
    return Pong.model_validate({**figures, **changes})


@pytest.mark.parametrize(
    ("figures", "away", "stalled", "because"),
    [
        ({}, False, False, "silence in a quiet group is no stall"),
        ({"last_stanza_at_ms": 1}, False, False, "a day without a message is no stall"),
        ({"oldest_stanza_ms": STANZA_STUCK_MS + 1}, False, True, "begun and never ended"),
        ({"oldest_stanza_ms": STANZA_STUCK_MS}, False, False, "still within two queries' time-outs"),
        ({"oldest_stanza_ms": STANZA_STUCK_MS + 1}, True, False, "it waits for the database: another rule"),
        ({"loop_lag_ms": LOOP_LAG_MS + 1}, False, True, "too busy to do anything"),
    ],
)
def test_a_stall_is(figures: dict[str, float], away: bool, stalled: bool, because: str) -> None:
    assert (judge(pong(**figures), database_away=away) is not None) is stalled, because


PINNED, GOOD, FETCHED = (2, 1, 1), (2, 2, 2), (2, 3000, 333333333)


async def fetched() -> Version | None:
    return FETCHED


async def unfetchable() -> Version | None:
    return None


async def test_the_operators_version_wins_over_all() -> None:
    policy = VersionPolicy(PINNED, GOOD, lambda _: None)
    policy.outdated()
    await policy.refresh(fetched)
    assert policy.present() == PINNED


async def test_the_last_good_version_is_used_until_whatsapp_refuses_it() -> None:
    kept: list[Version] = []
    policy = VersionPolicy(None, GOOD, kept.append)
    await policy.refresh(fetched)
    assert policy.present() == GOOD, "nothing is fetched without need"
    policy.outdated()
    await policy.refresh(fetched)
    assert policy.present() == FETCHED
    assert kept == []
    policy.worked()
    assert kept == [FETCHED], "it is kept once it has worked"


async def test_a_version_that_cannot_be_fetched_leaves_the_bundled_one() -> None:
    policy = VersionPolicy(None, GOOD, lambda _: None)
    policy.outdated()
    await policy.refresh(unfetchable)
    assert policy.present() is None


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
    assert await fetch_version(httpx.AsyncClient(transport=transport)) == expected, because


async def test_a_script_without_end_is_not_read_to_its_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += len(PAGE)
            yield PAGE

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=endless()))
    assert await fetch_version(httpx.AsyncClient(transport=transport)) is None
    assert read <= SCRIPT_BYTES_MAX + len(PAGE)


async def test_a_network_that_is_down_gives_no_version() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert await fetch_version(httpx.AsyncClient(transport=httpx.MockTransport(refuse))) is None


@pytest.mark.parametrize("stored", [None, "2.3000.1", [2, 3000], [2, 3000, "1"], {}, 5])
def test_a_stored_version_that_makes_no_sense_is_none(stored: object) -> None:
    assert parse_version(stored) is None

"""First arrivals are kept for monitored groups alone, until they are durable, and within bounds."""

from __future__ import annotations

import pytest

from testkit.stanzas import NOW_MS, NOW_S
from worker.bridge.protocol import Arrived, ArrivedStanza
from worker.ingest import first_arrivals
from worker.ingest.first_arrivals import FirstArrivals

MARKET = "1203@g.us"


def attrs(**other: str) -> dict[str, str]:
    return {"from": MARKET, "participant": "2001@lid", "id": "A1", "t": str(NOW_S), **other}


def arrived(*stanzas: dict[str, str], at_ms: int = NOW_MS, offset: float | None = None) -> Arrived:
    told = [ArrivedStanza(attrs=each, at_ms=at_ms) for each in stanzas]
    return Arrived(server_time_offset_ms=offset, stanzas=told)


def test_the_first_time_stays_by_whatsapps_clock_whatever_comes_later() -> None:
    first = FirstArrivals({MARKET})
    first.note(arrived(attrs(), offset=2000.0))
    first.note(arrived(attrs(), at_ms=NOW_MS + 90_000))
    assert first.of({**attrs(), "offline": "1", "notify": "Ana"}) == NOW_S + 2


@pytest.mark.parametrize("other", [{"id": "A2"}, {"participant": "2002@lid"}, {"t": "1"}, {"from": "1204@g.us"}])
def test_another_message_is_not_taken_for_it(other: dict[str, str]) -> None:
    first = FirstArrivals({MARKET, "1204@g.us"})
    first.note(arrived(attrs()))
    assert first.of(attrs(**other)) is None


def test_nothing_is_kept_of_chats_that_are_not_monitored_nor_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_arrivals, "ARRIVALS_MAX", 3)
    first = FirstArrivals({MARKET})
    first.note(arrived(attrs(**{"from": "1204@g.us"})))
    assert len(first) == 0
    first.note(arrived(*(attrs(id=str(number)) for number in range(5))))
    assert [number for number in range(5) if first.of(attrs(id=str(number))) is not None] == [2, 3, 4]

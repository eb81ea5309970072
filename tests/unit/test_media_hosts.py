"""Which hosts are asked for files, and when WhatsApp is asked for their names."""

from __future__ import annotations

import pytest

from worker.bridge.protocol import MediaHostList
from worker.errors import MediaUnavailable
from worker.media.address import DEFAULT_HOST
from worker.media.hosts import ASK_AGAIN_SECONDS, MOST_HOSTS, MediaHosts

pytestmark = pytest.mark.anyio

A, B = "a.whatsapp.net", "b.whatsapp.net"


class WhatsApp:
    """What it says, how often it was asked, and the time."""

    def __init__(self, *hosts: str, ttl_s: float = 300.0) -> None:
        self.hosts = list(hosts)
        self.ttl_s = ttl_s
        self.asked = 0
        self.now = 1_000.0
        self.away = False

    async def ask(self) -> MediaHostList:
        self.asked += 1
        if self.away:
            raise MediaUnavailable("no phone is linked at the moment")
        return MediaHostList(hosts=self.hosts, ttl_s=self.ttl_s)

    def make(self) -> MediaHosts:
        return MediaHosts(self.ask, lambda: self.now)


async def test_the_named_hosts_come_first_and_the_one_that_has_everything_last() -> None:
    assert await WhatsApp(A, B).make().current() == (A, B, DEFAULT_HOST)
    assert await WhatsApp(DEFAULT_HOST, A).make().current() == (DEFAULT_HOST, A)
    assert await MediaHosts().current() == (DEFAULT_HOST,), "a process without a phone"


async def test_names_that_are_not_whatsapps_and_too_many_are_dropped() -> None:
    strangers = ("files.example.net", "127.0.0.1", "", f"{A}:8443")
    assert await WhatsApp(*strangers, A).make().current() == (A, DEFAULT_HOST)
    many = WhatsApp(*(f"h{number}.whatsapp.net" for number in range(50)))
    assert len(await many.make().current()) == MOST_HOSTS + 1


@pytest.mark.parametrize(
    ("ttl_s", "still", "over", "why"),
    [
        (300.0, 299.0, 301.0, "as long as WhatsApp says"),
        (0.0, ASK_AGAIN_SECONDS - 1, ASK_AGAIN_SECONDS + 1, "not for each file"),
        (-5.0, ASK_AGAIN_SECONDS - 1, ASK_AGAIN_SECONDS + 1, "nor for nonsense"),
        (1e12, 86_399.0, 86_401.0, "never for ever"),
    ],
)
async def test_an_answer_holds(ttl_s: float, still: float, over: float, why: str) -> None:
    whatsapp = WhatsApp(A, ttl_s=ttl_s)
    hosts = whatsapp.make()
    await hosts.current()
    whatsapp.hosts = [B]
    whatsapp.now += still
    assert (await hosts.current())[0] == A, why
    whatsapp.now += over - still
    assert (await hosts.current())[0] == B, why


async def test_a_host_that_failed_comes_last_until_the_next_answer() -> None:
    whatsapp = WhatsApp(A, B)
    hosts = whatsapp.make()
    await hosts.current()
    hosts.put_last(A)
    hosts.put_last("c.whatsapp.net")
    assert await hosts.current() == (B, DEFAULT_HOST, A)
    whatsapp.now += 301
    assert await hosts.current() == (A, B, DEFAULT_HOST)


async def test_without_an_answer_the_last_one_is_used_and_it_is_asked_again_later() -> None:
    whatsapp = WhatsApp(A)
    hosts = whatsapp.make()
    await hosts.current()
    whatsapp.away = True
    whatsapp.now += 301
    assert await hosts.current() == (A, DEFAULT_HOST)
    assert await hosts.current() == (A, DEFAULT_HOST)
    assert whatsapp.asked == 2
    whatsapp.away, whatsapp.hosts = False, [B]
    whatsapp.now += ASK_AGAIN_SECONDS
    assert (await hosts.current())[0] == B

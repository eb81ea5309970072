"""Which addresses are fetched from: WhatsApp's hosts over https; a local server may stand for all of them."""

from __future__ import annotations

import pytest

from worker.errors import MediaRefused
from worker.media.address import Address, addresses, is_whatsapp_host

ORIGIN = "https://127.0.0.1:8443"


@pytest.mark.parametrize(
    ("direct_path", "url", "origin", "expected", "why"),
    [
        ("/v/a.enc?x=1", None, None, "https://mmg.whatsapp.net/v/a.enc?x=1", "the path, on WhatsApp's host"),
        ("/v/a.enc", "https://evil.example/a", None, "https://mmg.whatsapp.net/v/a.enc", "the path beats the url"),
        (
            None,
            "https://media-fra3-1.cdn.whatsapp.net/a",
            None,
            "https://media-fra3-1.cdn.whatsapp.net/a",
            "one of its hosts",
        ),
        ("", "https://mmg.whatsapp.net/a", None, "https://mmg.whatsapp.net/a", "an empty path is none"),
        (None, "https://MMG.WhatsApp.NET/a", None, "https://mmg.whatsapp.net/a", "hosts have no case"),
        ("/a.enc", "https://mmg.whatsapp.net/a", ORIGIN, ORIGIN + "/a.enc", "a local server takes its place"),
        (None, "https://mmg.whatsapp.net/a?x=1", ORIGIN, ORIGIN + "/a?x=1", "also that of the url"),
        ("//evil.example/a", None, ORIGIN, ORIGIN + "//evil.example/a", "nor does it leave the local server"),
        ("//evil.example/a", None, None, "https://mmg.whatsapp.net//evil.example/a", "a path stays a path"),
    ],
)
def test_an_address_is_fetched(
    direct_path: str | None, url: str | None, origin: str | None, expected: str, why: str
) -> None:
    (address,) = addresses(direct_path, url, origin=origin)[:1]
    assert str(address.url) == expected, why


@pytest.mark.parametrize(
    ("direct_path", "url", "origin", "why"),
    [
        (None, None, None, "none given"),
        ("@evil.example/a", None, None, "the path would become a host"),
        (".evil.example/a", None, None, "and so would this"),
        (":8443/a", None, None, "and this a port"),
        (None, "http://mmg.whatsapp.net/a", None, "not encrypted"),
        (None, "https://mmg.whatsapp.net:8443/a", None, "another port"),
        (None, "https://evil.example/a", None, "another host"),
        (None, "https://whatsapp.net.evil.example/a", None, "a host that begins like WhatsApp's"),
        (None, "https://evilwhatsapp.net/a", None, "a host that ends almost like WhatsApp's"),
        (None, "https://whatsapp.net/a", None, "no host of files"),
        (None, "https://mmg.whatsapp.net@evil.example/a", None, "a user name that looks like the host"),
        (None, "https://user:word@mmg.whatsapp.net/a", None, "credentials"),
        (None, "https://mmg.whatsapp.net\\@evil.example/a", None, "a backslash"),
        (None, "https://127.0.0.1/a", None, "this machine"),
        (None, "https://[::1]/a", None, "this machine, in the other protocol"),
        (None, "https://169.254.169.254/latest/meta-data", None, "the cloud's own service"),
        (None, "https://mmg.whatsapp.net./a", None, "the same host in another writing"),
        (None, "file:///etc/passwd", None, "no web address"),
        (None, "https://", None, "no host"),
        (None, "/relative", None, "no host either"),
        (None, "https://mmg.whatsapp.net:99999/", None, "no such port"),
        (None, "https://a b.whatsapp.net/", None, "not an address"),
        (None, "https://xn--whatsapp-.net/", None, "a name that IDNA cannot decode"),
        (None, "https://xn--0.whatsapp.net.example/", None, "nor this one"),
        (None, "https://evil.example/a", ORIGIN, "with a local server the same names are refused"),
        (None, "https://127.0.0.1:8443/a", ORIGIN, "and its own is none of a sender's"),
        ("@evil.example/a", None, ORIGIN, "and a path is none"),
    ],
)
def test_an_address_is_refused(direct_path: str | None, url: str | None, origin: str | None, why: str) -> None:
    with pytest.raises(MediaRefused) as refused:
        addresses(direct_path, url, origin=origin)
    assert "/a" not in str(refused.value), why


def tried(*found: Address) -> list[str]:
    return [f"{address.host} {address.url}" for address in found]


def test_a_path_is_tried_on_every_host_in_turn() -> None:
    found = addresses("/a?x=1", "https://c.whatsapp.net/b", ("a.whatsapp.net", "b.whatsapp.net"))
    assert tried(*found) == [
        "a.whatsapp.net https://a.whatsapp.net/a?x=1",
        "b.whatsapp.net https://b.whatsapp.net/a?x=1",
    ]


def test_without_a_path_the_url_is_first_and_then_its_path_on_the_others() -> None:
    found = addresses(None, "https://b.whatsapp.net/a?x=%20", ("a.whatsapp.net", "b.whatsapp.net"), ORIGIN)
    assert tried(*found) == [f"b.whatsapp.net {ORIGIN}/a?x=%20", f"a.whatsapp.net {ORIGIN}/a?x=%20"]


@pytest.mark.parametrize("host", ["xn--a.whatsapp.net", "xn--bcher-kva.whatsapp.net"])
def test_an_international_name_is_asked_for_as_it_is_written(host: str) -> None:
    (first, *others) = addresses(None, f"https://{host}/f")
    assert (first.host, first.url.raw_host.decode(), len(others)) == (host, host, 1)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "whatsapp.net", "mmg.whatsapp.net.", "mmg.whatsapp.net:1", "127.0.0.1", ""],
)
def test_a_host_is_not_whatsapps_whoever_named_it(host: str) -> None:
    assert not is_whatsapp_host(host)
    with pytest.raises(MediaRefused):
        addresses("/a", None, (host,))

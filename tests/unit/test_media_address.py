"""Which addresses are fetched from: WhatsApp's hosts over https, or the one origin of a local server."""

from __future__ import annotations

import pytest

from worker.errors import MediaRefused
from worker.media.download import media_address

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
        (None, ORIGIN + "/a.enc", ORIGIN, ORIGIN + "/a.enc", "an address on the local server"),
        ("//evil.example/a", None, None, "https://mmg.whatsapp.net//evil.example/a", "a path stays a path"),
    ],
)
def test_an_address_is_fetched(
    direct_path: str | None, url: str | None, origin: str | None, expected: str, why: str
) -> None:
    assert str(media_address(direct_path, url, origin)) == expected, why


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
        (None, "https://mmg.whatsapp.net/a", ORIGIN, "with a local server, nothing else is fetched"),
        (None, "https://127.0.0.1:8444/a", ORIGIN, "nor another port of it"),
        (None, "http://127.0.0.1:8443/a", ORIGIN, "nor without encryption"),
        ("@evil.example/a", None, ORIGIN, "nor by a path that is none"),
    ],
)
def test_an_address_is_refused(direct_path: str | None, url: str | None, origin: str | None, why: str) -> None:
    with pytest.raises(MediaRefused) as refused:
        media_address(direct_path, url, origin)
    assert "/a" not in str(refused.value), why

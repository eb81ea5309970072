"""The addresses to fetch a file from: WhatsApp's own hosts, over TLS, in turn.

The sender chooses the path or, without a path, the whole address. So every host is checked here, whoever named it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from worker.errors import MediaRefused

DEFAULT_HOST = "mmg.whatsapp.net"  # serves every path; used until WhatsApp has named its hosts
_HOST = re.compile(rb"([a-z0-9-]+\.)+whatsapp\.net")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """One address of a file. `host`: WhatsApp's. `url`: that host, or the local server that replaces it."""

    host: str
    url: httpx.URL


def is_whatsapp_host(host: str) -> bool:
    """Whether to fetch from this host: a name under whatsapp.net, in normal form."""
    return _HOST.fullmatch(host.encode(errors="replace")) is not None


def addresses(
    direct_path: str | None, url: str | None, hosts: Sequence[str] = (DEFAULT_HOST,), origin: str | None = None
) -> tuple[Address, ...]:
    """The addresses to try in turn: the path on each of `hosts`; without a path, the url, then its path on the others.

    `origin`: a local server to connect to instead (WA_MEDIA_ORIGIN).

    Raises:
        MediaRefused: there is no address, or we do not fetch from it.
    """
    if direct_path:
        if not direct_path.startswith("/"):
            raise MediaRefused("the path does not start with /")
        places = [_checked(f"https://{host}{direct_path}") for host in hosts]
    elif url:
        given = _checked(url)
        path = given.raw_path.decode("ascii")
        places = [given, *(_checked(f"https://{host}{path}") for host in hosts if host != _host(given))]
    else:
        raise MediaRefused("the message has no address")
    return tuple(Address(host=_host(place), url=_redirected(place, origin)) for place in places)


def _host(place: httpx.URL) -> str:
    """The host as used to connect. `URL.host` decodes international names, which can fail."""
    return place.raw_host.decode("ascii")


def _redirected(place: httpx.URL, origin: str | None) -> httpx.URL:
    return place if origin is None else httpx.URL(origin + place.raw_path.decode("ascii"))


def _checked(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise MediaRefused("the address cannot be read") from None
    if url.userinfo:
        raise MediaRefused("the address contains a user name")
    if url.scheme != "https" or url.port is not None:
        raise MediaRefused("the address is not plain https")
    if _HOST.fullmatch(url.raw_host) is None:
        raise MediaRefused("the host is not WhatsApp's")
    return url

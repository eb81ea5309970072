"""Where a file may be fetched from: WhatsApp's own hosts, over TLS, one after the other.

The sender chooses the path, and without a path the whole address. So every host is checked here, whoever named it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from worker.errors import MediaRefused

DEFAULT_HOST = "mmg.whatsapp.net"  # has every path; for the time before WhatsApp has named its hosts
_HOST = re.compile(rb"([a-z0-9-]+\.)+whatsapp\.net")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """One place of a file. `host` is WhatsApp's; `url` leads there, or to the local server that stands for it."""

    host: str
    url: httpx.URL


def is_whatsapp_host(host: str) -> bool:
    """Whether files may come from this host: a name under whatsapp.net, written in the one usual way."""
    return _HOST.fullmatch(host.encode(errors="replace")) is not None


def addresses(
    direct_path: str | None, url: str | None, hosts: Sequence[str] = (DEFAULT_HOST,), origin: str | None = None
) -> tuple[Address, ...]:
    """The places to try in turn: the path on each of `hosts`; without one, the url, then its path on the others.

    `origin`: a local server that is connected to instead of all of them (WA_MEDIA_ORIGIN).

    Raises:
        MediaRefused: there is no address, or it is not one that we fetch from.
    """
    if direct_path:
        if not direct_path.startswith("/"):
            raise MediaRefused("the path of the file does not start at the root")
        places = [_checked(f"https://{host}{direct_path}") for host in hosts]
    elif url:
        given = _checked(url)
        path = given.raw_path.decode("ascii")
        places = [given, *(_checked(f"https://{host}{path}") for host in hosts if host != _host(given))]
    else:
        raise MediaRefused("the message names no address")
    return tuple(Address(host=_host(place), url=_redirected(place, origin)) for place in places)


def _host(place: httpx.URL) -> str:
    """As it is connected to. `URL.host` decodes international names, which can fail."""
    return place.raw_host.decode("ascii")


def _redirected(place: httpx.URL, origin: str | None) -> httpx.URL:
    return place if origin is None else httpx.URL(origin + place.raw_path.decode("ascii"))


def _checked(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise MediaRefused("the address cannot be read") from None
    if url.userinfo:
        raise MediaRefused("the address holds a user name")
    if url.scheme != "https" or url.port is not None:
        raise MediaRefused("the address is not plain https")
    if _HOST.fullmatch(url.raw_host) is None:
        raise MediaRefused("the host is not WhatsApp's")
    return url

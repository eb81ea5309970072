"""Outbound connections: through the proxy in HTTPS_PROXY or directly, and explanations of failures.

One setting for everything: Supabase, files, the client version, and the sidecar's socket to WhatsApp. Only TLS goes
through a proxy. This machine itself and hosts in NO_PROXY are always reached directly. HTTP_PROXY is ignored.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from worker.errors import SettingsError
from worker.settings import variables

NAME = "HTTPS_PROXY"
# WhatsApp answers other clients with another page (docs/whatsapp.md, "The real server in 2026").
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
TLS_SCHEMES = ("https", "wss")


def proxy_for(url: str, environment: Mapping[str, str] | None = None, *, own: str | None = None) -> str | None:
    """The proxy for this address, as a URL that may contain a password; None: connect directly.

    `environment`: by default the process's, which overrides `.env`. `own`: a session's proxy, which ignores NO_PROXY.

    Raises:
        SettingsError: HTTPS_PROXY is not a proxy's address.
    """
    names = variables() if environment is None else environment
    parts = urlsplit(url)
    if parts.scheme not in TLS_SCHEMES or is_loopback(parts.hostname or ""):
        return None
    if own:
        return own
    proxy = names.get("https_proxy") or names.get(NAME)
    spared = names.get("no_proxy") or names.get("NO_PROXY") or ""
    if not proxy or is_spared(parts.hostname or "", spared):
        return None
    return checked_proxy(proxy.strip(), NAME)


def is_spared(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY covers this host: by name, by a parent domain, or with `*`."""
    listed = [entry.strip().lower() for entry in no_proxy.split(",")]
    domains = [entry.rpartition(":")[0] if entry.rpartition(":")[2].isdigit() else entry for entry in listed]
    domains = [entry.lstrip("*").lstrip(".") for entry in domains]
    return "*" in listed or any(host == entry or host.endswith(f".{entry}") for entry in domains if entry)


def checked_proxy(proxy: str, name: str) -> str:
    """The proxy as a URL.

    Raises:
        SettingsError: it is not a proxy's address. `name`: the setting's name.
    """
    if " " in proxy or not proxy.isprintable():  # urlsplit drops line ends and tabs, httpx refuses them only later
        raise SettingsError(f"{name}: the address of a proxy has no spaces, line ends or other control characters")
    full = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(full)
        httpx.URL(full)  # fails now instead of at the first connection
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        valid = False
    if not valid:
        raise SettingsError(f"{name}: should be the address of an HTTP proxy, like http://proxy.example:3128")
    return full


def without_password(proxy: str) -> str:
    """The proxy without user and password, safe to show, even if the address is invalid."""
    return re.sub(r"^(\w+://)?.*@", r"\1", proxy, flags=re.DOTALL)


def is_loopback(host: str) -> bool:
    """Whether this host is this machine, judged by its name or address, without a DNS lookup."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def http_client(url: str, *, own_proxy: str | None = None, **options: Any) -> httpx.AsyncClient:
    """A client for this address only. Trusts the CAs in SSL_CERT_FILE, or else certifi's.

    `own_proxy`: a session's. Uses nothing else from the environment: no other proxy, no `.netrc`.
    """
    given = {"verify": trusted(), **options}
    return httpx.AsyncClient(trust_env=False, proxy=proxy_for(url, own=own_proxy), **given)


def trusted() -> ssl.SSLContext:
    """The trusted CAs. Not the system's store: slim container images have none."""
    return _trusted(os.environ.get("SSL_CERT_FILE"))


@cache
def _trusted(own: str | None) -> ssl.SSLContext:
    # One for all clients of the process: reading the CAs takes 20 ms.
    return ssl.create_default_context(cafile=own) if own else httpx.create_ssl_context(trust_env=False)


def why(error: BaseException) -> str:
    """The cause of a failed connection in words, without addresses or content."""
    for one in _causes(error):
        match one:
            case httpx.ProxyError():
                status = re.match(r"\d{3}", str(one))
                return f"the proxy ({NAME}) refuses" + (f": HTTP {status[0]}" if status else "")
            case socket.gaierror():
                return "its name cannot be resolved (DNS)"
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted (TLS: {one.verify_message})"
            case ssl.SSLError():
                reason = getattr(one, "reason", None)
                return "no TLS can be agreed on" + (f" ({reason})" if reason else "")
            case ConnectionRefusedError():
                return "the connection is refused"
            case OSError(errno=int()) if one.strerror and not isinstance(one, TimeoutError):
                return one.strerror.lower()
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    return type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, including those in exception groups."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]

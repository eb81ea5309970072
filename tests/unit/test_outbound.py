"""Which connections take the proxy, and what a failed one is called."""

from __future__ import annotations

import socket
import ssl

import httpx
import pytest

from worker.errors import SettingsError
from worker.outbound import proxy_for, why, without_password
from worker.session.closes import Close, Reconnect, decide
from worker.session_settings import parse_session_settings

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "environment", "proxy", "because"),
    [
        ("https://x.supabase.co", {"HTTPS_PROXY": PROXY}, PROXY, "it is set"),
        ("wss://web.whatsapp.com/ws/chat", {"https_proxy": PROXY}, PROXY, "WhatsApp's socket leaves, too"),
        ("https://x.supabase.co", {"HTTPS_PROXY": "proxy.example:3128"}, PROXY, "a scheme is optional"),
        ("https://x.supabase.co", {}, None, "none is set"),
        ("https://x.supabase.co", {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None, "there is one setting"),
        ("http://10.0.0.5:8000", {"HTTPS_PROXY": PROXY}, None, "no TLS"),
        ("https://127.0.0.1:1", {"HTTPS_PROXY": PROXY}, None, "loopback"),
        ("https://[::1]:1", {"HTTPS_PROXY": PROXY}, None, "loopback"),
        ("wss://localhost:1", {"HTTPS_PROXY": PROXY}, None, "loopback"),
        ("https://x.supabase.co", {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.b, supabase.co"}, None, "its domain is listed"),
        ("https://x.supabase.co", {"HTTPS_PROXY": PROXY, "NO_PROXY": ".supabase.co:443"}, None, "as curl writes it"),
        ("https://x.supabase.co", {"HTTPS_PROXY": PROXY, "no_proxy": "*"}, None, "everything is listed"),
        ("https://xsupabase.co", {"HTTPS_PROXY": PROXY, "NO_PROXY": "supabase.co"}, PROXY, "another domain"),
    ],
)  # fmt: skip
def test_the_proxy_of_an_address(url: str, environment: dict[str, str], proxy: str | None, because: str) -> None:
    assert proxy_for(url, environment) == proxy, because


@pytest.mark.parametrize(
    "proxy", ["socks5://proxy.example:1080", "http://", "http://proxy.example:port", "http://xn--\u00fc.example:3128"]
)
def test_what_is_no_http_proxy_is_a_wrong_setting(proxy: str) -> None:
    with pytest.raises(SettingsError, match="HTTPS_PROXY"):
        proxy_for("https://x.supabase.co", {"HTTPS_PROXY": proxy})


@pytest.mark.parametrize(
    "proxy", ["me:pla\nted@p:3128", "http://p:31\t28", "http://p\x7f:1", "http://a b:1", "p\u2028:1"]
)
def test_a_proxy_with_what_cannot_be_printed_is_a_wrong_setting_and_is_not_repeated(proxy: str) -> None:
    with pytest.raises(SettingsError, match=r"^HTTPS_PROXY: the address of a proxy has no spaces") as wrong:
        proxy_for("https://x.supabase.co", {"HTTPS_PROXY": proxy})
    assert "ted" not in str(wrong.value)
    with pytest.raises(SettingsError, match=r"^settings\.proxy: the address of a proxy has no spaces"):
        parse_session_settings({"proxy": proxy})


def test_a_proxy_is_named_without_its_password() -> None:
    assert without_password("http://me:secret@proxy.example:3128") == PROXY
    assert without_password(PROXY) == PROXY
    assert without_password("me:secret@proxy.example:3128") == "proxy.example:3128"
    assert without_password("http://me:sec/r@et\n@proxy.example:3128") == PROXY, "as an app may have written it"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (caused(httpx.ConnectError(""), socket.gaierror(-2, "x")), "its name cannot be resolved (DNS)"),
        (caused(httpx.ConnectError(""), ConnectionRefusedError(111, "x")), "the connection is refused"),
        (caused(httpx.ConnectError(""), ssl.SSLError(1, "[SSL] x")), "no TLS can be agreed on"),
        (httpx.ProxyError("407 Proxy Authentication Required"), "the proxy (HTTPS_PROXY) refuses: HTTP 407"),
        (httpx.ConnectTimeout(""), "no answer in time"),
        (httpx.ReadError("something private"), "ReadError"),
    ],
)  # fmt: skip
def test_a_failed_connection_says_its_cause(error: Exception, words: str) -> None:
    assert why(error) == words


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("WebSocket Error (getaddrinfo ENOTFOUND web.whatsapp.com)", "DNS"),
        ("WebSocket Error (connect ECONNREFUSED 127.0.0.1:443)", "refused"),
        ("WebSocket Error (Failed to establish tunnel to web.whatsapp.com:443 via …: HTTP/1.1 502)", "HTTPS_PROXY"),
        ("WebSocket Error (self-signed certificate)", "TLS"),
        ("WebSocket Error (unable to verify the first certificate)", "TLS"),
        ("WebSocket Error (write EPROTO 40AD:error:0A00010B:SSL routines::wrong version number)", "no TLS"),
        ("WebSocket Error (Unexpected server response: 302)", "redirect"),
    ],
)
@pytest.mark.parametrize("code", [408, 500])  # which of them depends on the name of Node's error
def test_a_socket_that_cannot_be_made_says_its_cause_and_is_tried_again(message: str, words: str, code: int) -> None:
    decision = decide(Close(code=code, message=message, phase="connecting"))
    assert isinstance(decision, Reconnect)
    assert words in decision.say

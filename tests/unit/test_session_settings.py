"""What a session may have of its own instead of its host's settings."""

from __future__ import annotations

from typing import Any

import pytest

from worker.errors import SettingsError
from worker.outbound import proxy_for
from worker.session_settings import PREFIX, SessionSettings, parse_session_settings
from worker.settings import Settings

HOST = Settings(_env_file=None, worker_session="host", worker_revoke="blank", worker_catch_up_s=60)  # type: ignore[call-arg]


def test_what_a_session_does_not_say_is_as_its_host_has_it() -> None:
    mine = parse_session_settings({"catch_up_s": 86_400, "expire": None}).over(HOST, "mine")
    assert (mine.worker_session, mine.worker_catch_up_s) == ("mine", 86_400)
    assert (mine.worker_revoke, mine.worker_expire) == ("blank", HOST.worker_expire)
    assert (HOST.worker_session, HOST.worker_catch_up_s, HOST.proxy) == ("host", 60, None)


def test_each_name_is_a_setting_of_the_host_and_bounded_as_there() -> None:
    names = SessionSettings.model_fields.keys() - {"proxy"}
    assert {PREFIX + name for name in names} <= Settings.model_fields.keys()
    for name in names - {"revoke", "expire", "passkey"}:
        with pytest.raises(SettingsError, match=rf"^settings\.{name}: should be a whole number from \d+ to \d+$"):
            parse_session_settings({name: 10**9})


def test_what_is_stored_reads_the_same() -> None:
    document = {"proxy": "http://user:planted@proxy.example:3128", "keep_days": 365, "passkey": True}
    settings = parse_session_settings({**document, "keep_days": "365", "revoke": None})
    assert settings.document() == document
    assert parse_session_settings(settings.document()) == settings


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"catch_up": 1}, "settings.catch_up: there is no such setting of a session"),
        ({"revoke": "planted"}, "settings.revoke: should be 'keep' or 'blank'"),
        ({"passkey": "planted"}, "settings.passkey: should be true or false"),
        ({"proxy": "ftp://user:planted@proxy.example"}, "settings.proxy: should be the address of an HTTP proxy"),
        ({"proxy": ["planted"]}, "settings.proxy: should be a valid string"),
        (["planted"], "settings: should be an object"),
        (None, "settings: should be an object"),
    ],
)
def test_a_wrong_one_is_named_and_its_value_is_not(document: Any, complaint: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        parse_session_settings(document)
    assert str(wrong.value).startswith(complaint)
    assert "planted" not in str(wrong.value)


def test_two_that_do_not_go_together_are_refused_on_that_host() -> None:
    with pytest.raises(SettingsError, match="WORKER_KEEP_DAYS"):
        parse_session_settings({"keep_days": 1, "catch_up_s": 30 * 86_400}).over(HOST, "mine")


def test_a_sessions_proxy_is_its_own_way_to_whatsapp_and_is_not_shown() -> None:
    mine = parse_session_settings({"proxy": "user:planted@proxy.example:3128"}).over(HOST, "mine")
    elsewhere = {"HTTPS_PROXY": "http://other.example:3128", "NO_PROXY": "*"}
    assert mine.proxy == "http://user:planted@proxy.example:3128"
    assert proxy_for("wss://web.whatsapp.com/ws/chat", elsewhere, own=mine.proxy) == mine.proxy
    assert proxy_for("ws://127.0.0.1:1", elsewhere, own=mine.proxy) is None, "a local server is reached directly"
    assert "planted" not in repr(mine)

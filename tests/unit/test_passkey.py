"""What WhatsApp asks a passkey's owner to sign, and what comes back by copy and paste: read, checked, stripped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from testkit.processes import ROOT
from worker.bridge.protocol import Assertion
from worker.commands.passkey import SCRIPT, make_script
from worker.session.passkey import NOT_AN_ANSWER, PasskeyRequest, read_assertion, read_options

Json = dict[str, Any]
OPTIONS: Json = {
    "challenge": "QkJCQkJC",
    "timeout": 600_000,
    "rpId": "whatsapp.com",
    "allowCredentials": [],
    "userVerification": "required",
    "extensions": {"uvm": True},
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def answer(
    *,
    type_: str = "webauthn.get",
    challenge: str = "QkJCQkJC",
    origin: Any = "https://web.whatsapp.com",
    rp_id: str = "whatsapp.com",
    flags: int = 5,
) -> Json:
    """As `toJSON()` of the browser gives it."""
    client = json.dumps({"type": type_, "challenge": challenge, "origin": origin}).encode()
    data = hashlib.sha256(rp_id.encode()).digest() + bytes([flags, 0, 0, 0, 1])
    response = {"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": "AAAA"}
    return {
        "id": "AQID",
        "rawId": "AQID",
        "type": "public-key",
        "response": {**response, "userHandle": "BBBB"},
        "authenticatorAttachment": "cross-platform",
        "clientExtensionResults": {},
    }


def test_options_are_kept_as_they_came_without_what_we_do_not_know() -> None:
    asked = read_options({**OPTIONS, "hints": ["x"], "extensions": {"uvm": True, "appid": "https://example.com"}})
    assert isinstance(asked, PasskeyRequest)
    assert asked.options == OPTIONS
    assert asked.seconds == 600


def test_credentials_lose_empty_lists_of_transports() -> None:
    listed = [{"id": "AQID", "type": "public-key", "transports": []}, {"id": "BB", "transports": ["internal"]}]
    asked = read_options({**OPTIONS, "allowCredentials": listed})
    assert isinstance(asked, PasskeyRequest)
    assert asked.options["allowCredentials"] == [
        {"id": "AQID", "type": "public-key"},
        {"id": "BB", "type": "public-key", "transports": ["internal"]},
    ]


@pytest.mark.parametrize(("timeout", "seconds"), [(1000, 1.0), (10**9, 600.0)])
def test_options_are_good_for_as_long_as_they_say_and_never_longer_than_ten_minutes(
    timeout: int, seconds: float
) -> None:
    asked = read_options({**OPTIONS, "timeout": timeout})
    assert isinstance(asked, PasskeyRequest)
    assert asked.seconds == seconds


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "cannot be read"),
        ({"challenge": "not base64url!"}, "cannot be read"),
        ({"challenge": None}, "cannot be read"),
        ({"timeout": -1}, "cannot be read"),
        ({"allowCredentials": [{"id": "<script>"}]}, "cannot be read"),
        ({"rpId": "whatsapp.com.example.com"}, "another site"),
    ],
)
def test_options_that_nobody_should_sign_are_refused(change: Json | None, why: str) -> None:
    fault = read_options(None if change is None else {**OPTIONS, **change})
    assert isinstance(fault, str)
    assert why in fault


@pytest.mark.parametrize("written", [lambda a: a, json.dumps, lambda a: json.dumps(a, indent=2) + "\n"])
def test_an_answer_is_stripped_to_what_travels(written: Callable[[Json], object]) -> None:
    given = answer()
    read = read_assertion(written(given), "QkJCQkJC")
    assert isinstance(read, Assertion)
    sent = read.model_dump()
    assert set(sent) == {"id", "rawId", "type", "response"}
    assert sent["response"] == given["response"]
    assert "AAAA" not in repr(read), "an assertion is no text for a log"


def test_an_answer_without_a_user_handle_has_null() -> None:
    given = answer()
    del given["response"]["userHandle"]
    read = read_assertion(given, "QkJCQkJC")
    assert isinstance(read, Assertion)
    assert read.response.userHandle is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(type_="webauthn.create"), "a new passkey"),
        (answer(challenge="older"), "an earlier one"),
        (answer(origin="https://example.com"), "another site"),
        (answer(origin="http://web.whatsapp.com"), "another site"),
        (answer(origin="https://notwhatsapp.com"), "another site"),
        (answer(origin=["https://web.whatsapp.com"]), "another site"),
        (answer(rp_id="example.com"), "another site"),
        (answer(flags=1), "fingerprint"),
    ],
)
def test_what_whatsapp_would_refuse_is_said_before_it_is_sent(given: Json, why: str) -> None:
    fault = read_assertion(given, "QkJCQkJC")
    assert isinstance(fault, str)
    assert why in fault


@pytest.mark.parametrize(
    "given",
    [
        None,
        7,
        "",
        "hello",
        "[" * 20_000,
        "{" * 40_000,
        {},
        {**answer(), "id": "other"},
        {**answer(), "type": "password"},
        {**answer(), "rawId": None},
        {**answer(), "response": {}},
        {**answer(), "response": {**answer()["response"], "signature": "=?"}},
        {**answer(), "response": {**answer()["response"], "clientDataJSON": b64(b"[]")}},
        {**answer(), "response": {**answer()["response"], "clientDataJSON": b64(b"\xff")}},
        {**answer(), "response": {**answer()["response"], "authenticatorData": "AAAA"}},
    ],
)
def test_what_is_no_answer_at_all_is_told_so(given: object) -> None:
    assert read_assertion(given, "QkJCQkJC") == NOT_AN_ANSWER


def test_the_script_that_link_shows_is_the_one_that_the_page_explains() -> None:
    assert f"```js{SCRIPT}```" in (ROOT / "docs" / "passkey.md").read_text()


def test_the_request_stands_in_the_script_as_json() -> None:
    script = make_script(OPTIONS)
    (line,) = [line for line in script.splitlines() if "const request" in line]
    assert json.loads(line.partition("=")[2]) == OPTIONS

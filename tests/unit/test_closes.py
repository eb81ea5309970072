"""What each close means: every row of docs/whatsapp.md, "Closes" and "The server's side", with its reason."""

from typing import Any

import pytest

from worker.session.closes import (
    DECISIONS,
    METRIC_LABELS,
    Close,
    CloseCode,
    Decision,
    FetchVersion,
    Halt,
    Idle,
    Phase,
    Reconnect,
    ReconnectNow,
    Relogin,
    decide,
)
from worker.web.metrics import CODES

TABLE: list[tuple[int | None, str, Phase, type[Any], str]] = [
    (401, "Connection Failure", "connecting", Relogin, "the phone unlinked us while we were away"),
    (401, "Stream Errored (conflict)", "open", Relogin, "device_removed: the phone unlinks us now"),
    (401, "Intentional Logout", "open", Reconnect, "not WhatsApp's word: never a reason to wipe"),
    (401, "something new", "open", Reconnect, "an unknown text never wipes"),
    (402, "Connection Failure", "connecting", Halt, "banned for a time"),
    (403, "Connection Failure", "connecting", Halt, "locked, or the main device is gone: keep the credentials"),
    (405, "Connection Failure", "connecting", FetchVersion, "the client is outdated: never wipe"),
    (406, "Connection Failure", "connecting", Halt, "banned"),
    (408, "Connection was lost", "open", Reconnect, "no answer to a keep-alive"),
    (408, "WebSocket Error (connect ECONNREFUSED)", "connecting", Reconnect, "a refused connection is 408 too"),
    (408, "QR refs attempts ended", "pairing", Idle, "nobody scanned: a person is needed, nothing is wrong"),
    (
        500,
        "WebSocket Error (self-signed certificate)",
        "connecting",
        Reconnect,
        "a login page of a network, not WhatsApp",
    ),
    (500, "WebSocket Error (Unexpected server response: 302)", "connecting", Reconnect, "the same, over HTTP"),
    (400, "Stream Errored", "open", Reconnect, "bad request: back off"),
    (409, "Connection Failure", "connecting", Reconnect, "bad user agent: back off"),
    (411, "Multi-device mismatch", "connecting", Relogin, "downgraded web client: pair again"),
    (413, "Connection Failure", "connecting", Halt, "token expired"),
    (414, "Connection Failure", "connecting", Halt, "token invalid"),
    (415, "Connection Failure", "connecting", Halt, "token unknown"),
    (418, "Connection Failure", "connecting", Halt, "unknown"),
    (428, "Connection Terminated", "open", Reconnect, "closed; also xmlstreamend, reset, close 1000 and 1011"),
    (440, "Stream Errored (conflict)", "open", Halt, "replaced: connecting again would start a fight without end"),
    (500, "Stream Errored (unknown)", "open", Reconnect, "the default of every stream error: no proof of anything"),
    (500, "Stream Errored (ack)", "open", Reconnect, "counted apart"),
    (500, "Connection Failure", "connecting", Reconnect, "never wipe on 500"),
    (501, "Connection Failure", "connecting", Reconnect, "experimental: back off"),
    (503, "Stream Errored", "open", Reconnect, "server restart"),
    (503, "HTTP 503 at the upgrade", "connecting", Reconnect, "the sidecar makes this of Baileys' silence"),
    (515, "Stream Errored (restart required)", "pairing", ReconnectNow, "always right after pairing"),
    (515, "Stream Errored (restart required)", "open", ReconnectNow, "and now and then later"),
    (
        None,
        "Unsupported state or unable to authenticate data",
        "connecting",
        Reconnect,
        "a garbled handshake has no code",
    ),
    (None, "Invalid signature!", "connecting", Halt, "the server's certificate is not genuine: no retry loop"),
    (None, "noise certificate signature invalid", "connecting", Halt, "the same, said by Baileys"),
    (None, "Invalid signature!", "pairing", Halt, "the account signature is not genuine"),
    (None, "closed by the worker", "open", Reconnect, "should not get here; harmless"),
    (599, "Stream Errored", "open", Reconnect, "an unknown code is a decision too"),
    (-1, "", "connecting", Reconnect, "nonsense is too"),
]


def meaning(code: int | None, message: str, phase: Phase = "open", data: object = None, immediate: int = 0) -> Decision:
    return decide(Close(code=code, message=message, phase=phase, data=data), immediate)


@pytest.mark.parametrize(("code", "message", "phase", "expected", "because"), TABLE)
def test_a_close_means(code: int | None, message: str, phase: Phase, expected: type[Any], because: str) -> None:
    decision = meaning(code, message, phase)
    assert isinstance(decision, expected), because
    assert len(decision.say) > 20, "a person must understand it"


def test_only_two_codes_ever_forget_the_credentials() -> None:
    texts = {message for _, message, _, _, _ in TABLE}
    wiping = {code for code in range(100, 700) for text in texts if isinstance(meaning(code, text), Relogin)}
    assert wiping == {401, 411}


def test_restarts_at_once_are_bounded() -> None:
    decisions = [meaning(515, "Stream Errored (restart required)", immediate=n) for n in range(5)]
    assert [type(each) for each in decisions] == [ReconnectNow] * 3 + [Reconnect] * 2


def test_rejected_receipts_are_counted_apart() -> None:
    assert meaning(500, "Stream Errored (ack)") == Reconnect(
        say="WhatsApp rejected a receipt and closed the connection; trying again.", counter="ack"
    )


@pytest.mark.parametrize(
    ("data", "seconds", "because"),
    [
        ({"code": "101", "expire": "3600"}, 3600.0, "attributes are strings"),
        ({"expire": 60}, 60.0, "a number is fine"),
        ({"expire": "9e99"}, 14 * 86_400.0, "no ban lasts a lifetime of the universe"),
        ({"expire": "-5"}, None, "nonsense: a person decides"),
        ({"expire": "soon"}, None, "nonsense"),
        ({"expire": "nan"}, None, "nonsense"),
        (None, None, "not said"),
    ],
)
def test_a_temporary_ban_is_waited_out_if_it_says_how_long(data: object, seconds: float | None, because: str) -> None:
    decision = meaning(402, "Connection Failure", "connecting", data)
    assert isinstance(decision, Halt)
    assert decision.seconds == seconds, because


@pytest.mark.parametrize(("code", "message", "phase", "kind", "why"), TABLE)
def test_a_person_is_told_in_a_plain_sentence(
    code: int | None, message: str, phase: Phase, kind: type[Any], why: str
) -> None:
    say = decide(Close(code=code, message=message, phase=phase)).say
    assert say[0].isupper(), why
    assert say[1:] != say[1:].upper(), why
    assert say.endswith((".", "?")), why
    assert "XX" not in say, why
    assert "whatsapp" not in say, "it is spelled WhatsApp"


ALERTS = (400, 409, 501, 599)


@pytest.mark.parametrize("code", [None, 400, 408, 409, 428, 500, 501, 503, 599])
def test_what_is_nobodys_daily_trouble_is_alerted(code: int | None) -> None:
    decision = decide(Close(code=code, message="Stream Errored", phase="open"))
    assert isinstance(decision, Reconnect)
    assert decision.alert is (code in ALERTS)


def test_a_refusal_that_whatsapp_did_not_explain_is_alerted() -> None:
    decision = decide(Close(code=401, message="something new", phase="open"))
    assert isinstance(decision, Reconnect)
    assert decision.alert


def test_a_lost_connection_and_one_that_was_never_made_are_told_apart() -> None:
    lost = decide(Close(code=408, message="x", phase="open")).say
    assert "lost" in lost
    for phase in ("connecting", "pairing"):
        assert "could not be reached" in decide(Close(code=408, message="x", phase=phase)).say


@pytest.mark.parametrize("code", [None, 400, 500])
def test_a_false_signature_is_a_reason_to_stop_under_each_of_its_codes(code: int | None) -> None:
    assert isinstance(decide(Close(code=code, message="Invalid signature!", phase="connecting")), Halt)


@pytest.mark.parametrize(("expire", "seconds"), [(0, None), (-5, None), (0.5, 0.5), (1, 1.0), ("soon", None)])
def test_a_ban_has_an_end_if_whatsapp_names_one(expire: object, seconds: float | None) -> None:
    decision = decide(Close(code=402, message="x", phase="connecting", data={"expire": expire}))
    assert isinstance(decision, Halt)
    assert decision.seconds == seconds


@pytest.mark.parametrize(
    ("expire", "words"), [(119, "119 seconds"), (120, "2 minutes"), (7199, "120 minutes"), (7200, "2 hours")]
)
def test_the_length_of_a_ban_is_told_in_words(expire: int, words: str) -> None:
    assert f"for {words};" in decide(Close(code=402, message="x", phase="open", data={"expire": expire})).say


@pytest.mark.parametrize("code", [400, 409, 501])
def test_a_refusal_tells_its_code_as_a_known_one(code: int) -> None:
    say = decide(Close(code=code, message="x", phase="open")).say
    assert say == f"WhatsApp refused the connection (code {code}); trying again."


def test_a_false_signature_says_whose() -> None:
    assert "phone's" in decide(Close(code=None, message="Invalid signature!", phase="pairing")).say
    server = decide(Close(code=None, message="Invalid signature!", phase="connecting")).say
    assert server.startswith("The server's certificate is not WhatsApp's")
    assert "set WA_STRICT_CERTS=false" in server


def test_restarts_without_end_are_slowed_down_and_alerted() -> None:
    decision = decide(Close(code=515, message="x", phase="open"), immediate_before=99)
    expected = "WhatsApp keeps asking for new connections; trying again more slowly."
    assert decision == Reconnect(say=expected, alert=True)


def test_a_refusal_for_once_is_told_as_one() -> None:
    say = decide(Close(code=401, message="something new", phase="open")).say
    assert say == "WhatsApp refused the connection once; trying again."


def test_every_named_code_has_a_decision_and_a_metric_label() -> None:
    assert list(DECISIONS) == list(CloseCode)
    assert set(METRIC_LABELS) == {str(code.value) for code in CloseCode}
    assert set(METRIC_LABELS) <= set(CODES)


def test_a_401_names_both_causes_and_warns_before_linking_again() -> None:
    say = decide(Close(code=401, message="Stream Errored (conflict)", phase="open")).say
    for words in ("unlinked on the phone", "offline for 14 days", "do not link again today", "scan the new QR code"):
        assert words in say


@pytest.mark.parametrize("data", [{"expire": "86400"}, {"expire": ""}, {"restriction": "1"}, {"reason_ban": True}])
@pytest.mark.parametrize("message", ["Connection Failure", "Stream Errored (conflict)"])
def test_a_restricted_account_gets_no_new_qr_by_itself(message: str, data: dict[str, object]) -> None:
    decision = decide(Close(code=401, message=message, phase="open", data=data))
    assert isinstance(decision, Halt)
    assert "Look at the phone first" in decision.say
    assert decision.seconds is None

"""What each close of a connection means, and what to do about it.

Pure. The code and the message decide together; the sidecar reports both as Baileys gave them. Every decision carries
the sentence for people in `wa_sessions.detail`. To add a code, add a name to `CloseCode` and a line to `DECISIONS`.
Source: docs/whatsapp.md, "Closes" and "The server's side".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Phase = Literal["connecting", "pairing", "open"]
IMMEDIATE_MAX = 3  # RESTART_REQUIRED is normal once after pairing; back off when it repeats
BAN_SECONDS_MAX = 14 * 86_400.0  # WhatsApp's bans last hours or days; a longer figure means that we misread it


@dataclass(frozen=True, kw_only=True)
class Close:
    """How a connection ended."""

    code: int | None
    message: str
    phase: Phase
    data: object = None


@dataclass(frozen=True, kw_only=True)
class Reconnect:
    """Try again after the backoff of `counter`."""

    say: str
    counter: Literal["network", "ack"] = "network"
    alert: bool = False


@dataclass(frozen=True, kw_only=True)
class ReconnectNow:
    """Try again at once, with the same credentials."""

    say: str


@dataclass(frozen=True, kw_only=True)
class FetchVersion:
    """Fetch the current version of WhatsApp Web, then try again after the backoff."""

    say: str


@dataclass(frozen=True, kw_only=True)
class Relogin:
    """The phone no longer lists this device: delete the credentials, ask for a new QR code."""

    say: str


@dataclass(frozen=True, kw_only=True)
class Idle:
    """Stay down until somebody asks for a QR code; nothing is wrong."""

    say: str


@dataclass(frozen=True, kw_only=True)
class Halt:
    """Stay down and alert: a person must act. Keeps the credentials. `seconds`: try again by itself after that long."""

    say: str
    seconds: float | None = None


Decision = Reconnect | ReconnectNow | FetchVersion | Relogin | Idle | Halt


class CloseCode(IntEnum):
    """Every known close code. Metrics label them by number."""

    GENERIC_FAILURE = 400
    LOGGED_OUT = 401
    TEMPORARY_BAN = 402
    ACCOUNT_LOCKED = 403
    CLIENT_OUTDATED = 405
    BANNED = 406
    LOST_OR_TIMED_OUT = 408
    BAD_USER_AGENT = 409
    MUST_RELINK = 411
    TOKEN_EXPIRED = 413
    TOKEN_INVALID = 414
    TOKEN_UNKNOWN = 415
    CLIENT_UNKNOWN = 418
    CONNECTION_CLOSED = 428
    REPLACED = 440
    STREAM_ERROR = 500
    EXPERIMENTAL = 501
    SERVER_RESTART = 503
    RESTART_REQUIRED = 515


_ASK_AGAIN = "then ask for a refresh (`wa-worker link --refresh`)"
_LOOK_FIRST = "Look at the phone first; if it shows a warning, do not link again today."
_UNLINKED = ("Connection Failure", "Stream Errored")  # only these two mean that the phone unlinked us
_CAUSES = {  # Node's messages for failed connections
    "ENOTFOUND": "its name cannot be resolved (DNS)",
    "EAI_AGAIN": "its name cannot be resolved (DNS)",
    "ECONNREFUSED": "the connection is refused",
    "establish tunnel": "the proxy (HTTPS_PROXY, or the session's own) refuses",
    "certificate": "its certificate is not trusted (TLS)",
    "ETIMEDOUT": "no answer in time",
    "ENETUNREACH": "this machine has no way to the Internet",
    "EPROTO": "no TLS can be agreed on",
    "Unexpected server response: 3": "it answers with a redirect; is this network's login page open?",
}
_SOCKET_FAILED = "WebSocket Error ("  # Baileys' message for a socket that never opened, or broke
_CODES_RAN_OUT = "QR refs attempts ended"
_UNTRUSTED = ("invalid signature", "signature invalid", "account signature", "certificat")
# Baileys' codes for an untrusted peer. 500 is also its default for errors without a code, so check the message too.
_UNTRUSTED_CODES = (None, CloseCode.GENERIC_FAILURE, CloseCode.STREAM_ERROR)


def decide(close: Close, immediate_before: int = 0) -> Decision:
    """What to do after `close`. `immediate_before`: immediate reconnects since a connection last stayed open.

    An unknown code is reported and backed off. It never deletes credentials.
    """
    if close.message.startswith(_SOCKET_FAILED) and close.code in (CloseCode.LOST_OR_TIMED_OUT, *_UNTRUSTED_CODES):
        return _lost_or_timed_out(close, immediate_before)
    if close.code in _UNTRUSTED_CODES and any(word in close.message.lower() for word in _UNTRUSTED):
        return _untrusted(close.phase)
    if close.code is None:
        return Reconnect(say="The connection could not be made; trying again.")
    rule = DECISIONS.get(close.code)
    if rule is None:
        say = f"WhatsApp closed the connection with an unknown code {close.code}; trying again."
        return Reconnect(say=say, alert=True)
    return rule(close, immediate_before) if callable(rule) else rule


def _logged_out(close: Close, _: int) -> Decision:
    if not close.message.startswith(_UNLINKED):
        return Reconnect(say="WhatsApp refused the connection once; trying again.", alert=True)
    if _restricted(close.data):
        return Halt(say=f"WhatsApp has restricted this account. {_LOOK_FIRST} Wait until it is over, {_ASK_AGAIN}.")
    return Relogin(
        say="This device is no longer linked: it was unlinked on the phone, or the phone was offline for 14 days. "
        f"{_LOOK_FIRST} Otherwise scan the new QR code."
    )


def _lost_or_timed_out(close: Close, _: int) -> Decision:
    if _CODES_RAN_OUT in close.message:
        return Idle(
            say="Nobody scanned the QR code or typed a pairing code in time. "
            "Ask for a refresh (`wa-worker link --refresh`)."
        )
    if close.phase == "open":
        return Reconnect(say="The connection to WhatsApp was lost; trying again.")
    cause = next((words for sign, words in _CAUSES.items() if sign in close.message), None)
    if cause:
        return Reconnect(say=f"WhatsApp could not be reached: {cause}; trying again.")
    return Reconnect(say="WhatsApp could not be reached; trying again. Is this machine on the Internet?")


def _refused(close: Close, _: int) -> Decision:
    return Reconnect(say=f"WhatsApp refused the connection (code {close.code}); trying again.", alert=True)


def _credentials_refused(close: Close, _: int) -> Decision:
    say = f"WhatsApp refuses this device's credentials (code {close.code}). Unlink it on the phone, {_ASK_AGAIN}."
    return Halt(say=say)


def _stream_error(close: Close, _: int) -> Decision:
    if "(ack)" in close.message:
        return Reconnect(say="WhatsApp rejected a receipt and closed the connection; trying again.", counter="ack")
    return Reconnect(say="WhatsApp reported an error and closed the connection; trying again.")


def _restart_required(_: Close, immediate_before: int) -> Decision:
    if immediate_before < IMMEDIATE_MAX:
        return ReconnectNow(say="WhatsApp asks for a new connection; connecting again at once.")
    return Reconnect(say="WhatsApp keeps asking for new connections; trying again more slowly.", alert=True)


def _untrusted(phase: Phase) -> Halt:
    if phase == "pairing":
        return Halt(
            say=f"The phone's account signature is not genuine: refused. Scan with the right phone, {_ASK_AGAIN}."
        )
    return Halt(
        say="The server's certificate is not WhatsApp's: refused. Somebody may be listening on this network. If you "
        "are sure that WhatsApp changed its certificates, set WA_STRICT_CERTS=false and start again."
    )


def _banned_for_a_time(close: Close, _: int) -> Halt:
    seconds = _ban_seconds(close.data)
    if seconds is None:
        return Halt(
            say=f"WhatsApp has banned this account for a time. Wait until the phone says it is over, {_ASK_AGAIN}."
        )
    return Halt(
        say=f"WhatsApp has banned this account for {_in_words(seconds)}; the worker tries again after that.",
        seconds=seconds,
    )


def _ban_seconds(data: object) -> float | None:
    expire = data.get("expire") if isinstance(data, dict) else None
    try:
        seconds = float(expire)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return min(seconds, BAN_SECONDS_MAX) if seconds > 0 else None


def _restricted(data: object) -> bool:
    """Whether a 401 says that the account is restricted. The exact fields are unknown, so any hint counts."""
    names = [str(name).lower() for name in data] if isinstance(data, dict) else []
    return any(sign in name for name in names for sign in ("expire", "restrict", "ban"))


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"


# What to do after each code: a decision, or a function of the close and `immediate_before` that returns one.
DECISIONS: Mapping[int, Decision | Callable[[Close, int], Decision]] = {
    CloseCode.GENERIC_FAILURE: _refused,
    CloseCode.LOGGED_OUT: _logged_out,
    CloseCode.TEMPORARY_BAN: _banned_for_a_time,
    CloseCode.ACCOUNT_LOCKED: Halt(
        say=f"WhatsApp has locked this account, or its phone is gone. Look at the phone, {_ASK_AGAIN}."
    ),
    CloseCode.CLIENT_OUTDATED: FetchVersion(
        say="WhatsApp no longer accepts this client version; looking for the current one."
    ),
    CloseCode.BANNED: Halt(
        say="WhatsApp has banned this account. Appeal on the phone; the worker will not connect again."
    ),
    CloseCode.LOST_OR_TIMED_OUT: _lost_or_timed_out,
    CloseCode.BAD_USER_AGENT: _refused,
    CloseCode.MUST_RELINK: Relogin(say="WhatsApp asks to link this device anew. Scan the new QR code."),
    CloseCode.TOKEN_EXPIRED: _credentials_refused,
    CloseCode.TOKEN_INVALID: _credentials_refused,
    CloseCode.TOKEN_UNKNOWN: _credentials_refused,
    CloseCode.CLIENT_UNKNOWN: _credentials_refused,
    CloseCode.CONNECTION_CLOSED: Reconnect(say="WhatsApp closed the connection; trying again."),
    CloseCode.REPLACED: Halt(
        say=f"Another program has taken over this linked device. Stop that program, {_ASK_AGAIN}."
    ),
    CloseCode.STREAM_ERROR: _stream_error,
    CloseCode.EXPERIMENTAL: _refused,
    CloseCode.SERVER_RESTART: Reconnect(say="WhatsApp's server is restarting; trying again."),
    CloseCode.RESTART_REQUIRED: _restart_required,
}
METRIC_LABELS = tuple(str(int(code)) for code in DECISIONS)  # for `wa_disconnects` and `wa_reconnects`

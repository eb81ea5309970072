"""What the end of a connection means, and what to do about it: one rule over FACTS §2 and §13.

Pure. The code and the message decide together; the sidecar reports them as Baileys gave them. Every decision carries
the plain words that a person reads in `wa_sessions.detail`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["connecting", "pairing", "open"]
IMMEDIATE_MAX = 3  # 515 comes once after a pairing; more of them in a row are a fault and are backed off
BAN_SECONDS_MAX = 14 * 86_400.0  # WhatsApp's own bans last hours or days; a longer figure is a mistake in reading it


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
    """Ask for the present version of WhatsApp Web, then try again after the backoff."""

    say: str


@dataclass(frozen=True, kw_only=True)
class Relogin:
    """The link is gone: forget the credentials, ask for a new QR code."""

    say: str


@dataclass(frozen=True, kw_only=True)
class Idle:
    """Stay down until somebody asks for a QR code; nothing is wrong."""

    say: str


@dataclass(frozen=True, kw_only=True)
class Halt:
    """Stay down and alert: a person must act. Credentials are kept; `seconds` = try again by itself after that long."""

    say: str
    seconds: float | None = None


Decision = Reconnect | ReconnectNow | FetchVersion | Relogin | Idle | Halt

_ASK_AGAIN = "then ask for a refresh (wa_refresh_qr_requested)"
_UNLINKED = ("Connection Failure", "Stream Errored")  # only these two say that the phone unlinked us
_CODES_RAN_OUT = "QR refs attempts ended"
_UNTRUSTED = ("invalid signature", "signature invalid", "account signature", "certificat")


def decide(close: Close, immediate_before: int = 0) -> Decision:
    """What to do after `close`; `immediate_before` = reconnects at once since the last connection that held.

    Source: FACTS §2 and §13. An unknown code is backed off and reported: it is never a reason to forget credentials.
    """
    match close.code:
        # Baileys gives these 400 or, for want of a code, 500: here the text says more than the number.
        case None | 400 | 500 if any(word in close.message.lower() for word in _UNTRUSTED):
            return _untrusted(close.phase)
        case 401 if close.message.startswith(_UNLINKED):
            return Relogin(say="The phone has unlinked this device. Scan the new QR code to link it again.")
        case 401:
            return Reconnect(say="WhatsApp refused the connection once; trying again.", alert=True)
        case 402:
            return _banned_for_a_time(close.data)
        case 403:
            return Halt(say=f"WhatsApp has locked this account, or its phone is gone. Look at the phone, {_ASK_AGAIN}.")
        case 405:
            return FetchVersion(say="WhatsApp no longer accepts this client version; looking for the present one.")
        case 406:
            return Halt(say="WhatsApp has banned this account. Appeal on the phone; the worker will not connect again.")
        case 408 if _CODES_RAN_OUT in close.message:
            return Idle(
                say="Nobody scanned the QR codes in time. Ask for a refresh (wa_refresh_qr_requested) for new ones."
            )
        case 408 if close.phase == "open":
            return Reconnect(say="The connection to WhatsApp was lost; trying again.")
        case 408:
            return Reconnect(say="WhatsApp could not be reached; trying again. Is this machine on the Internet?")
        case 400 | 409 | 501:
            return Reconnect(say=f"WhatsApp refused the connection (code {close.code}); trying again.", alert=True)
        case 411:
            return Relogin(say="WhatsApp asks to link this device anew. Scan the new QR code.")
        case 413 | 414 | 415 | 418:
            say = (
                f"WhatsApp refuses this device's credentials (code {close.code}). Unlink it on the phone, {_ASK_AGAIN}."
            )
            return Halt(say=say)
        case 428:
            return Reconnect(say="WhatsApp closed the connection; trying again.")
        case 440:
            return Halt(say=f"Another program has taken over this linked device. Stop that program, {_ASK_AGAIN}.")
        case 500 if "(ack)" in close.message:
            return Reconnect(say="WhatsApp rejected a receipt and closed the connection; trying again.", counter="ack")
        case 500:
            return Reconnect(say="WhatsApp reported an error and closed the connection; trying again.")
        case 503:
            return Reconnect(say="WhatsApp's server is restarting; trying again.")
        case 515 if immediate_before < IMMEDIATE_MAX:
            return ReconnectNow(say="WhatsApp asks for a new connection; connecting again at once.")
        case 515:
            return Reconnect(say="WhatsApp keeps asking for new connections; trying again more slowly.", alert=True)
        case None:
            return Reconnect(say="The connection could not be made; trying again.")
        case _:
            return Reconnect(
                say=f"WhatsApp closed the connection with an unknown code {close.code}; trying again.", alert=True
            )


def _untrusted(phase: Phase) -> Halt:
    if phase == "pairing":
        return Halt(
            say=f"The phone's account signature is not genuine: refused. Scan with the right phone, {_ASK_AGAIN}."
        )
    return Halt(
        say="The server's certificate is not WhatsApp's: refused. Somebody may be listening on this network. If you "
        "are sure that WhatsApp changed its certificates, set WA_STRICT_CERTS=false and start again."
    )


def _banned_for_a_time(data: object) -> Halt:
    seconds = _ban_seconds(data)
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


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"

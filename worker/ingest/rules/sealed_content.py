"""Decrypts votes, event responses, reactions and comments with the secret of their target message.

The scheme is that of `encrypted_edit`, with another use in the key. Votes and answers also authenticate their author
(Baileys' `decryptPollVote` and `decryptEventResponse`; whatsmeow's `msgsecret.go` for the rest):

    key = HKDF-SHA256(secret, no salt, info = target's id ‖ its sender ‖ the author ‖ use, 32)
    aad = target's id ‖ 0 ‖ the author, for a vote and an answer; else none

A phone does not say which form of an address it used, so all are tried: a wrong one does not authenticate. Verified
against Baileys' functions, not against a real phone. No other decisions, no I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker.ingest.rules.encrypted_edit import MAX_FORMS, protobuf_fields, read_edit, sealed_key

Use = Literal["Poll Vote", "Event Response", "Enc Reaction", "Enc Comment"]

AUTHENTICATED = ("Poll Vote", "Event Response")
ANSWERS = {0: "unknown", 1: "going", 2: "not_going", 3: "maybe"}  # EventResponseMessage.EventResponseType
SELECTED_OPTIONS, RESPONSE, EXTRA_GUESTS = 1, 1, 3  # in PollVoteMessage, EventResponseMessage
EMOJI = 2  # in ReactionMessage


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedContent:
    """Additions to `messages.content`, and the text."""

    content: dict[str, Any]
    text: str | None


def open_content(
    use: Use,
    secret: bytes,
    sealed: tuple[bytes, bytes],
    target: tuple[str, Iterable[str]],
    authors: Iterable[str],
    options: Sequence[str] = (),
) -> OpenedContent | None:
    """The decrypted content; None if no form of the addresses decrypts it, or it is unreadable.

    `sealed`: ciphertext and iv. `target`: the target's id and the forms of its sender's address. `options`: the poll's.
    """
    ciphertext, iv = sealed
    target_id, senders = target
    for sender, author in product(_few(senders), _few(authors)):
        aad = f"{target_id}\0{author}".encode() if use in AUTHENTICATED else None
        try:
            plaintext = AESGCM(sealed_key(secret, target_id, sender, author, use.encode())).decrypt(iv, ciphertext, aad)
        except (InvalidTag, ValueError):
            continue
        try:
            return _read(use, plaintext, options)
        except ValueError:
            return None
    return None


def _few(forms: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(forms))[:MAX_FORMS]


def _read(use: Use, plaintext: bytes, options: Sequence[str]) -> OpenedContent | None:
    match use:
        case "Poll Vote":
            return _vote(plaintext, options)
        case "Event Response":
            return _answer(plaintext)
        case "Enc Reaction":
            emoji = dict(protobuf_fields(plaintext)).get(EMOJI, b"")
            text = emoji.decode()[:64] if isinstance(emoji, bytes) else ""
            return OpenedContent(content={"emoji": text}, text=text)
        case "Enc Comment":
            opened = read_edit(plaintext)
            return None if opened is None else OpenedContent(content={}, text=opened.text)


def _vote(plaintext: bytes, options: Sequence[str]) -> OpenedContent:
    """A vote lists the sha256 of each chosen option; none: the vote was withdrawn."""
    chosen = {value for number, value in protobuf_fields(plaintext) if number == SELECTED_OPTIONS}
    choices = [option for option in options if hashlib.sha256(option.encode()).digest() in chosen]
    unknown = len(chosen) - len(choices)
    return OpenedContent(
        content={"choices": choices} | ({"unknown_choices": unknown} if unknown > 0 else {}), text="\n".join(choices)
    )


def _answer(plaintext: bytes) -> OpenedContent:
    found = dict(protobuf_fields(plaintext))
    answer = ANSWERS.get(_whole(found.get(RESPONSE)), "unknown")
    guests = _whole(found.get(EXTRA_GUESTS))
    return OpenedContent(content={"response": answer} | ({"extra_guests": guests} if guests else {}), text=answer)


def _whole(value: bytes | int | None) -> int:
    return value if isinstance(value, int) and value < 2**31 else 0

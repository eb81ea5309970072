"""The two passkey documents: what WhatsApp asks the owner to sign, and the answer of the owner's browser. Pure.

Both are untrusted; the second is pasted by hand. This module validates them and strips them to the fields that are
sent. A fault is a sentence for people. Source: docs/whatsapp.md, "The assertion".
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from worker.bridge.protocol import Assertion

RP_ID = "whatsapp.com"
LIFE_SECONDS = 600.0  # lifetime of the options, as in WhatsApp's own client
PASTED_MAX = 32_768  # characters; an assertion has about a thousand
PRESENT_AND_VERIFIED = 0b101  # flags UP and UV of the authenticator data
HEAD_BYTES = 37  # of the authenticator data: relying party hash, flags, counter

Base64Url = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,16384}$")]

NOT_AN_ANSWER = "this is not what the script in the browser prints; copy all of it, from the first { to the last }"


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _Credential(_Read):
    id: Base64Url
    type: Literal["public-key"] = "public-key"
    transports: Annotated[list[str], Field(max_length=16)] = []


class _Options(_Read):
    challenge: Base64Url
    rpId: str
    timeout: Annotated[int, Field(gt=0)] = int(LIFE_SECONDS * 1000)
    allowCredentials: Annotated[list[_Credential], Field(max_length=64)] = []
    extensions: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class PasskeyRequest:
    """What the owner must sign: options for `navigator.credentials.get`, valid for `seconds`."""

    options: Mapping[str, Any]
    seconds: float

    @property
    def challenge(self) -> str:
        return str(self.options["challenge"])


def read_options(given: Mapping[str, Any] | None) -> PasskeyRequest | str:
    """WhatsApp's options without unknown fields; a sentence for people if nobody should sign them."""
    try:
        read = _Options.model_validate(given)
    except ValidationError:
        return "WhatsApp's request for the passkey cannot be read."
    if read.rpId != RP_ID:
        return "The request names another site than WhatsApp's: refused."
    credentials = [credential.model_dump() for credential in read.allowCredentials]
    options = {
        "challenge": read.challenge,
        "timeout": read.timeout,
        "rpId": RP_ID,
        # An empty list of transports keeps some password managers from offering the passkey.
        "allowCredentials": [{name: value for name, value in each.items() if value} for each in credentials],
        "userVerification": "required",
        "extensions": {name: value for name, value in read.extensions.items() if name == "uvm" and value is True},
    }
    return PasskeyRequest(options=options, seconds=min(read.timeout / 1000, LIFE_SECONDS))


def read_assertion(given: object, challenge: str) -> Assertion | str:
    """The browser's output (text or JSON), stripped to what is sent; a sentence if WhatsApp would refuse it."""
    try:
        assertion = Assertion.model_validate(_stripped(given))
        client = json.loads(_decoded(assertion.response.clientDataJSON))
        data = _decoded(assertion.response.authenticatorData)
        _decoded(assertion.response.signature)
        _decoded(assertion.rawId)
    except (ValueError, RecursionError):  # pydantic's and json's errors are ValueErrors
        return NOT_AN_ANSWER
    if assertion.id != assertion.rawId or not isinstance(client, dict) or len(data) < HEAD_BYTES:
        return NOT_AN_ANSWER
    return _fault(client, data, challenge) or assertion


def _stripped(given: object) -> object:
    if isinstance(given, str):
        given = json.loads(given) if len(given) <= PASTED_MAX else None
    if not isinstance(given, dict) or not isinstance(given.get("response"), dict):
        return None
    response = {"userHandle": None, **given["response"]}
    kept = {name: response.get(name) for name in ("clientDataJSON", "authenticatorData", "signature", "userHandle")}
    return {**{name: given.get(name) for name in ("id", "rawId", "type")}, "response": kept}


def _decoded(text: str) -> bytes:
    """Raises ValueError if `text` is not unpadded base64url, or longer than PASTED_MAX."""
    if len(text) > PASTED_MAX or not text.replace("-", "").replace("_", "").isalnum() or not text.isascii():
        raise ValueError("no base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _fault(client: Mapping[str, Any], data: bytes, challenge: str) -> str | None:
    if client.get("type") != "webauthn.get":
        return "the browser made a new passkey instead of using the account's; run the script again"
    if client.get("challenge") != challenge:
        return "this answers another request, perhaps an earlier one; run the script that is shown now"
    if not _is_of_whatsapp(client.get("origin")) or data[:32] != hashlib.sha256(RP_ID.encode()).digest():
        return "the script ran on another site; run it in the console of https://web.whatsapp.com"
    if data[32] & PRESENT_AND_VERIFIED != PRESENT_AND_VERIFIED:
        return "the passkey was used without a fingerprint, a face or a PIN, which WhatsApp requires; try again"
    return None


def _is_of_whatsapp(origin: object) -> bool:
    try:
        parts = urlsplit(origin) if isinstance(origin, str) else None
    except ValueError:
        return False
    host = (parts.hostname or "") if parts and parts.scheme == "https" else ""
    return host == RP_ID or host.endswith(f".{RP_ID}")

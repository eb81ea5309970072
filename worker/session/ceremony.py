"""Linking an account that has a passkey: what a person must do, how long each step may take, how it ends.

One attempt on one socket; the sidecar does the steps (docs/whatsapp.md, "The passkey gate"). Every failure ends the
socket, and the next attempt starts with a new code, because the phone's half of this one is void.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any

import anyio

from worker.bridge.peer import Peer
from worker.bridge.protocol import PasskeyCode, PasskeyFailed, PasskeyNotice, PasskeyRequested
from worker.errors import CallFailed, CallTimeout
from worker.session.closes import Halt
from worker.session.flags import Request, RequestKind
from worker.session.passkey import PasskeyRequest, read_assertion, read_options
from worker.session.report import Report, State, View
from worker.session.requests import Requests

STEP_SECONDS = 120.0  # WhatsApp's own client waits this long for the other side, and for a person to compare codes

SWITCHED_OFF = (
    "WhatsApp asks for this account's passkey before it links a device; nothing was linked. The worker can answer "
    "that, but it is switched off, since it was never tried with WhatsApp itself: set WORKER_PASSKEY=true, start "
    "again, and run `wa-worker link --passkey`. The request on the phone can be closed."
)
USE_THE_PASSKEY = (
    "WhatsApp asks for this account's passkey before it links a device: run `wa-worker link --passkey`, which says "
    "what to do."
)
COMPARE = "Compare the code with the one on the phone, and confirm it only if they are the same."
WAIT_FOR_THE_CODE = "WhatsApp has taken the passkey's answer; waiting for the phone's code."
WAIT_FOR_THE_PHONE = "The codes are the same; waiting for the phone to link."

START_OVER = "Nothing was linked. Start over: `wa-worker link --refresh`, and link again."
NOBODY_ANSWERED = f"Nobody answered WhatsApp's request for the passkey in time. {START_OVER}"
NO_CODE_CAME = (
    "WhatsApp took the passkey's answer and then sent nothing. It is known to do so when the passkey is not this "
    f"account's, and perhaps when the account has too many devices or was linked too often. {START_OVER}"
)
NOBODY_COMPARED = f"Nobody compared the codes in time. {START_OVER}"
PHONE_DID_NOT_LINK = f"The codes were confirmed, and then neither the phone nor WhatsApp answered. {START_OVER}"
CODES_DIFFER = (
    "The two codes differ: somebody may stand between this worker and the phone, or another attempt was on the phone. "
    f"{START_OVER}"
)
CUT_OFF = (
    f"The connection ended while WhatsApp waited for the passkey, and such an attempt cannot be resumed. {START_OVER}"
)

NO_ANSWER = (None, 408, 428)  # Baileys' own codes: no answer in time, no connection
FAILURES = (CallFailed, CallTimeout, TimeoutError)


@dataclass(frozen=True, kw_only=True)
class PasskeyRules:
    """`enabled`: WORKER_PASSKEY. `step_seconds`: time limit of each step after the answer."""

    enabled: bool = False
    step_seconds: float = STEP_SECONDS


class Stage(Enum):
    """What the attempt waits for: the passkey, the phone's code, the comparison of codes, the phone's signature."""

    ANSWER = auto()
    CODE = auto()
    COMPARISON = auto()
    LINK = auto()


LATE = {
    Stage.ANSWER: NOBODY_ANSWERED,
    Stage.CODE: NO_CODE_CAME,
    Stage.COMPARISON: NOBODY_COMPARED,
    Stage.LINK: PHONE_DID_NOT_LINK,
}


class PasskeyCeremony:
    """One attempt. A method that returns a `Halt` has ended it; the socket must end too."""

    def __init__(
        self, peer: Peer, report: Report, requests: Requests, rules: PasskeyRules, clock: Callable[[], float]
    ) -> None:
        self._peer = peer
        self._report = report
        self._requests = requests
        self._rules = rules
        self._clock = clock
        self._stage: Stage | None = None
        self._asked: PasskeyRequest | None = None
        self._code = ""
        self.deadline = 0.0

    @property
    def active(self) -> bool:
        return self._stage is not None

    def late(self) -> Halt:
        """The deadline has passed."""
        assert self._stage is not None
        return Halt(say=LATE[self._stage])

    def cut_off(self) -> Halt | None:
        """What the end of the socket means; None if no attempt was in progress."""
        return Halt(say=CUT_OFF) if self.active else None

    def linked(self) -> None:
        """The phone has linked: the attempt succeeded."""
        self._stage = None

    async def take(self, notice: PasskeyNotice) -> Halt | None:
        """Handle a step that the sidecar reports."""
        match notice:
            case PasskeyRequested() if not self._rules.enabled:
                return Halt(say=SWITCHED_OFF)
            case PasskeyRequested(options=options) if self._stage in (None, Stage.ANSWER):
                return await self._ask(options)
            case PasskeyCode(code=code) if self._stage is Stage.CODE:
                self._code = code
                self._await(Stage.COMPARISON, self._rules.step_seconds, "needs_you", COMPARE, {"code": code})
            case PasskeyFailed(step=step, status=status) if self.active:
                return _refused(step, status)
        return None

    async def obey(self, request: Request) -> Halt | None:
        """Handle a person's answer or comparison."""
        if request.kind is RequestKind.PASSKEY_ANSWERED:
            return await self._answer(request)
        return await self._compared(request)

    async def _ask(self, options: Mapping[str, Any] | None) -> Halt | None:
        if options is None:
            try:
                with anyio.fail_after(self._rules.step_seconds):
                    options = await self._peer.passkey_options()
            except FAILURES as failed:
                return _refused("passkey_request_options", _status(failed))
        asked = read_options(options)
        if isinstance(asked, str):
            return Halt(say=f"{asked} {START_OVER}")
        self._asked = asked
        self._await(Stage.ANSWER, asked.seconds, "needs_you", USE_THE_PASSKEY, {"options": dict(asked.options)})
        self._report.audit("passkey_requested", ttl_s=asked.seconds)
        return None

    async def _answer(self, request: Request) -> Halt | None:
        if self._stage is not Stage.ANSWER or self._asked is None:
            self._requests.turn_down(request, "WhatsApp is not asking for the passkey now")
            return None
        assertion = read_assertion(request.given.get("assertion"), self._asked.challenge)
        if isinstance(assertion, str):
            self._requests.turn_down(request, assertion)
            return None
        self._requests.done(request)
        try:
            with anyio.fail_after(self._rules.step_seconds):
                await self._peer.passkey_assertion(assertion)
        except FAILURES as failed:
            return _refused("passkey_prologue", _status(failed))
        self._await(Stage.CODE, self._rules.step_seconds, "connecting", WAIT_FOR_THE_CODE)
        return None

    async def _compared(self, request: Request) -> Halt | None:
        given = request.given
        if self._stage is not Stage.COMPARISON or given.get("code") != self._code:
            self._requests.turn_down(request, "this is not the current code")
            return None
        self._requests.done(request)
        same = given.get("same") is True
        self._report.audit("passkey_compared", same=same)
        if not same:
            return Halt(say=CODES_DIFFER)
        self._await(Stage.LINK, self._rules.step_seconds, "connecting", WAIT_FOR_THE_PHONE)
        try:
            await self._peer.passkey_confirm()
        except (CallFailed, CallTimeout) as failed:
            status = _status(failed)
            # Without an answer it may still have been accepted: wait until the phone links or the time runs out.
            return None if status in NO_ANSWER else _refused("encrypted_pairing_request", status)
        return None

    def _await(
        self, stage: Stage, seconds: float, state: State, say: str, passkey: Mapping[str, Any] | None = None
    ) -> None:
        self._stage = stage
        self.deadline = self._clock() + seconds
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        self._report.show(View(status="connecting", state=state, say=say, passkey=passkey, expires_at=expires_at))


def _status(failed: CallFailed | CallTimeout | TimeoutError) -> int | None:
    data = failed.data if isinstance(failed, CallFailed) else None
    status = data.get("status") if isinstance(data, dict) else None
    return status if isinstance(status, int) else None


def _refused(step: str, status: int | None) -> Halt:
    """`step` is the stanza's name, which only helps people to tell reports apart."""
    if status in NO_ANSWER:
        return Halt(say=f"WhatsApp gave no readable answer to a step of the passkey exchange ({step}). {START_OVER}")
    return Halt(say=f"WhatsApp refused a step of the passkey exchange ({step}, {status}). {START_OVER}")

"""`wa-worker link`: links a phone from any machine, wherever the worker runs.

By QR code or pairing code, and with the account's passkey if WhatsApp asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
import typer

from worker.commands.keyboard import Keyboard
from worker.commands.passkey import PasskeyDialogue
from worker.commands.runtime import NotDone, WrongArgument, perform
from worker.commands.show import err, out, plain, print_json
from worker.commands.terminal import draw_qr, window_too_small
from worker.session.flags import PHONE, RequestKind, international
from worker.session.requests import ENTER_THE_CODE, ENTER_THE_NEW_CODE
from worker.settings import Settings
from worker.store import Store

POLL_SECONDS = 0.5  # a code is valid for 20 s
RESTING = ("idle", "logged_out", "needs_you")  # no code comes without a request


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """What to show: connected, a QR code, or the worker's sentence; and perhaps a pairing code."""

    connected: str | None = None
    code: str | None = None
    typed: str | None = None
    say: str | None = None
    passkey: Mapping[str, Any] | None = None
    expires_at: datetime | None = None
    resting: bool = False


def link(
    number: Annotated[
        str | None,
        typer.Option(
            "--code", metavar="NUMBER", help="Link by a code that you type on the phone with this number, without a QR."
        ),
    ] = None,
    passkey: Annotated[
        bool, typer.Option("--passkey", help="If WhatsApp asks for the account's passkey, answer it here.")
    ] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="First request a new code, if the worker has stopped showing codes.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1, help="Seconds after which to stop waiting (exit code 1).")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the current code as JSON and exit (exit code 1 if there is none).")
    ] = False,
) -> None:
    """Link a phone: draw the QR code to scan, and each new one, until the account is connected.

    Whoever sees the code can link the account: keep it private. Exit codes: 0 connected · 1 no worker, no code, or
    time-out · 2 a setting is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = settings.worker_session
        phone = None if number is None else _checked(number)
        if refresh:
            await store.console.raise_flag(session, RequestKind.REFRESH.value)
        if json_:
            await _print_once(session, store)
            return
        with anyio.move_on_after(timeout) as scope:
            dialogue = PasskeyDialogue(session, store) if passkey else None
            await Following(session, store, phone, dialogue, hint=not refresh).run()
        if scope.cancelled_caught:
            raise NotDone("not connected in time")

    perform(work)


async def _print_once(session: str, store: Store) -> None:
    pairing = judge(await _view(session, store), datetime.now(UTC))
    if pairing.code is None:
        raise NotDone(f"no code: {pairing.say or f'connected as {pairing.connected}'}")
    print_json({"qr": pairing.code, "expiresAt": pairing.expires_at and pairing.expires_at.isoformat()})


def _checked(number: str) -> str:
    """A phone number in digits.

    Raises:
        WrongArgument: it has no country code, or is not a phone number.
    """
    phone = international(number)
    if not PHONE.fullmatch(phone):
        raise WrongArgument("--code needs the phone's number with its country code, like +49 151 1234567")
    return phone


class Following:
    """Shows the session's row as it changes, until the account is connected."""

    def __init__(
        self, session: str, store: Store, phone: str | None, dialogue: PasskeyDialogue | None, *, hint: bool
    ) -> None:
        self._session = session
        self._store = store
        self._phone = phone
        self._dialogue = dialogue
        self._hint = hint
        self._asked_at: str | None = None
        self._handled = False
        self._shown: object = None
        self._drawn = False

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            if self._dialogue:
                tasks.start_soon(self._listen, self._dialogue)
            while not await self._look():  # noqa: ASYNC110 - the row is in a database, which has no event
                await anyio.sleep(POLL_SECONDS)
            tasks.cancel_scope.cancel()

    async def _listen(self, dialogue: PasskeyDialogue) -> None:
        keyboard = Keyboard()
        try:
            while True:
                await dialogue.take(await keyboard.line())
        except anyio.EndOfStream:
            return

    async def _look(self) -> bool:
        """Show changes. Returns whether the account is connected."""
        pairing = judge(await _view(self._session, self._store), datetime.now(UTC))
        if pairing.connected is not None:
            out().print(f"Connected as {pairing.connected}.", markup=False)
            return True
        if self._dialogue and pairing.passkey:
            self._dialogue.show(pairing.passkey)
        elif self._phone and (pairing.code or pairing.typed):
            await self._link_by_code(self._phone, pairing)
        elif (pairing.code, pairing.say) != self._shown:
            self._shown = (pairing.code, pairing.say)
            if pairing.code and self._drawn and out().is_terminal:
                out().clear()  # with two codes on the screen, the phone may scan the old one
            _show(pairing, hint=self._hint)
            self._drawn = self._drawn or pairing.code is not None
        return False

    async def _link_by_code(self, phone: str, pairing: Pairing) -> None:
        """Request and show a pairing code, once a QR code is shown: WhatsApp gives none before."""
        console, flag = self._store.console, RequestKind.PAIRING_CODE.value
        if self._asked_at is None:
            self._asked_at = await console.raise_flag(self._session, flag, {"phone": phone})
        elif pairing.typed and pairing.typed != self._shown:
            out().print(f"Code: {pairing.typed}", markup=False)
            err().print(ENTER_THE_NEW_CODE if isinstance(self._shown, str) else ENTER_THE_CODE, markup=False)
            self._shown = pairing.typed
        elif not pairing.typed and self._handled:
            raise NotDone("there is no code, or nobody typed it in time: `wa-worker status` has the last error")
        elif not pairing.typed:  # our row may be older than this answer: read it once more
            self._handled = await console.flag_handled(self._session, flag, self._asked_at)


async def _view(session: str, store: Store) -> Mapping[str, Any]:
    view = await store.console.pairing_view(session)
    if view is None:
        raise NotDone(f"no worker has ever served the session {session!r}: start one with `wa-worker up`")
    if not view["lease_held"]:
        raise NotDone("no worker is running, so no code is current: start one with `wa-worker up`")
    return view


def judge(view: Mapping[str, Any], now: datetime) -> Pairing:
    """What a session's row means now. An expired code counts as none."""
    detail = view.get("detail") or {}
    if view["status"] == "connected":
        return Pairing(connected=plain(view.get("wa_name") or view.get("wa_number") or "this account"))
    expires_at = datetime.fromisoformat(detail["expiresAt"]) if detail.get("expiresAt") else None
    typed = plain(detail["pairing_code"]) if detail.get("pairing_code") else None
    if detail.get("qr") and (expires_at is None or expires_at > now):
        return Pairing(code=str(detail["qr"]), say=plain(detail.get("say") or ""), typed=typed, expires_at=expires_at)
    say = "Waiting for the next code." if detail.get("qr") else plain(detail.get("say") or "Waiting for the worker.")
    resting = view["status"] == "disconnected" and detail.get("state") in RESTING
    return Pairing(say=say, typed=typed, passkey=detail.get("passkey"), resting=resting)


def _show(pairing: Pairing, *, hint: bool) -> None:
    if pairing.code is None:
        err().print(pairing.say, markup=False)
        if pairing.resting and hint:
            err().print("No code will come by itself: `wa-worker link --refresh` asks for one.", markup=False)
        return
    lives = max(0.0, (pairing.expires_at.timestamp() - time.time()) if pairing.expires_at else 0.0)
    drawn = draw_qr(pairing.code)
    too_small = window_too_small(drawn, out())
    if too_small:
        err().print(too_small, markup=False)
    print(drawn, flush=True)
    out().print(f"Scan it: WhatsApp, Linked devices, Link a device. A new one comes in {lives:.0f} s.", markup=False)
    if pairing.say and not pairing.say.startswith("Scan the QR code"):
        out().print(pairing.say, markup=False)
    if too_small:  # the first line has scrolled away
        err().print(too_small, markup=False)

"""`wa-worker qr`: the code to scan, drawn where you sit, wherever the worker runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
import typer

from worker.commands.runtime import NotDone, perform
from worker.commands.show import err, out, plain, print_json
from worker.commands.terminal import draw_qr, window_too_small
from worker.session.flags import Ask
from worker.settings import Settings
from worker.store import Store

POLL_SECONDS = 0.5  # a code lives 20 s
RESTING = ("idle", "logged_out", "needs_you")  # no code comes unless somebody asks


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """What to show; exactly one of the first three is set."""

    connected: str | None = None
    code: str | None = None
    say: str | None = None
    expires_at: datetime | None = None
    resting: bool = False


def qr(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask for a new code first, if the worker has stopped asking.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1, help="Stop waiting after so many seconds (exit code 1).")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the present code as JSON and end (exit code 1 if there is none).")
    ] = False,
) -> None:
    """Draw the QR code to scan; follows each new one until the account is connected.

    Whoever sees the code can link the account: mind who looks on. Exit codes: 0 connected · 1 no worker, no code, or
    time-out · 2 a setting is wrong · 4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = settings.worker_session
        if refresh:
            await store.console.raise_flag(session, Ask.REFRESH.value)
        if json_:
            await _print_once(session, store)
            return
        with anyio.move_on_after(timeout) as scope:
            await _follow(session, store, hint=not refresh)
        if scope.cancelled_caught:
            raise NotDone("not connected in time")

    perform(work)


async def _print_once(session: str, store: Store) -> None:
    pairing = judge(await _view(session, store), datetime.now(UTC))
    if pairing.code is None:
        raise NotDone(f"no code: {pairing.say or f'connected as {pairing.connected}'}")
    print_json({"qr": pairing.code, "expiresAt": pairing.expires_at and pairing.expires_at.isoformat()})


async def _follow(session: str, store: Store, *, hint: bool) -> None:
    shown: object = None
    drawn = False
    while True:
        pairing = judge(await _view(session, store), datetime.now(UTC))
        if pairing.connected is not None:
            out().print(f"Connected as {pairing.connected}.", markup=False)
            return
        if (pairing.code, pairing.say) != shown:
            shown = (pairing.code, pairing.say)
            if pairing.code and drawn and out().is_terminal:
                out().clear()  # two codes on one screen: the phone may see the old one
            _show(pairing, hint=hint)
            drawn = drawn or pairing.code is not None
        await anyio.sleep(POLL_SECONDS)


async def _view(session: str, store: Store) -> Mapping[str, Any]:
    view = await store.console.pairing_view(session)
    if view is None:
        raise NotDone(f"no worker has ever served the session {session!r}: start one with `wa-worker up`")
    if not view["lease_held"]:
        raise NotDone("no worker is running, so no code is current: start one with `wa-worker up`")
    return view


def judge(view: Mapping[str, Any], now: datetime) -> Pairing:
    """What a session's row means at this moment; a code that has expired is none."""
    detail = view.get("detail") or {}
    if view["status"] == "connected":
        return Pairing(connected=plain(view.get("wa_name") or view.get("wa_number") or "this account"))
    expires_at = datetime.fromisoformat(detail["expiresAt"]) if detail.get("expiresAt") else None
    if detail.get("qr") and (expires_at is None or expires_at > now):
        return Pairing(code=str(detail["qr"]), expires_at=expires_at)
    say = "Waiting for the next code." if detail.get("qr") else plain(detail.get("say") or "Waiting for the worker.")
    return Pairing(say=say, resting=detail.get("state") in RESTING)


def _show(pairing: Pairing, *, hint: bool) -> None:
    if pairing.code is None:
        err().print(pairing.say, markup=False)
        if pairing.resting and hint:
            err().print("No code will come by itself: `wa-worker qr --refresh` asks for one.", markup=False)
        return
    lives = max(0.0, (pairing.expires_at.timestamp() - time.time()) if pairing.expires_at else 0.0)
    drawn = draw_qr(pairing.code)
    too_small = window_too_small(drawn, out())
    if too_small:
        err().print(too_small, markup=False)
    print(drawn, flush=True)
    out().print(f"Scan it: WhatsApp, Linked devices, Link a device. A new one comes in {lives:.0f} s.", markup=False)
    if too_small:  # the first has left the window
        err().print(too_small, markup=False)

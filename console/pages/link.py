"""Linking an account: the code to scan, the code to type, and unlinking."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from console.here import Here, here
from console.town import is_installed
from console.viewer import go_to
from worker.session.flags import PHONE, RequestKind

NOT_DIGITS = re.compile(r"[^0-9]")


async def page(request: Request) -> Response:
    place = here(request)
    values = {"turned_down": await _turned_down(place), "has_virtual_phone": is_installed()}
    return await place.show("link.html", values)


async def refresh(request: Request) -> Response:
    return await _ask(here(request), RequestKind.REFRESH)


async def ask_for_code(request: Request) -> Response:
    """A pairing code for a number, however it was written."""
    place = here(request)
    form = await place.act("pairing_code")
    number = NOT_DIGITS.sub("", form.get("phone", "")).removeprefix("00")
    if not PHONE.fullmatch(number):
        return go_to(f"{place.base}/link", did="bad_number")
    await _raise(place, RequestKind.PAIRING_CODE, phone=number)
    return go_to(f"{place.base}/link", did="code")


async def answer_passkey(request: Request) -> Response:
    """What the owner's browser signed, pasted. The worker removes it from the flag when it has it."""
    place = here(request)
    form = await place.act("passkey_answered")
    await _raise(place, RequestKind.PASSKEY_ANSWERED, assertion=form.get("assertion", ""))
    return go_to(f"{place.base}/link", did="passkey")


async def compare(request: Request) -> Response:
    """Whether the phone shows the code that this page showed."""
    place = here(request)
    form = await place.act("passkey_compared")
    await _raise(place, RequestKind.PASSKEY_COMPARED, code=form.get("code", ""), same=form.get("same") == "true")
    return go_to(f"{place.base}/link", did="compared")


async def confirm(request: Request) -> Response:
    return await here(request).show("disconnect.html", {})


async def disconnect(request: Request) -> Response:
    return await _ask(here(request), RequestKind.DISCONNECT)


async def _ask(place: Here, ask: RequestKind) -> Response:
    await place.act(ask.name.lower())
    await _raise(place, ask)
    return go_to(f"{place.base}/link", did=ask.name.lower())


async def _raise(place: Here, ask: RequestKind, **value: object) -> None:
    await place.database.ask(lambda store: store.console.raise_flag(place.session, ask.value, value))


async def _turned_down(place: Here) -> str:
    """Why the last request for a code was refused; empty if a code came after it, or nothing was refused lately."""
    rows = await place.database.read(
        "audit",
        lambda c: (
            c.table("audit_log")
            .select("event,payload")
            .eq("session_id", place.session)
            .in_("event", ["error", "pairing_code_generated", "connect", "console"])
            .order("at", desc=True)
            .limit(1)
        ),
    )
    payload = rows[0]["payload"] if rows else {}
    return str(payload.get("msg") or "") if payload.get("code") == "REQUEST_TURNED_DOWN" else ""

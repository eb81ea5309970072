"""The link page: the QR code, the pairing code, the passkey, and unlinking."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from console.context import PageContext, context_of
from console.town import is_installed
from console.viewer import go_to
from worker.session.flags import PHONE, RequestKind

NOT_DIGITS = re.compile(r"[^0-9]")


async def page(request: Request) -> Response:
    context = context_of(request)
    values = {"turned_down": await _turned_down(context), "has_virtual_phone": is_installed()}
    return await context.show("link.html", values)


async def refresh(request: Request) -> Response:
    return await _ask(context_of(request), RequestKind.REFRESH)


async def ask_for_code(request: Request) -> Response:
    """Request a pairing code for a number in any notation."""
    context = context_of(request)
    form = await context.act("pairing_code")
    number = NOT_DIGITS.sub("", form.get("phone", "")).removeprefix("00")
    if not PHONE.fullmatch(number):
        return go_to(f"{context.base}/link", did="bad_number")
    await _raise(context, RequestKind.PAIRING_CODE, phone=number)
    return go_to(f"{context.base}/link", did="code")


async def answer_passkey(request: Request) -> Response:
    """Submit the pasted answer of the owner's browser. The worker removes it from the flag after reading."""
    context = context_of(request)
    form = await context.act("passkey_answered")
    await _raise(context, RequestKind.PASSKEY_ANSWERED, assertion=form.get("assertion", ""))
    return go_to(f"{context.base}/link", did="passkey")


async def compare(request: Request) -> Response:
    """Submit whether the phone shows the same code as this page."""
    context = context_of(request)
    form = await context.act("passkey_compared")
    await _raise(context, RequestKind.PASSKEY_COMPARED, code=form.get("code", ""), same=form.get("same") == "true")
    return go_to(f"{context.base}/link", did="compared")


async def confirm(request: Request) -> Response:
    return await context_of(request).show("disconnect.html", {})


async def disconnect(request: Request) -> Response:
    return await _ask(context_of(request), RequestKind.DISCONNECT)


async def _ask(context: PageContext, ask: RequestKind) -> Response:
    await context.act(ask.name.lower())
    await _raise(context, ask)
    return go_to(f"{context.base}/link", did=ask.name.lower())


async def _raise(context: PageContext, ask: RequestKind, **value: object) -> None:
    await context.database.ask(lambda store: store.console.raise_flag(context.session, ask.value, value))


async def _turned_down(context: PageContext) -> str:
    """Why the last request for a code was refused; empty if a code came afterwards, or none was refused lately."""
    rows = await context.database.read(
        "audit",
        lambda c: (
            c.table("audit_log")
            .select("event,payload")
            .eq("session_id", context.session)
            .in_("event", ["error", "pairing_code_generated", "connect", "console"])
            .order("at", desc=True)
            .limit(1)
        ),
    )
    payload = rows[0]["payload"] if rows else {}
    return str(payload.get("msg") or "") if payload.get("code") == "REQUEST_TURNED_DOWN" else ""

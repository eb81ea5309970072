"""`wa-worker logout`: unlinks the account through the worker that serves it."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from worker.commands.runtime import NotDone, confirmed, perform
from worker.commands.show import out, plain, print_json
from worker.session.flags import RequestKind
from worker.settings import Settings
from worker.store import Store

POLL_SECONDS = 0.3


def logout(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the worker.")] = 60.0,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document; implies --yes.")] = False,
) -> None:
    """Log the account out and forget its credentials; stored messages stay.

    Raises wa_disconnect_requested, as the web app does, and waits for the worker. Exit codes: 0 logged out, or nothing
    was linked · 1 no worker is running, or it did not answer in time (the request stays) · 2 a setting is wrong ·
    4 Supabase does not answer.
    """

    async def work(settings: Settings, store: Store) -> None:
        session = settings.worker_session
        row = (await store.status(session)).get("session")
        if not row or (not row["has_creds"] and row["status"] == "disconnected"):
            _report("Nothing is linked.", json_, linked=False, asked=False)
            return
        if not row["lease_held"]:
            raise NotDone("no worker is running to log out with; start one, or unlink the device on the phone")
        if not (yes or json_) and not confirmed(
            "Unlink this WhatsApp account? A new QR code must be scanned to come back."
        ):
            raise NotDone("nothing was unlinked; --yes does not ask")
        at = await store.console.raise_flag(session, RequestKind.DISCONNECT.value)
        with anyio.move_on_after(timeout):
            await _until_handled(session, store, at)
            _report(
                "Logged out. The phone no longer lists this device; stored messages stay.",
                json_,
                linked=False,
                asked=True,
            )
            return
        raise NotDone(f"the worker did not log out within {timeout:g} s; the request stays (wa_disconnect_requested)")

    perform(work)


async def _until_handled(session: str, store: Store, at: str) -> None:
    """Wait until the flag is handled and the session shows it."""
    while True:
        if await store.console.flag_handled(session, RequestKind.DISCONNECT.value, at):
            row = (await store.status(session)).get("session") or {}
            if not row.get("has_creds"):
                return
        await anyio.sleep(POLL_SECONDS)


def _report(text: str, json_: bool, *, linked: bool, asked: bool) -> None:
    if json_:
        print_json({"linked": linked, "asked": asked})
    else:
        out().print(plain(text))

"""Every kind of close, as the virtual phone does it, and what a person does about it, if anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from testkit.database import Database
from testkit.phone import VirtualPhone

REFUSED_SECONDS = 0.5  # how long the port stays closed
SILENT_SECONDS = 30.0  # Baileys notices a silent server after its keep-alive and five seconds more

CHAINS = ("replayed_chain", "expired_chain", "future_chain", "foreign_leaf", "wrong_serial")

Inject = Callable[[VirtualPhone, Database], Awaitable[None]]


def _now(kind: str, **more: object) -> Inject:
    async def inject(phone: VirtualPhone, database: Database) -> None:
        await phone.fault(kind, **more)

    return inject


def _at_login(kind: str, **more: object) -> Inject:
    """The next login, or handshake, fails."""

    async def inject(phone: VirtualPhone, database: Database) -> None:
        await phone.fault(kind, **more)
        await phone.fault("drop")

    return inject


def _silent(kind: str) -> Inject:
    async def inject(phone: VirtualPhone, database: Database) -> None:
        last = await database.last_event()
        await phone.fault(kind)
        await database.wait_event("disconnect", last, seconds=SILENT_SECONDS)
        await phone.fault("clear")

    return inject


async def _refused(phone: VirtualPhone, database: Database) -> None:
    await phone.fault("refuse", on=True)
    await phone.fault("drop")
    await anyio.sleep(REFUSED_SECONDS)
    await phone.fault("refuse", on=False)


async def unlinked(phone: VirtualPhone, database: Database) -> None:
    await phone.unpair()
    await phone.scan(await database.wait_qr())


async def flagged(phone: VirtualPhone, database: Database) -> None:
    """The account is restricted; a person waits until it is not, and links it anew."""
    await phone.fault("flagged")

    async def removed() -> bool:
        return await database.status() == "disconnected"

    await database.until("status disconnected", removed, seconds=30)
    await phone.fault("clear")
    await database.raise_flag("wa_refresh_qr_requested")
    await phone.scan(await database.wait_qr())


async def _deaf_connection(phone: VirtualPhone, database: Database) -> None:
    """Pings pass and nothing comes, until somebody makes another connection."""
    await phone.fault("deaf_connection")
    await database.raise_flag("wa_refresh_qr_requested")


def _halts(inject: Inject) -> Inject:
    """The worker stays down; a person looks, and asks for a refresh."""

    async def until_a_person_comes(phone: VirtualPhone, database: Database) -> None:
        await inject(phone, database)

        async def needs_you() -> bool:
            return (await database.detail()).get("state") == "needs_you"

        await database.until("state needs_you", needs_you, seconds=30)
        await phone.fault("clear")
        await database.raise_flag("wa_refresh_qr_requested")

    return until_a_person_comes


CLOSES: dict[str, Inject] = {
    "stream error 515": _now("stream_error", code=515),
    "stream error 503": _now("stream_error", code=503),
    "stream error 500": _now("stream_error", code=500, text="text"),
    "stream error 500 (ack)": _now("stream_error", code=500, text="ack"),
    "TCP reset": _now("drop"),
    "WebSocket close": _now("close"),
    "end of stream": _now("xmlstreamend"),
    "unreadable frame": _now("corrupt_frame"),
    "deaf": _silent("deaf"),
    "mute": _silent("mute"),
    "port closed": _refused,
    "HTTP 503": _at_login("http_503", times=2),
    "garbled handshake": _at_login("garbage_handshake"),
    "405 outdated": _at_login("version_outdated"),
    "409 refused": _at_login("failure", reason=409),
    "599 unknown": _at_login("failure", reason=599),
    "402 for a second": _at_login("failure", reason=402, attrs={"code": "101", "expire": "1"}),
    "403 locked": _halts(_at_login("failure", reason=403)),
    "406 banned": _halts(_at_login("failure", reason=406)),
    "414 credentials": _halts(_at_login("failure", reason=414)),
    "440 replaced": _halts(_now("conflict", type="replaced")),
    "foreign certificate": _halts(_at_login("foreign_root", times=-1)),
    **{kind.replace("_", " "): _halts(_at_login(kind, times=-1)) for kind in CHAINS},
    "the backlog's end untold": _at_login("no_offline_end"),
    "a preview of too many": _at_login("preview_more", extra=50),
    "one stanza for ever": _at_login("offline_never_settles"),
    "deaf connection": _deaf_connection,
    "401 unlinked": unlinked,
    "401 flagged": flagged,
}
# The server forgets what waits for a device that is removed.
FORGETS = (unlinked, flagged)

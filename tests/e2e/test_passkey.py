"""Linking an account that WhatsApp gates behind its passkey (docs/whatsapp.md, "The passkey gate")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from testkit.database import Database, Row
from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.worker import Worker

pytestmark = pytest.mark.anyio

REQUEST = "passkey_prologue_request"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A worker with no account, and a virtual phone whose server asks for the passkey."""

    phone: VirtualPhone
    worker: Worker
    database: Database

    async def scan(self) -> None:
        await self.phone.scan(await self.database.wait_qr(tell=self.worker.child.tail))

    async def type_code(self) -> None:
        """Link by number and code instead."""
        number = (await self.phone.owner()).pn.partition("@")[0]
        await self.database.wait_qr(tell=self.worker.child.tail)
        await self.database.raise_flag("wa_pairing_code_requested", phone=number)
        await self.phone.pair_code((await self.detail_with("pairing_code"))["pairing_code"])

    async def detail_with(self, field: str, value: object = None) -> Row:
        """Wait until the session's detail has this field, or this value of it."""

        async def probe() -> Row | None:
            detail = await self.database.detail()
            found = detail.get(field)
            return detail if found is not None and (value is None or found == value) else None

        waited = self.database.until(f"detail.{field} {value or ''}", probe, tell=self.worker.child.tail)
        return cast(Row, await waited)

    async def acks(self, count: int = 1) -> list[str]:
        """Types of the notifications that were acked, with the error if one was named."""

        async def probe() -> list[str] | None:
            acks: list[str] = (await self.phone.passkey())["acks"]
            return acks if len(acks) >= count else None

        return cast(list[str], await self.database.until(f"{count} acks", probe, tell=self.worker.child.tail))


@asynccontextmanager
async def gated(
    folder: Path, supabase: EmbeddedSupabase, session: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Gate]:
    chosen = {**supabase.worker_env, "WORKER_SESSION": session, **(settings or {})}
    async with (
        await VirtualPhone.start(folder) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        await phone.realism(passkey=True)
        async with Worker.start(folder / "worker", phone=phone, settings=chosen) as worker:
            await worker.ready()
            yield Gate(phone=phone, worker=worker, database=database)


@pytest.mark.parametrize("way", ["scan", "type_code"])
async def test_whatsapp_asks_for_the_passkey_and_the_worker_says_so(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, way: str
) -> None:
    async with gated(tmp_path, supabase, session) as gate:
        await getattr(gate, way)()

        detail = await gate.detail_with("state", "needs_you")
        assert "passkey" in detail["say"]
        assert {"qr", "pairing_code"}.isdisjoint(detail)
        assert await gate.acks() == [REQUEST], "answered once, although Baileys cannot"
        ready = await gate.worker.get("/readyz")
        assert ready is not None
        assert [reason for reason in ready.json()["reasons"] if "passkey" in reason]
        assert detail["say"] in gate.worker.child.text()
        assert "Nobody scanned" not in gate.worker.child.text()
        (error,) = [e["payload"] for e in await gate.database.events("error")]
        assert (error["code"], error["msg"]) == ("NEEDS_A_PERSON", detail["say"])

        await gate.phone.realism(passkey=False)
        await gate.database.raise_flag("wa_refresh_qr_requested")
        await gate.scan()
        await gate.database.wait_status("connected", tell=gate.worker.child.tail)

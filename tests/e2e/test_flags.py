"""What the web app asks for through runtime_flags (contract §4 and ours): unlink, a new QR code, a pairing code."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.phone import PhoneError, VirtualPhone
from testkit.worker import Worker
from tests.e2e.town import found_town, link

pytestmark = pytest.mark.anyio


async def test_the_web_app_unlinks_the_account_and_later_links_it_again(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with found_town(tmp_path, supabase, session="flags") as town:
        tell = town.worker.child.tail
        last = await town.database.last_event()
        await town.database.raise_flag("wa_disconnect_requested")

        await town.database.wait_status("disconnected", tell=tell)
        await town.database.wait_flag_handled("wa_disconnect_requested", tell=tell)
        await town.database.wait_event("disconnect", last, tell=tell)
        row = await town.database.session_row()
        assert row is not None
        assert row["creds_json"] is None, "nothing is left that could log in"
        assert [item for item in await town.phone.log() if item["kind"] == "logout"], "WhatsApp was told"

        await town.database.raise_flag("wa_refresh_qr_requested")
        await link(town.phone, town.worker, town.database)
        await town.database.wait_flag_handled("wa_refresh_qr_requested", tell=tell)
        row = await town.stored("Ana", town.market, "linked again, and the switches are as they were")
        assert row["chat_id"] == town.market.id


async def test_a_qr_code_that_whatsapp_retires_is_replaced_by_one_that_links(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    settings = {**supabase.worker_env, "WORKER_SESSION": "retired"}
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, "retired") as database,
        Worker.start(tmp_path / "worker", phone=phone, settings=settings) as worker,
    ):
        await worker.ready()
        first = await database.wait_qr(tell=worker.child.tail)
        await phone.fault("retire_qr", qr=first)

        async def replacement() -> str | None:
            shown: str | None = (await database.detail()).get("qr")
            return shown if shown != first else None

        second = await database.until("another code in detail.qr", replacement, tell=worker.child.tail)
        assert "that is expected: close it and scan the new code" in (await database.detail())["say"]
        await phone.scan(second)
        await database.wait_status("connected", tell=worker.child.tail)


async def test_the_present_version_is_fetched_so_that_the_scan_does_not_fail_on_the_phone(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    present = "2.3000.1999999999"
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, "version") as database,
    ):
        await phone.realism(min_version=present, web_version=present)
        settings = {
            **supabase.worker_env,
            "WORKER_SESSION": "version",
            "WA_VERSION_URL": f"{phone.control_url}/sw.js",
        }
        async with Worker.start(tmp_path / "worker", phone=phone, settings=settings) as worker:
            await worker.ready()
            await link(phone, worker, database)
            detail = await database.detail()
            assert detail["claims"]["version"] == present
            assert detail["claims"]["source"] == "fetched"
            assert detail["version"] == [2, 3000, 1999999999], "kept: it worked"
            assert detail["version_at"] == detail["claims"]["at"]
            connects = [event["payload"] for event in await database.events() if event["event"] == "connect"]
            assert connects[-1]["claims"] == detail["claims"]


async def test_a_phone_is_linked_by_its_number_and_a_code_instead_of_a_qr(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    settings = {**supabase.worker_env, "WORKER_SESSION": "code"}
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, "code") as database,
        Worker.start(tmp_path / "worker", phone=phone, settings=settings) as worker,
    ):
        number = (await phone.owner()).pn.partition("@")[0]
        await worker.ready()
        await database.wait_qr(tell=worker.child.tail)
        await database.raise_flag("wa_pairing_code_requested", phone=f"+{number[:2]} {number[2:]}")

        async def pairing_code() -> str | None:
            return (await database.detail()).get("pairing_code")

        code = await database.until("detail.pairing_code", pairing_code, tell=worker.child.tail)
        detail = await database.detail()
        await phone.pair_code(code)

        await database.wait_status("connected", tell=worker.child.tail)
        row = await database.session_row()
        assert row is not None
        assert "Enter the pairing code on the phone" in detail["say"]
        assert detail["qr"], "both ways stay open"
        assert {"qr", "pairing_code"}.isdisjoint(row["detail"])
        assert row["wa_number"] == number
        await database.wait_flag_handled("wa_pairing_code_requested", tell=worker.child.tail)
        assert {"pairing_code_generated", "connect"} <= {each["event"] for each in await database.events()}
        assert [item["phone"] for item in await phone.log() if item["kind"] == "code_requested"] == [number]


async def test_a_pairing_code_that_whatsapp_retires_is_replaced_and_said_to_be_dead(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    settings = {**supabase.worker_env, "WORKER_SESSION": "newcode"}
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, "newcode") as database,
        Worker.start(tmp_path / "worker", phone=phone, settings=settings) as worker,
    ):
        number = (await phone.owner()).pn.partition("@")[0]
        await worker.ready()
        await database.wait_qr(tell=worker.child.tail)
        await database.raise_flag("wa_pairing_code_requested", phone=number)

        async def another_code(than: str | None = None) -> str:
            async def probe() -> str | None:
                code = (await database.detail()).get("pairing_code")
                return code if code != than else None

            return str(await database.until("detail.pairing_code", probe, tell=worker.child.tail))

        first = await another_code()
        await phone.post("/pair_code/refresh", {})
        second = await another_code(than=first)
        assert "has retired the previous pairing code" in (await database.detail())["say"]
        with pytest.raises(PhoneError):
            await phone.pair_code(first)

        await phone.post("/pair_code/refresh", {"force_manual_refresh": True})
        error = await database.wait_event("error", tell=worker.child.tail)
        assert error["payload"]["code"] == "PAIRING_CODE_RETIRED"
        detail = await database.detail()
        assert "pairing_code" not in detail, "WhatsApp wants a person to ask for the next one"
        assert "Ask for another one" in detail["say"]

        await database.raise_flag("wa_pairing_code_requested", phone=number)
        third = await another_code()
        assert third not in (first, second)
        await phone.pair_code(third)
        await database.wait_status("connected", tell=worker.child.tail)


async def test_a_pairing_code_that_nobody_types_does_not_stand_in_the_way_of_a_qr(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    settings = {**supabase.worker_env, "WORKER_SESSION": "nocode"}
    async with (
        await VirtualPhone.start(tmp_path) as phone,
        await Database.connect(supabase.url, supabase.service_key, "nocode") as database,
        Worker.start(tmp_path / "worker", phone=phone, settings=settings) as worker,
    ):
        await worker.ready()
        first = await database.wait_qr(tell=worker.child.tail)
        await database.raise_flag("wa_pairing_code_requested", phone="4915112345678")
        await database.wait_event("pairing_code_generated", tell=worker.child.tail)
        await database.raise_flag("wa_refresh_qr_requested")

        async def another_qr() -> bool:
            return await database.qr() not in (None, first)

        await database.until("a new QR", another_qr, tell=worker.child.tail)
        assert "pairing_code" not in await database.detail()
        await link(phone, worker, database)
        assert not [item for item in await phone.log() if item["kind"] == "login_refused"]

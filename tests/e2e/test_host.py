"""`wa-worker host`: several accounts in one process, each with the real sidecar, linked to the virtual phone."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from testkit.commands import Commands
from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.grafana import HOST_METRICS, metric_names
from testkit.phone import Group, VirtualPhone
from testkit.worker import Worker
from tests.chaos.proxy import FaultProxy, Rule

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SECONDS = 90.0
NAMES = ("Olivia", "Pia", "Quinn")


@dataclass(frozen=True, kw_only=True)
class Account:
    """One account, its session's row, and the group that its session stores."""

    phone: VirtualPhone
    database: Database
    group: Group

    @property
    def session(self) -> str:
        return self.database.session

    async def change(self, **columns: object) -> None:
        """As the web app, or `wa-worker sessions`, writes the row."""
        row = {"id": self.session, **columns}
        await self.database.client.table("wa_sessions").upsert(row).execute()

    async def link(self, host: Worker) -> None:
        await self.phone.scan(await self.database.wait_qr(seconds=SECONDS, tell=host.child.tail))
        await self.database.wait_status("connected", seconds=SECONDS, tell=host.child.tail)
        await self.database.wait_groups([self.group.id], tell=host.child.tail)
        await self.database.monitor([self.group.id])
        await self.database.fetch_groups(tell=host.child.tail)

    async def stored(self, host: Worker, text: str) -> None:
        sent = await self.phone.send("Ana", self.group.id, text)
        row = await self.database.wait_message(sent.id, seconds=SECONDS, tell=host.child.tail)
        assert row["text"] == text

    async def holder(self) -> str | None:
        owner: str | None = ((await self.database.session_row()) or {})["lease_owner"]
        return owner


@asynccontextmanager
async def accounts(folder: Path, supabase: EmbeddedSupabase, number: int) -> AsyncIterator[list[Account]]:
    """So many accounts on one server, each with a wanted session. None is wanted any more at the end."""
    async with await VirtualPhone.start(folder) as first, AsyncExitStack() as stack:
        phones = [first, *[await first.another(name) for name in NAMES[1:number]]]
        found = []
        for name, phone in zip(NAMES, phones, strict=False):
            session = f"{name.lower()}-{uuid4().hex[:6]}"
            database = await Database.connect(supabase.url, supabase.service_key, session)
            await stack.enter_async_context(database)
            group = await phone.group(f"Group of {name}", ("Ana", name), "lid")
            account = Account(phone=phone, database=database, group=group)
            await account.change(wanted=True)
            found.append(account)
        try:
            yield found
        finally:
            with anyio.CancelScope(shield=True):
                for account in found:
                    await account.change(wanted=False)


@asynccontextmanager
async def host(
    folder: Path, supabase: EmbeddedSupabase, phone: VirtualPhone, capacity: int = 5, **more: str
) -> AsyncIterator[Worker]:
    settings = {**supabase.worker_env, "WORKER_CATCH_UP_S": "3600", **more}
    arguments = ["--capacity", str(capacity)]
    worker = Worker.start(folder, phone=phone, settings=settings, name="host", command="host", arguments=arguments)
    async with worker:
        await worker.ready()
        yield worker


async def sessions(worker: Worker) -> dict[str, Any]:
    answer = await worker.get("/readyz")
    return dict(answer.json()["sessions"]) if answer is not None else {}


async def sidecar(worker: Worker, account: Account, *, other_than: int | None = None) -> int:
    """The process id of its sidecar, once it has one."""

    async def probe() -> int | None:
        pid = (await sessions(worker)).get(account.session, {}).get("sidecar", {}).get("pid")
        return pid if pid != other_than else None

    return int(await account.database.until("a sidecar", probe, seconds=SECONDS, tell=worker.child.tail))


async def test_one_host_serves_several_accounts_and_what_happens_to_one_leaves_the_others_alone(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with (
        accounts(tmp_path, supabase, 3) as (olivia, pia, quinn),
        host(tmp_path / "one", supabase, olivia.phone) as one,
    ):
        everybody = [olivia, pia, quinn]
        for account in everybody:
            await account.link(one)
        for account in everybody:
            await account.stored(one, f"for {account.session} alone")
            assert [row["text"] for row in await account.database.messages()] == [f"for {account.session} alone"]
        assert len({await account.holder() for account in everybody}) == 1

        pids = {account.session: await sidecar(one, account) for account in everybody}
        os.kill(pids[pia.session], signal.SIGKILL)
        await sidecar(one, pia, other_than=pids[pia.session])
        await pia.stored(one, "after a crash")
        for account in (olivia, quinn):
            await account.stored(one, "while another crashed")
            assert await sidecar(one, account) == pids[account.session], "it went on"

        await quinn.change(wanted=False)

        async def given_back() -> bool:
            return await quinn.holder() is None and quinn.session not in await sessions(one)

        await quinn.database.until("the session to stop", given_back, seconds=SECONDS, tell=one.child.tail)
        detail = await quinn.database.detail()
        assert (detail["state"], "not wanted" in detail["say"]) == ("stopped", True)
        assert (await olivia.database.rows("wa_sessions", id=quinn.session))[0]["creds_json"] is not None
        await olivia.stored(one, "and one stopped")
        page = await one.get("/metrics")
        assert page is not None
        assert f'wa_lease_held{{session="{olivia.session}"}} 1.0' in page.text
        assert f'wa_lease_held{{session="{quinn.session}"}}' not in page.text
        assert f'wa_session_stopped_timestamp_seconds{{session="{quinn.session}"}}' in page.text
        held = page.text.count("\nwa_lease_held{")  # other tests' sessions in the same database may be among them
        assert held >= 2
        assert f"wa_host_sessions {float(held)}\n" in page.text
        wanted = {name for name in metric_names() if name.startswith(HOST_METRICS)}
        assert {name for name in wanted if name not in page.text} == set()


async def test_an_account_s_life_from_the_outside(tmp_path: Path, supabase: EmbeddedSupabase) -> None:
    """Added by a row, linked by the QR code in its row, stopped, started again, removed without and with its data."""
    wa = Commands(supabase.worker_env)
    async with accounts(tmp_path, supabase, 1) as (olivia,), host(tmp_path / "one", supabase, olivia.phone) as one:

        async def until_free() -> None:
            async def free() -> bool:
                return await olivia.holder() is None

            await olivia.database.until("the host to give it back", free, seconds=SECONDS, tell=one.child.tail)

        await olivia.link(one)
        await olivia.stored(one, "first")

        await olivia.change(wanted=False)
        await until_free()
        waiting = await olivia.phone.send("Ana", olivia.group.id, "while it was stopped")
        await olivia.change(wanted=True)
        await olivia.database.wait_message(waiting.id, seconds=SECONDS, tell=one.child.tail)
        assert await olivia.database.qr() is None, "it is linked still"

        await olivia.change(wanted=False)
        await until_free()
        removed = await wa("sessions", "remove", olivia.session, "--yes")
        assert (removed.code, removed.out) == (0, f"{olivia.session} is removed.\n")
        assert [row["text"] for row in await olivia.database.messages()] == ["first", "while it was stopped"]
        await olivia.change(wanted=True)
        await olivia.link(one)
        await olivia.stored(one, "linked again")
        assert len(await olivia.database.messages()) == 3

        assert (await wa("sessions", "stop", olivia.session)).code == 0
        removed = await wa("sessions", "remove", olivia.session, "--with-data", "--yes")
        assert removed.code == 0, removed.err
        for table in ("wa_sessions", "messages", "groups", "audit_log"):
            name = "id" if table == "wa_sessions" else "session_id"
            assert await olivia.database.rows(table, **{name: olivia.session}) == [], table
        assert olivia.session not in await sessions(one)


async def test_a_stopped_host_hands_all_over_and_the_next_one_takes_them(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with accounts(tmp_path, supabase, 2) as both, host(tmp_path / "one", supabase, both[0].phone) as one:
        for account in both:
            await account.link(one)
        waiting = [await account.phone.send("Ana", account.group.id, "before the stop") for account in both]
        for account, sent in zip(both, waiting, strict=True):
            await account.database.wait_message(sent.id, seconds=SECONDS, tell=one.child.tail)
        owner = await both[0].holder()
        one.child.process.send_signal(signal.SIGTERM)

        async def ended() -> bool:
            return not one.child.running

        await both[0].database.until("its end", ended, seconds=SECONDS, tell=one.child.tail)
        assert one.child.process.returncode == 0, one.child.tail()
        assert [await account.holder() for account in both] == [None, None]
        assert await both[0].database.rows("wa_hosts", owner=owner) == [], "other hosts wait for its turn"
        later = [await account.phone.send("Ana", account.group.id, "while nobody served") for account in both]
        async with host(tmp_path / "two", supabase, both[0].phone) as two:
            for account, sent in zip(both, later, strict=True):
                await account.database.wait_message(sent.id, seconds=SECONDS, tell=two.child.tail)
                assert len(await account.database.messages()) == 2


async def test_a_host_above_its_share_gives_a_session_to_another_and_its_messages_arrive(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with (
        accounts(tmp_path, supabase, 3) as everybody,
        host(tmp_path / "one", supabase, everybody[0].phone, WORKER_LEASE_S="4") as one,
    ):
        for account in everybody:
            await account.link(one)
            await account.stored(one, "before")
        first = await everybody[0].holder()
        pids = {account.session: await sidecar(one, account) for account in everybody}
        async with host(tmp_path / "two", supabase, everybody[0].phone, WORKER_LEASE_S="4") as two:

            async def moved() -> Account | None:
                for account in everybody:
                    if await account.holder() not in (None, first) and await account.database.status() == "connected":
                        return account
                return None

            mover = await everybody[0].database.until("a session to move", moved, seconds=SECONDS, tell=two.child.tail)
            await mover.stored(two, "after")
            assert [row["text"] for row in await mover.database.messages()] == ["before", "after"]
            assert list(await sessions(two)) == [mover.session]
            for account in everybody:
                if account is not mover:
                    await account.stored(one, "stayed")
                    assert await sidecar(one, account) == pids[account.session]


async def test_a_claim_whose_answer_is_lost_on_the_way_is_served_at_the_next_poll(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    """The host does not know what it holds. Its lease would last ten minutes, longer than this test."""
    async with accounts(tmp_path, supabase, 1) as (olivia,), FaultProxy(supabase.url, "lost") as proxy:
        lost = proxy.arm(Rule(kind="lost_answer", function="wa_host_poll", times=1))  # its first: it claims
        settings = {"SUPABASE_URL": proxy.url, "WORKER_LEASE_S": "600"}
        async with host(tmp_path / "one", supabase, olivia.phone, 5, **settings) as one:
            await olivia.link(one)
            await olivia.stored(one, "served")
            assert lost.over
            assert ((await olivia.database.session_row()) or {})["fence"] == 2


async def test_settings_of_a_session_are_obeyed_changed_and_refused_whole(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with accounts(tmp_path, supabase, 1) as (olivia,), host(tmp_path / "one", supabase, olivia.phone) as one:
        await olivia.link(one)
        first = await sidecar(one, olivia)
        await olivia.change(settings={"catch_up_s": 60, "revoke": "blank"})
        await sidecar(one, olivia, other_than=first)
        sent = await olivia.phone.send("Ana", olivia.group.id, "to be revoked")
        await olivia.database.wait_message(sent.id, seconds=SECONDS, tell=one.child.tail)
        await olivia.phone.post("/revoke", {"from": "Ana", "to": olivia.group.id, "id": sent.id})

        async def blank() -> bool:
            row = await olivia.database.message(sent.id)
            return row is not None and row["text"] is None

        await olivia.database.until("the text to go", blank, seconds=SECONDS, tell=one.child.tail)

        await olivia.change(settings={"catch_up": 60})

        async def refused() -> bool:
            detail = await olivia.database.detail()
            return detail["state"] == "needs_you" and "settings.catch_up: there is no such setting" in detail["say"]

        await olivia.database.until("it to say what is wrong", refused, seconds=SECONDS, tell=one.child.tail)
        assert (await sessions(one))[olivia.session]["sidecar"]["pid"] is None
        answer = await one.get("/readyz")
        assert answer is not None
        assert answer.status_code == 200, "one account's trouble is not the host's"
        await olivia.change(settings={})
        await olivia.stored(one, "served again")

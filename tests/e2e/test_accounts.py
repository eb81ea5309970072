"""Several accounts on one server, and several devices of one account: a worker each."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from testkit.database import Database
from testkit.embedded import EmbeddedSupabase
from testkit.phone import Group, Sent, VirtualPhone
from testkit.worker import Worker
from tests.e2e.town import link

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@dataclass(frozen=True, kw_only=True)
class Linked:
    """A worker with a session of its own, linked to `phone` as device number `device`."""

    worker: Worker
    database: Database
    device: int

    async def stored(self, sent: Sent) -> str | None:
        row = await self.database.wait_message(sent.id, tell=self.worker.child.tail)
        text: str | None = row["text"]
        return text


async def linked(stack: AsyncExitStack, folder: Path, supabase: EmbeddedSupabase, phone: VirtualPhone) -> Linked:
    session = f"account-{uuid4().hex[:6]}"
    settings = {**supabase.worker_env, "WORKER_SESSION": session}
    database = await stack.enter_async_context(await Database.connect(supabase.url, supabase.service_key, session))
    worker = await stack.enter_async_context(Worker.start(folder / session, phone=phone, settings=settings))
    await link(phone, worker, database)
    return Linked(worker=worker, database=database, device=(await phone.state())["me"]["device"])


async def watch(one: Linked, group: Group) -> None:
    await one.database.wait_groups([group.id], tell=one.worker.child.tail)
    await one.database.monitor([group.id])
    await one.database.fetch_groups(tell=one.worker.child.tail)


async def test_two_accounts_and_a_second_device_of_one_each_have_a_worker_that_misses_nothing(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    async with await VirtualPhone.start(tmp_path) as olivia, AsyncExitStack() as stack:
        pia = await olivia.another("Pia")
        group = await olivia.group("Both", ("Ana", "Pia"), "lid")
        first = await linked(stack, tmp_path, supabase, olivia)
        second = await linked(stack, tmp_path, supabase, olivia)
        other = await linked(stack, tmp_path, supabase, pia)
        for one in (first, second, other):
            await watch(one, group)

        sent = await olivia.send("Ana", group.id, "to everybody")
        assert [await one.stored(sent) for one in (first, second, other)] == ["to everybody"] * 3

        await olivia.unpair(first.device)
        await first.database.wait_qr(tell=first.worker.child.tail)  # it was unlinked, and may be linked anew
        later = await olivia.send("Ana", group.id, "one less")
        assert [await one.stored(later) for one in (second, other)] == ["one less"] * 2
        assert await first.database.message(later.id) is None
        assert [await one.database.status() for one in (second, other)] == ["connected"] * 2

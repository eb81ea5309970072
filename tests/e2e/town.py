"""A small place in which end-to-end tests happen: a virtual phone, a linked worker, a few people, three groups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from testkit.database import Database, Row
from testkit.embedded import EmbeddedSupabase
from testkit.phone import Group, Media, Person, Sent, VirtualPhone
from testkit.worker import Worker

SEEDS = Path(__file__).resolve().parents[2] / "seeds" / "media"
MEMBERS = ("Ana", "Ben", "Chika", "Dora")


@dataclass(frozen=True, kw_only=True)
class Linking:
    """What was seen in wa_sessions while the phone was linked."""

    before_scan: Row
    seen_at: datetime
    after_scan: Row


@dataclass(kw_only=True)
class Town:
    """Everything that a test of a running, linked worker needs."""

    phone: VirtualPhone
    worker: Worker
    database: Database
    supabase: EmbeddedSupabase
    folder: Path
    people: Mapping[str, Person]
    owner: Person
    market: Group  # monitored, LID-addressed
    crew: Group  # monitored, addressed by phone number
    family: Group  # not monitored
    linking: Linking

    async def stored(self, sender: str, group: Group, text: str | None = None, **more: object) -> Row:
        """Send a message and wait for its row."""
        sent = await self.phone.send(sender, group.id, text, **more)  # type: ignore[arg-type]
        return await self.row(sent)

    async def stored_media(self, sender: str, group: Group, media: Media) -> Row:
        """Send a file and wait until its row is linked to it."""
        sent = await self.phone.send(sender, group.id, media=media)
        return await self.database.wait_media(sent.id, tell=self.worker.child.tail)

    async def row(self, sent: Sent) -> Row:
        return await self.database.wait_message(sent.id, tell=self.worker.child.tail)

    async def media_row(self, media_id: int) -> Row:
        return (await self.database.rows("media", id=media_id))[0]


@asynccontextmanager
async def found_town(
    folder: Path,
    supabase: EmbeddedSupabase,
    *,
    session: str = "default",
    settings: Mapping[str, str] | None = None,
    command: str = "run",
) -> AsyncIterator[Town]:
    """Start a phone and a worker, link them, make the groups and switch two of them on."""
    chosen = {**supabase.worker_env, "WORKER_SESSION": session, **(settings or {})}
    async with (
        await VirtualPhone.start(folder) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        people = {name: await phone.person(name) for name in MEMBERS}
        market = await phone.group("Market", MEMBERS, "lid")
        crew = await phone.group("Crew", MEMBERS, "pn")
        family = await phone.group("Family", MEMBERS, "lid")
        async with Worker.start(folder / "worker", phone=phone, settings=chosen, command=command) as worker:
            linking = await link(phone, worker, database)
            await database.wait_groups([market.id, crew.id, family.id], tell=worker.child.tail)
            await database.monitor([market.id, crew.id])
            await database.fetch_groups(tell=worker.child.tail)
            yield Town(
                phone=phone,
                worker=worker,
                database=database,
                supabase=supabase,
                folder=folder,
                people=people,
                owner=await phone.owner(),
                market=market,
                crew=crew,
                family=family,
                linking=linking,
            )
            await owes_nothing(phone)


async def owes_nothing(phone: VirtualPhone) -> None:
    """Fail if any answer to WhatsApp was a wrong one, or so late that the stream was ended for it."""
    faults = [line for line in await phone.log() if line["kind"] in ("debt", "bad_ack")]
    assert faults == []


async def link(phone: VirtualPhone, worker: Worker, database: Database) -> Linking:
    """Scan the QR that the web app would show, and wait until the session is connected."""
    await worker.ready()
    qr = await database.wait_qr(tell=worker.child.tail)
    before = await database.session_row()
    seen_at = datetime.now(UTC)
    await phone.scan(qr)
    await database.wait_status("connected", tell=worker.child.tail)
    after = await database.session_row()
    assert before is not None
    assert after is not None
    return Linking(before_scan=before, seen_at=seen_at, after_scan=after)


def photo(name: str = "hills.jpg", **more: object) -> Media:
    """One of the seeds' pictures."""
    size = {"hills.jpg": (960, 640), "oranges.jpg": (900, 675)}[name]
    return Media(
        kind="image",
        data=(SEEDS / name).read_bytes(),
        mime="image/jpeg",
        width=size[0],
        height=size[1],
        **more,  # type: ignore[arg-type]
    )

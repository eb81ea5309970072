"""`wa-worker media work`: several processes on one backlog; one that is killed; one that has no phone to ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from testkit.blobs import MEDIA_KEY, Sealed, seal
from testkit.cdn import Cdn, Exchange, cdn_on_loopback, serving, status
from testkit.processes import PYTHON, Child
from testkit.stanzas import b64, make_key, make_rules, make_stanza
from testkit.waiting import until
from testkit.worker import environment
from tests.integration.database import GROUP, Writer, rows, writer
from worker.bridge.protocol import Commit
from worker.ingest.rules.batch import ingest
from worker.media.download import Limits, Source, open_downloader
from worker.media.jobs import ClaimOptions, MediaRunner
from worker.media.remote import Json
from worker.media.reupload import Reuploads
from worker.media.transfer import Transfers
from worker.store import Store
from worker.store.embedded import Endpoint

pytestmark = pytest.mark.anyio

BACKLOG = 30
LEASE_SECONDS = 3
SEEDS = Path(__file__).parents[2] / "seeds" / "media"


@pytest.fixture
async def cdn(tmp_path: Path) -> AsyncIterator[Cdn]:
    async with cdn_on_loopback(tmp_path) as running:
        yield running


@pytest.fixture
async def me(store: Store, session: str) -> Writer:
    return await writer(store, session)


async def waiting_files(me: Writer, cdn: Cdn, count: int) -> dict[str, Sealed]:
    """A backlog: messages whose files the server has, and no process that fetches them."""
    sealed = {f"M{number}": seal((SEEDS / "sticker.webp").read_bytes() + uuid4().bytes) for number in range(count)}
    stanzas = []
    for name, file in sealed.items():
        cdn.routes[f"/{name}"] = serving(file.blob)
        body = {
            "mediaKey": b64(MEDIA_KEY),
            "directPath": f"/{name}",
            "fileSha256": b64(bytes.fromhex(file.sha256)),
            "fileEncSha256": b64(bytes.fromhex(file.enc_sha256)),
            "fileLength": str(len(file.plain)),
            "mimetype": "image/webp",
        }
        stanzas.append(make_stanza({"stickerMessage": body}, key=make_key(remoteJid=GROUP, id=name)))
    commit = Commit(epoch=1, seq=1, stanzas=stanzas, events=[])
    await me.commit(**ingest(commit, make_rules(monitored={GROUP}), stanzas[0].arrived_at_ms))
    return sealed


def media_worker(folder: Path, endpoint: Endpoint, cdn: Cdn, session: str, *options: str) -> Child:
    """`wa-worker media work` as on another machine: it is told of Supabase and nothing else."""
    name = f"media-{uuid4().hex[:4]}"
    settings = {
        "SUPABASE_URL": endpoint.url,
        "SUPABASE_SERVICE_KEY": endpoint.key,
        "WORKER_SESSION": session,
        "WA_MEDIA_ORIGIN": cdn.origin,
        "WA_MEDIA_CA": str(cdn.ca),
    }
    command: list[str | Path] = [PYTHON, "-m", "worker", "media", "work", *options]
    return Child.start(name, command, log=folder / f"{name}.log", env=environment(settings))


async def statuses(store: Store, session: str) -> list[str]:
    return [row["media_status"] for row in await rows(store, "messages", session)]


async def test_two_processes_share_a_backlog_and_do_each_job_once(
    tmp_path: Path, embedded: Endpoint, store: Store, session: str, me: Writer, cdn: Cdn
) -> None:
    backlog = await waiting_files(me, cdn, BACKLOG)
    workers = [media_worker(tmp_path, embedded, cdn, session, "--until-empty") for _ in range(2)]
    try:
        codes = [await worker.wait(60) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()

    assert codes == [0, 0], "\n".join(worker.tail() for worker in workers)
    assert await statuses(store, session) == ["stored"] * BACKLOG
    assert await rows(store, "media_jobs", session) == []
    assert dict(cdn.requests) == {f"/{name}": 1 for name in backlog}, "each file was fetched once"


async def test_the_jobs_of_a_killed_process_are_taken_over_when_their_lease_ends(
    tmp_path: Path, embedded: Endpoint, store: Store, session: str, me: Writer, cdn: Cdn
) -> None:
    backlog = await waiting_files(me, cdn, 3)
    begun = anyio.Event()

    async def endless(exchange: Exchange) -> None:
        begun.set()
        await exchange.over.wait()

    for name in backlog:
        cdn.routes[f"/{name}"] = endless
    first = media_worker(tmp_path, embedded, cdn, session, "--lease", str(LEASE_SECONDS))
    second: Child | None = None
    try:
        with anyio.fail_after(60):
            await begun.wait()
        first.kill()
        held = [row for row in await rows(store, "media_jobs", session) if row["lease_owner"]]
        assert held, "it was killed in the middle of its work"
        for name, file in backlog.items():
            cdn.routes[f"/{name}"] = serving(file.blob)
        second = media_worker(tmp_path, embedded, cdn, session, "--lease", str(LEASE_SECONDS))

        async def done() -> bool:
            return await statuses(store, session) == ["stored"] * len(backlog)

        await until("the killed one's files", done, seconds=60, tell=second.tail)
        assert await second.stop() == 0
    finally:
        first.kill()
        if second is not None:
            second.kill()


async def test_an_expired_file_goes_to_the_phones_worker_and_back(
    tmp_path: Path, embedded: Endpoint, store: Store, session: str, me: Writer, cdn: Cdn
) -> None:
    ((name, file),) = (await waiting_files(me, cdn, 1)).items()
    cdn.routes[f"/{name}"] = status("404 Not Found")
    cdn.routes["/again"] = serving(file.blob)
    asked: list[str] = []

    async def refresh(key: Json, content: Json) -> Json:
        asked.append(key["id"])
        return {"stickerMessage": {"directPath": "/again"}}

    async with open_downloader(Source(origin=cdn.origin, ca=cdn.ca), Limits(max_bytes=1_000_000)) as downloader:
        options = ClaimOptions(owner="with-a-phone", concurrency=1, session=session)
        reuploads = Reuploads(refresh, limit=1, has_phone=lambda: bool(begun))
        linked = MediaRunner(store, Transfers(store, downloader), options, reuploads)
        begun: list[str] = []
        away = media_worker(tmp_path, embedded, cdn, session)
        try:

            async def handed_over() -> bool:
                return any(job["wants_phone_at"] for job in await rows(store, "media_jobs", session))

            await until("the job in the phone's hands", handed_over, seconds=60, tell=away.tail)
            begun.append("the phone is there")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(linked.run)

                async def stored() -> bool:
                    return await statuses(store, session) == ["stored"]

                await until("the file", stored, seconds=30, tell=away.tail)
                tasks.cancel_scope.cancel()
            assert await away.stop() == 0
        finally:
            away.kill()
    assert asked == [name]

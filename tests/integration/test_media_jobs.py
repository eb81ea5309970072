"""Media jobs over real parts: the embedded Supabase, a server of files over TLS, the ingest's own descriptors."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from testkit.blobs import MEDIA_KEY, Sealed, seal
from testkit.cdn import Cdn, Exchange, Handler, cdn_on_loopback, first, serving, status
from testkit.stanzas import b64, make_key, make_rules, make_stanza
from testkit.waiting import until
from tests.integration.database import GROUP, Writer, rows, table, writer
from tests.unit.media_corpus import CORPUS, Sample
from worker.bridge.protocol import Commit
from worker.commands.prune import delete_objects
from worker.errors import CallTimeout, MediaExpired, MediaUnavailable, StoreUnavailable
from worker.ingest.rules.batch import ingest
from worker.media.download import Downloader, Limits, Source, open_downloader
from worker.media.file_types import EXTENSIONS, OTHER_MAX_BYTES
from worker.media.jobs import ClaimOptions, MediaRunner
from worker.media.remote import Json
from worker.media.reupload import Reuploads
from worker.media.steps import CORRUPT_ATTEMPTS
from worker.media.transfer import Transfers
from worker.store import Store

MAX_BYTES = 2 * 1024 * 1024
WAIT_SECONDS = 15.0
SEEDS = Path(__file__).parents[2] / "seeds" / "media"


def photo(extra: bytes = b"") -> Sealed:
    """A photo that no other test has."""
    return seal((SEEDS / "hills.jpg").read_bytes() + uuid4().bytes + extra)


@pytest.fixture
async def cdn(tmp_path: Path) -> AsyncIterator[Cdn]:
    async with cdn_on_loopback(tmp_path) as running:
        yield running


@pytest.fixture
async def downloader(cdn: Cdn) -> AsyncIterator[Downloader]:
    limits = Limits(max_bytes=MAX_BYTES, connect_s=2.0, read_s=2.0, total_s=5.0)
    async with open_downloader(Source(origin=cdn.origin, ca=cdn.ca), limits) as ready:
        yield ready


@dataclass
class Desk:
    """One session with its runner: messages go in, rows and objects come out. Pauses are noted, not slept."""

    store: Store
    me: Writer
    cdn: Cdn
    downloader: Downloader
    pauses: list[float] = field(default_factory=list)

    async def send(self, sealed: Sealed, wa_msg_id: str = "A1", kind: str = "imageMessage", **claims: Any) -> None:
        """A message whose file the server has at `/{wa_msg_id}`, as the ingest would commit it."""
        body = {
            "mediaKey": b64(MEDIA_KEY),
            "directPath": f"/{wa_msg_id}",
            "fileSha256": b64(bytes.fromhex(sealed.sha256)),
            "fileEncSha256": b64(bytes.fromhex(sealed.enc_sha256)),
            "fileLength": str(len(sealed.plain)),
            "mimetype": "image/jpeg",
            "width": 960,
            "height": 640,
            **claims,
        }
        stanza = make_stanza({kind: body}, key=make_key(remoteJid=GROUP, id=wa_msg_id))
        commit = Commit(epoch=1, seq=1, stanzas=[stanza], events=[])
        await self.me.commit(**ingest(commit, make_rules(monitored={GROUP}), stanza.arrived_at_ms))

    def runner(
        self,
        refresh: Callable[[Json, Json], Awaitable[Json]] | None = None,
        store: Any = None,
        document_max_bytes: int | None = None,
        **changed: Any,
    ) -> MediaRunner:
        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        options = replace(ClaimOptions(owner=f"m-{uuid4().hex[:6]}", concurrency=4, session=self.me.session), **changed)
        transfers = Transfers(store or self.store, self.downloader, document_max_bytes, sleep=pause)
        reuploads = Reuploads(refresh, limit=max(1, options.concurrency // 2)) if refresh else None
        return MediaRunner(store or self.store, transfers, options, reuploads, jitter=lambda: 0.0)

    async def work(self, runner: MediaRunner | None = None) -> None:
        """One attempt at every job that is due."""
        runner = runner or self.runner()
        claim = await self.store.media_claim(runner.owner, 20, 60, self.me.session)
        for job in claim.jobs:
            await runner.work(job)

    async def due(self) -> None:
        """Let the waiting be over."""
        await (
            table(self.store, "media_jobs")
            .update({"next_attempt_at": "2020-01-01T00:00:00Z"})
            .eq("session_id", self.me.session)
            .execute()
        )

    async def messages(self) -> dict[str, dict[str, Any]]:
        return {row["wa_msg_id"]: row for row in await rows(self.store, "messages", self.me.session)}

    async def state(self, wa_msg_id: str = "A1") -> tuple[str, bool]:
        row = (await self.messages())[wa_msg_id]
        return row["media_status"], row["media_id"] is not None

    async def jobs(self) -> list[dict[str, Any]]:
        return await rows(self.store, "media_jobs", self.me.session)

    async def errors(self) -> list[str]:
        entries = await rows(self.store, "audit_log", self.me.session)
        return [entry["payload"]["code"] for entry in entries if entry["event"] == "error"]

    async def media(self, sha256: str) -> list[dict[str, Any]]:
        found: Any = await table(self.store, "media").select("*").eq("sha256", sha256).execute()
        return list(found.data)


@pytest.fixture
async def desk(store: Store, session: str, cdn: Cdn, downloader: Downloader) -> Desk:
    return Desk(store, await writer(store, session), cdn, downloader)


async def test_a_photo_is_fetched_proven_stored_under_its_hash_and_linked(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed)
    await desk.work()
    (media,) = await desk.media(sealed.sha256)
    path = f"{sealed.sha256}/original.jpg"
    assert (media["mime"], media["bytes"], media["storage_path"]) == ("image/jpeg", len(sealed.plain), path)
    assert (media["width"], media["height"]) == (960, 640)
    assert await desk.store.bucket.download(path) == sealed.plain
    assert (await desk.messages())["A1"]["media_id"] == media["id"]
    assert await desk.state() == ("stored", True)
    assert await desk.jobs() == []
    assert await desk.errors() == []


async def test_a_forward_is_linked_without_a_second_download(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    runner = desk.runner()
    await desk.send(sealed)
    await desk.work(runner)
    await desk.send(sealed, "A2")
    await desk.work(runner)
    assert desk.cdn.requests == {"/A1": 1}
    messages = await desk.messages()
    assert messages["A1"]["media_id"] == messages["A2"]["media_id"] is not None
    assert (runner.counts.stored, runner.counts.forwarded) == (1, 1)


async def test_a_claim_to_be_a_known_file_under_another_key_is_downloaded_and_checked(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    desk.cdn.routes["/A2"] = serving(sealed.blob)
    await desk.send(sealed)
    await desk.work()
    await desk.send(sealed, "A2", mediaKey=b64(bytes(32)))
    await desk.work()
    assert desk.cdn.requests["/A2"] == 2  # and its one quick retry
    assert await desk.state("A2") == ("pending", False)


async def test_the_same_content_sealed_anew_is_one_object_and_one_row(desk: Desk) -> None:
    plain = photo().plain
    ours, theirs = seal(plain), seal(plain, "Document")
    desk.cdn.routes.update({"/A1": serving(ours.blob), "/A2": serving(theirs.blob)})
    runner = desk.runner()
    await desk.send(ours)
    await desk.send(theirs, "A2", "documentMessage", mimetype="application/pdf")
    await desk.work(runner)
    assert len(await desk.media(ours.sha256)) == 1
    assert (runner.counts.stored, runner.counts.reused) == (2, 1)


async def test_senders_who_name_one_content_differently_leave_one_object(desk: Desk) -> None:
    plain = b"PK\x03\x04" + photo().plain
    ours, theirs = seal(plain, "Document"), seal(plain)
    desk.cdn.routes.update({"/A1": serving(ours.blob), "/A2": serving(theirs.blob)})
    await desk.send(ours, "A1", "documentMessage", mimetype="application/zip")
    await desk.work()
    await desk.send(theirs, "A2", mimetype="application/epub+zip")
    await desk.work()
    (media,) = await desk.media(ours.sha256)
    assert {row["media_id"] for row in (await desk.messages()).values()} == {media["id"]}
    assert await desk.store.bucket.download(f"{ours.sha256}/original.zip") == plain
    assert not await desk.store.bucket.exists(f"{ours.sha256}/original.epub"), "no row names it, nobody would remove it"


async def test_a_second_object_is_removed_also_by_a_worker_that_has_lost_the_job(desk: Desk) -> None:
    """Its new holder finds the content known, uploads nothing, and so removes nothing."""
    plain = b"PK\x03\x04" + photo().plain
    ours, theirs = seal(plain, "Document"), seal(plain)
    desk.cdn.routes["/A1"] = serving(ours.blob)
    await desk.send(ours, "A1", "documentMessage", mimetype="application/zip")
    await desk.work()

    async def taken(exchange: Exchange) -> None:
        jobs = table(desk.store, "media_jobs").update({"lease_owner": "somebody else"})
        await jobs.eq("session_id", desk.me.session).execute()
        await serving(theirs.blob)(exchange)

    desk.cdn.routes["/A2"] = taken
    await desk.send(theirs, "A2", mimetype="application/epub+zip")
    await desk.work()
    freed = {"lease_owner": None, "lease_expires_at": None}
    await table(desk.store, "media_jobs").update(freed).eq("session_id", desk.me.session).execute()
    await desk.work()
    assert await desk.state("A2") == ("stored", True)
    assert desk.cdn.requests["/A2"] == 1
    assert not await desk.store.bucket.exists(f"{ours.sha256}/original.epub"), "no row names it, nobody would remove it"


async def test_the_bytes_decide_the_type_and_no_file_name_the_extension(desk: Desk) -> None:
    sealed = seal((SEEDS / "list.pdf").read_bytes() + uuid4().bytes, "Document")
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed, kind="documentMessage", mimetype="image/png", fileName="../x\u202egpj.exe")
    await desk.work()
    (media,) = await desk.media(sealed.sha256)
    assert (media["mime"], media["storage_path"]) == ("application/pdf", f"{sealed.sha256}/original.pdf")
    assert (await desk.messages())["A1"]["file_name"] == ".._xgpj.exe"


async def test_a_small_file_of_unknown_type_is_stored_as_other(desk: Desk) -> None:
    sealed = seal(b"MZ" + uuid4().bytes)
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed, mimetype="image/jpeg")
    await desk.work()
    (media,) = await desk.media(sealed.sha256)
    assert (media["mime"], media["storage_path"][-13:]) == ("application/octet-stream", "/original.bin")


async def test_a_file_of_no_bytes_is_stored_as_other(desk: Desk) -> None:
    sealed = seal(b"")
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed)
    await desk.work()
    (media,) = await desk.media(sealed.sha256)
    assert (media["bytes"], await desk.state()) == (0, ("stored", True))


FALSE_CLAIMS: dict[str, dict[str, Any]] = {
    "longer than it is": {"fileLength": "161099"},
    "no bytes, as some clients say of stickers": {"fileLength": "0"},
    "over the limit": {"fileLength": str(2**33)},
    "another file's hash": {"fileSha256": base64.b64encode(b"\x07" * 32).decode()},
}


@pytest.mark.parametrize("claims", FALSE_CLAIMS.values(), ids=FALSE_CLAIMS.keys())
async def test_a_good_file_with_a_false_claim_is_stored_as_what_it_is(desk: Desk, claims: dict[str, Any]) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed, **claims)
    await desk.work()
    (media,) = await desk.media(sealed.sha256)
    assert (media["bytes"], await desk.state(), await desk.errors()) == (len(sealed.plain), ("stored", True), [])


LARGE = [
    sample
    for sample in CORPUS
    if sample.name
    in {
        "QuickTime, moov first",
        "QuickTime, wide first",
        "FLV",
        "MPEG-TS",
        "AIFF",
        "PSD",
        "SVG",
        "RAR 5",
        "7z",
        "CSV",
        "3GP with sound alone",
        "MP4 in an audio message",
    }
]


def large_document(sample: Sample) -> Sealed:
    """A file of 1.3 MB that begins like the sample and ends as no other does."""
    media_type = "Audio" if sample.media_type == "audio" else "Document"
    return seal(sample.head + b" " * 1_300_000 + uuid4().hex.encode(), media_type)


@pytest.mark.parametrize("sample", LARGE, ids=lambda sample: sample.name)
async def test_a_large_file_of_a_known_type_is_stored_with_its_type(desk: Desk, sample: Sample) -> None:
    sealed = large_document(sample)
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    kind = "audioMessage" if sample.media_type == "audio" else "documentMessage"
    await desk.send(sealed, kind=kind, mimetype=sample.hint)
    await desk.work()
    (media,) = await desk.media(sealed.sha256)
    assert (media["mime"], await desk.state()) == (sample.mime, ("stored", True))


async def test_every_file_of_the_corpus_is_stored_as_docs_file_types_says(desk: Desk) -> None:
    """A mark behind each, because two files that are the same have one object and one type."""
    sent: dict[str, tuple[str, str]] = {}
    for place, sample in enumerate(CORPUS):
        family = sample.media_type.capitalize()
        sealed = seal(sample.head + uuid4().hex.encode(), family)
        desk.cdn.routes[f"/{place}"] = serving(sealed.blob)
        await desk.send(sealed, wa_msg_id=str(place), kind=f"{sample.media_type}Message", mimetype=sample.hint)
        sent[sealed.sha256] = (sample.mime, f"{sealed.sha256}/original.{EXTENSIONS[sample.mime]}")
    while await desk.jobs():
        await desk.work()
    assert {row["media_status"] for row in (await desk.messages()).values()} == {"stored"}
    stored = [(await desk.media(sha256))[0] for sha256 in sent]
    assert {row["sha256"]: (row["mime"], row["storage_path"]) for row in stored} == sent


async def test_a_document_above_its_own_limit_is_refused_and_a_film_is_not(desk: Desk) -> None:
    samples = {sample.name: large_document(sample) for sample in LARGE if sample.name in ("CSV", "FLV")}
    for name, sealed in samples.items():
        desk.cdn.routes[f"/{name}"] = serving(sealed.blob)
        await desk.send(sealed, wa_msg_id=name, kind="documentMessage", mimetype=None)
    await desk.work(desk.runner(document_max_bytes=1_000_000))
    assert (await desk.state("CSV"), await desk.state("FLV")) == (("refused", False), ("stored", True))


REFUSED: dict[str, tuple[Sealed, dict[str, Any], str, str]] = {
    "too large although it claims to be small": (
        seal(bytes(MAX_BYTES * 2)),
        {"fileLength": "7"},
        "too_large",
        "MEDIA_TOO_LARGE",
    ),
    "large and of unknown type": (seal(b"MZ" + bytes(OTHER_MAX_BYTES)), {}, "refused", "MEDIA_REFUSED"),
    "on another host": (photo(), {"directPath": None, "url": "https://evil.example/a"}, "refused", "MEDIA_REFUSED"),
    "a path that is none": (photo(), {"directPath": "@evil.example/a"}, "refused", "MEDIA_REFUSED"),
}


@pytest.mark.parametrize(("sealed", "claims", "state", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_may_not_be_stored_ends_at_once_with_a_state_and_an_audit_entry(
    desk: Desk, sealed: Sealed, claims: dict[str, Any], state: str, code: str
) -> None:
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed, **claims)
    await desk.work()
    assert await desk.state() == (state, False)
    assert await desk.errors() == [code]
    assert await desk.jobs() == []
    assert (await desk.messages())["A1"]["kind"] == "image"  # the message is kept


async def truncated(exchange: Exchange) -> None:
    await exchange.answer("200 OK", b"x" * 100, content_length="5000")


@pytest.mark.parametrize(
    "trouble", [status("503 Busy"), truncated, serving(b"rubbish")], ids=["503", "truncated", "corrupt"]
)
async def test_the_contracts_quick_retry_gets_over_a_hiccup(desk: Desk, trouble: Handler) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = first(trouble, serving(sealed.blob))
    await desk.send(sealed)
    await desk.work()
    assert await desk.state() == ("stored", True)
    assert len(desk.pauses) == 1
    assert 0.5 <= desk.pauses[0] <= 1.0
    assert await desk.errors() == []


async def test_trouble_that_lasts_is_audited_once_and_tried_again_later(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = status("503 Busy")
    await desk.send(sealed)
    await desk.work()
    (job,) = await desk.jobs()
    assert (job["attempts"], job["last_error"], job["lease_owner"]) == (1, "MEDIA_UNAVAILABLE: HTTP 503", None)
    assert await desk.errors() == ["MEDIA_UNAVAILABLE"]
    assert await desk.state() == ("pending", False)
    await desk.work()  # it is not due yet
    assert desk.cdn.requests["/A1"] == 2
    await desk.due()
    await desk.work()
    assert await desk.errors() == ["MEDIA_UNAVAILABLE"]
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.due()
    await desk.work()
    assert await desk.state() == ("stored", True)


async def test_a_file_that_stays_corrupt_is_given_up(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(seal(b"another").blob)
    await desk.send(sealed)
    for _ in range(CORRUPT_ATTEMPTS):
        await desk.due()
        await desk.work()
    assert await desk.state() == ("corrupt", False)
    assert await desk.errors() == ["MEDIA_CORRUPT", "MEDIA_CORRUPT"]
    assert await desk.media(sealed.sha256) == []


@pytest.mark.parametrize("gone", ["403 Forbidden", "404 Not Found", "410 Gone"])
async def test_an_expired_file_is_asked_for_and_fetched_from_its_new_place(desk: Desk, gone: str) -> None:
    sealed = photo()
    desk.cdn.routes.update({"/A1": status(gone), "/new": serving(sealed.blob)})
    asked: list[tuple[Json, Json]] = []

    async def refresh(key: Json, content: Json) -> Json:
        asked.append((key, content))
        return {"imageMessage": {**content["imageMessage"], "directPath": "/new"}}

    await desk.send(sealed)
    await desk.work(desk.runner(refresh))
    assert await desk.state() == ("stored", True)
    ((key, content),) = asked
    assert key == {"remoteJid": GROUP, "id": "A1", "fromMe": False, "participant": "1001@lid"}
    assert (content["imageMessage"]["mediaKey"], content["imageMessage"]["directPath"]) == (b64(MEDIA_KEY), "/A1")


async def test_a_phone_that_no_longer_has_the_file_ends_it(desk: Desk) -> None:
    async def refresh(key: Json, content: Json) -> Json:
        raise MediaExpired("not on the phone")

    await desk.send(photo())
    await desk.work(desk.runner(refresh))
    assert await desk.state() == ("expired", False)
    assert await desk.errors() == ["MEDIA_EXPIRED"]


@pytest.mark.parametrize("error", [CallTimeout("no answer"), MediaUnavailable("not connected"), TimeoutError()])
async def test_a_phone_that_does_not_answer_is_asked_again_later(desk: Desk, error: Exception) -> None:
    async def refresh(key: Json, content: Json) -> Json:
        raise error

    await desk.send(photo())
    await desk.work(desk.runner(refresh))
    assert await desk.state() == ("pending", False)
    (job,) = await desk.jobs()
    assert job["last_error"] == "MEDIA_EXPIRED: HTTP 404"


async def test_a_worker_without_a_phone_leaves_an_expired_file_to_one_that_has_it(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/new"] = serving(sealed.blob)
    await desk.send(sealed)
    without = desk.runner(refresh=None)
    await desk.work(without)
    assert await desk.state() == ("pending", False)
    assert (await desk.store.media_claim("without", 1, 60, desk.me.session, phone=False)).jobs == ()
    assert (await desk.store.media_claim("without", 1, 60, desk.me.session, phone=False)).next_in_seconds is None
    (job,) = await desk.jobs()
    assert job["wants_phone_at"]
    assert job["last_error"] == "MEDIA_EXPIRED: HTTP 404"

    async def refresh(key: Json, content: Json) -> Json:
        return {"imageMessage": {"directPath": "/new"}}

    phone = desk.runner(refresh)
    await desk.work(phone)
    (job,) = await desk.jobs()
    assert (job["wants_phone_at"], job["descriptor"]["direct_path"]) == (None, "/new")
    assert await desk.state() == ("pending", False), "the phone's process gives it back to all"

    await desk.work(without)
    assert await desk.state() == ("stored", True)
    assert (without.counts.handed_over, phone.counts.renewed, without.counts.stored) == (1, 1, 1)
    assert await desk.errors() == []


async def test_a_file_that_was_handed_over_and_that_the_phone_no_longer_has_has_expired(desk: Desk) -> None:
    await desk.send(photo())
    await desk.work(desk.runner(refresh=None))

    async def refresh(key: Json, content: Json) -> Json:
        raise MediaExpired

    await desk.work(desk.runner(refresh))
    assert await desk.state() == ("expired", False)
    assert await desk.jobs() == []
    assert await desk.errors() == ["MEDIA_EXPIRED"]


async def test_a_phone_that_does_not_answer_keeps_a_handed_over_file_for_itself(desk: Desk) -> None:
    await desk.send(photo())
    await desk.work(desk.runner(refresh=None))

    async def refresh(key: Json, content: Json) -> Json:
        raise MediaUnavailable

    await desk.work(desk.runner(refresh))
    (job,) = await desk.jobs()
    assert job["wants_phone_at"]
    assert job["next_attempt_at"] > job["wants_phone_at"]


async def test_a_renewed_place_is_kept_for_the_next_attempt(desk: Desk) -> None:
    sealed = photo()
    asked = 0

    async def refresh(key: Json, content: Json) -> Json:
        nonlocal asked
        asked += 1
        return {"imageMessage": {"directPath": "/new"}}

    desk.cdn.routes["/new"] = status("503 Busy")
    await desk.send(sealed)
    await desk.work(desk.runner(refresh))
    (job,) = await desk.jobs()
    assert job["descriptor"]["direct_path"] == "/new"
    desk.cdn.routes["/new"] = serving(sealed.blob)
    await desk.due()
    await desk.work(desk.runner(refresh))
    assert (await desk.state(), asked) == (("stored", True), 1)


async def test_a_file_that_is_stored_although_the_row_is_not_is_replaced_by_the_next_attempt(desk: Desk) -> None:
    """What a crash in mid-upload, or between the upload and the row, leaves behind."""
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    path = f"{sealed.sha256}/original.jpg"
    await desk.store.bucket.upload(path, b"half", "image/jpeg")
    await desk.send(sealed)
    await desk.work()
    assert await desk.store.bucket.download(path) == sealed.plain


async def test_a_job_whose_lease_was_lost_is_left_to_its_new_holder(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed)
    runner = desk.runner()
    (job,) = (await desk.store.media_claim("somebody else", 1, 60, desk.me.session)).jobs
    await runner.work(job)
    assert await desk.state() == ("pending", False)
    assert await desk.errors() == []
    assert (runner.counts.stored, runner.counts.postponed, runner.counts.abandoned) == (0, 0, 0)


@pytest.mark.parametrize("known", [False, True])
async def test_the_file_of_a_message_that_is_deleted_meanwhile_is_left_to_retention(desk: Desk, known: bool) -> None:
    """`known`: the content is stored already, under another extension; then the second object goes at once."""
    plain = b"PK\x03\x04" + photo().plain
    sealed, other = seal(plain, "Document"), seal(plain)
    if known:
        desk.cdn.routes["/A0"] = serving(other.blob)
        await desk.send(other, "A0")
        await desk.work()

    async def deleting(exchange: Exchange) -> None:
        messages = table(desk.store, "messages").delete()
        await messages.eq("session_id", desk.me.session).eq("wa_msg_id", "A1").execute()
        await serving(sealed.blob)(exchange)

    desk.cdn.routes["/A1"] = deleting
    mime = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    await desk.send(sealed, "A1", "documentMessage", mimetype=mime)
    await desk.work()
    path = f"{sealed.sha256}/original.docx"
    (media,) = await desk.media(sealed.sha256)
    assert await desk.store.bucket.exists(media["storage_path"])
    assert (media["storage_path"] == path, await desk.store.bucket.exists(path)) == (not known, not known)
    await delete_objects(desk.store, 1)
    assert (await desk.media(sealed.sha256) != [], await desk.store.bucket.exists(path)) == (known, False)


async def test_a_descriptor_that_cannot_be_read_ends_with_a_state(desk: Desk) -> None:
    await desk.send(photo())
    await table(desk.store, "media_jobs").update({"descriptor": {}}).eq("session_id", desk.me.session).execute()
    await desk.work()
    assert await desk.state() == ("refused", False)


async def test_the_runner_takes_what_is_due_a_few_at_a_time(desk: Desk) -> None:
    waiting, together, released = 0, 0, anyio.Event()
    sent = [photo(bytes([n])) for n in range(5)]

    def held(blob: bytes) -> Handler:
        async def handler(exchange: Exchange) -> None:
            nonlocal waiting, together
            waiting += 1
            together = max(together, waiting)
            if waiting == 2:
                released.set()
            await released.wait()
            waiting -= 1
            await serving(blob)(exchange)

        return handler

    for number, sealed in enumerate(sent):
        desk.cdn.routes[f"/A{number}"] = held(sealed.blob)
        await desk.send(sealed, f"A{number}")
    runner = desk.runner(concurrency=2)

    async def all_stored() -> bool:
        return all(row["media_status"] == "stored" for row in (await desk.messages()).values())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run)
        await until("the database to say so", all_stored, seconds=WAIT_SECONDS)
        tasks.cancel_scope.cancel()
    assert together == 2
    assert runner.counts.stored == 5
    assert runner.counts.running == 0
    assert runner.counts.bytes == sum(len(sealed.plain) for sealed in sent)


async def test_a_phone_that_is_off_holds_up_only_the_files_that_need_it(desk: Desk) -> None:
    asked: set[str] = set()
    found, both, back = photo(), anyio.Event(), anyio.Event()
    desk.cdn.routes["/new"] = serving(found.blob)

    async def refresh(key: Json, content: Json) -> Json:
        asked.add(key["id"])
        if len(asked) == 2:
            both.set()
        await back.wait()
        return {"imageMessage": {"directPath": "/new"}}

    expired = {f"A{number}" for number in range(7)}
    for wa_msg_id in expired:
        await desk.send(found, wa_msg_id)
    runner = desk.runner(refresh, concurrency=4)

    async def stored(*names: str) -> bool:
        messages = await desk.messages()
        return all(messages[name]["media_status"] == "stored" for name in names)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run)
        with anyio.fail_after(WAIT_SECONDS):
            await both.wait()
        fresh = photo()
        desk.cdn.routes["/B1"] = serving(fresh.blob)
        await desk.send(fresh, "B1")
        runner.notify()
        await until("the file that needs no phone", lambda: stored("B1"), seconds=WAIT_SECONDS)
        assert len(asked) == 2, "two of four wait for the phone"
        back.set()
        await until("the others, when the phone is back", lambda: stored(*expired), seconds=WAIT_SECONDS)
        tasks.cancel_scope.cancel()
    assert await desk.errors() == []


async def test_the_runner_looks_at_once_when_it_is_told_of_a_job(desk: Desk) -> None:
    runner = desk.runner()

    async def stored() -> bool:
        return await desk.state() == ("stored", True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run)
        sealed = photo()
        desk.cdn.routes["/A1"] = serving(sealed.blob)
        await desk.send(sealed)
        started = anyio.current_time()
        runner.notify()
        await until("the database to say so", stored, seconds=WAIT_SECONDS)
        assert anyio.current_time() - started < 4.0  # a poll would come after 20 s
        tasks.cancel_scope.cancel()


async def test_a_runner_that_is_stopped_gives_its_jobs_back(desk: Desk) -> None:
    begun = anyio.Event()

    async def endless(exchange: Exchange) -> None:
        begun.set()
        await exchange.over.wait()

    desk.cdn.routes["/A1"] = endless
    await desk.send(photo())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.runner().run)
        with anyio.fail_after(WAIT_SECONDS):
            await begun.wait()
        tasks.cancel_scope.cancel()
    (job,) = await desk.jobs()
    assert (job["lease_owner"], job["last_error"]) == (None, "stopped")
    claim = await desk.store.media_claim("next", 1, 60, desk.me.session)
    assert len(claim.jobs) == 1


async def test_a_long_transfer_keeps_its_lease(desk: Desk) -> None:
    begun, go = anyio.Event(), anyio.Event()
    sealed = photo()

    async def slow(exchange: Exchange) -> None:
        begun.set()
        await go.wait()
        await serving(sealed.blob)(exchange)

    desk.cdn.routes["/A1"] = slow
    await desk.send(sealed)
    runner = desk.runner(lease_seconds=0.6)

    async def lease_ends_at() -> str:
        return str((await desk.jobs())[0]["lease_expires_at"])

    async def stored() -> bool:
        return await desk.state() == ("stored", True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run)
        with anyio.fail_after(WAIT_SECONDS):
            await begun.wait()
        claimed = await lease_ends_at()

        async def renewed() -> bool:
            return await lease_ends_at() > claimed

        await until("the database to say so", renewed, seconds=WAIT_SECONDS)
        go.set()
        await until("the database to say so", stored, seconds=WAIT_SECONDS)
        tasks.cancel_scope.cancel()
    assert runner.counts.stored == 1


async def test_a_transfer_ends_when_its_lease_is_lost(desk: Desk) -> None:
    begun, left = anyio.Event(), anyio.Event()

    async def endless(exchange: Exchange) -> None:
        begun.set()
        await exchange.over.wait()
        left.set()

    desk.cdn.routes["/A1"] = endless
    await desk.send(photo())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.runner(lease_seconds=0.6).run)
        with anyio.fail_after(WAIT_SECONDS):
            await begun.wait()
            taken = {"lease_owner": "somebody else", "lease_expires_at": "2100-01-01T00:00:00Z"}
            await table(desk.store, "media_jobs").update(taken).eq("session_id", desk.me.session).execute()
            await left.wait()
        tasks.cancel_scope.cancel()
    (job,) = await desk.jobs()
    assert job["lease_owner"] == "somebody else"


class Faulty:
    """The store, some of whose calls fail as often as it is told."""

    def __init__(self, store: Store, **failures: int) -> None:
        self._store = store
        self._failures = failures
        self.bucket = self if "upload" in failures else store.bucket

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            if self._failures.get(name, 0) > 0:
                self._failures[name] -= 1
                raise StoreUnavailable(f"{name}: no answer")
            target = self._store.bucket if name == "upload" else self._store
            return await getattr(target, name)(*args, **options)

        return call


@pytest.mark.parametrize("call", ["media_known", "upload", "media_done"])
async def test_one_failure_of_supabase_is_got_over_quickly(desk: Desk, call: str) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed)
    runner = desk.runner(store=Faulty(desk.store, **{call: 1}))
    await desk.work(runner)
    assert await desk.state() == ("stored", True)
    assert len(desk.pauses) == 1
    assert desk.cdn.requests == {"/A1": 1}
    assert await desk.store.bucket.download(f"{sealed.sha256}/original.jpg") == sealed.plain


async def test_storage_that_stays_away_is_waited_for(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed)
    runner = desk.runner(store=Faulty(desk.store, upload=2))
    await desk.work(runner)
    assert await desk.errors() == ["STORE_UNAVAILABLE"]
    assert await desk.media(sealed.sha256) == []
    await desk.due()
    await desk.work(runner)
    assert await desk.state() == ("stored", True)


async def test_a_job_whose_outcome_cannot_be_written_is_tried_again_when_its_lease_ends(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = status("503 Busy")
    await desk.send(sealed)
    runner = desk.runner(store=Faulty(desk.store, media_retry=1))
    await desk.work(runner)
    (job,) = await desk.jobs()
    assert job["lease_owner"] == runner.owner
    assert job["last_error"] is None


async def test_the_runner_outlives_a_database_that_is_away(desk: Desk) -> None:
    sealed = photo()
    desk.cdn.routes["/A1"] = serving(sealed.blob)
    await desk.send(sealed)
    runner = desk.runner(store=Faulty(desk.store, media_claim=2))

    async def stored() -> bool:
        runner.notify()
        return await desk.state() == ("stored", True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run)
        await until("the database to say so", stored, seconds=WAIT_SECONDS)
        tasks.cancel_scope.cancel()


def test_the_photo_of_these_tests_is_a_photo() -> None:
    sealed = photo()
    assert hashlib.sha256(sealed.plain).hexdigest() == sealed.sha256

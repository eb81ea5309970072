"""Media jobs and the bucket through the store: every function is called twice."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from storage3 import AsyncStorageClient

from tests.integration.database import Writer, digest, photo, rows, table, writer
from worker.errors import StoreRefused
from worker.store import MediaFile, MediaJob, Store, Timeouts, bucket
from worker.store.embedded import Endpoint


def file(content: str, **columns: object) -> MediaFile:
    sha256 = digest(content)
    defaults: dict[str, object] = {
        "sha256": sha256,
        "mime": "image/jpeg",
        "bytes": 5_000_000_000,
        "storage_path": f"{sha256}/original.jpg",
        "width": 640,
        "height": 480,
    }
    return MediaFile(**(defaults | columns))  # type: ignore[arg-type]


async def claimed(store: Store, me: Writer, *wa_msg_ids: str) -> tuple[MediaJob, ...]:
    await me.commit(messages=[photo(wa_msg_id) for wa_msg_id in wa_msg_ids])
    return (await store.media_claim("m1", 10, 60, me.session)).jobs


async def test_a_claimed_job_is_not_claimed_again_while_its_lease_lasts(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(messages=[photo("A1"), photo("A2"), photo("A3")])
    first = await store.media_claim("m1", 2, 3600, session)
    assert [job.wa_msg_id for job in first.jobs] == ["A1", "A2"]
    assert (first.jobs[0].attempts, first.jobs[0].descriptor, first.jobs[0].file_name) == (
        1,
        {"media_key": "c2VjcmV0"},
        "a.jpg",
    )
    assert first.next_in_seconds is not None
    assert first.next_in_seconds <= 0
    second = await store.media_claim("m2", 10, 3600, session)
    assert [job.wa_msg_id for job in second.jobs] == ["A3"]
    third = await store.media_claim("m2", 10, 3600, session)
    assert third.jobs == ()
    assert third.next_in_seconds is not None
    assert 3000 < third.next_in_seconds <= 3600


async def test_an_expired_claim_is_taken_by_another_and_the_first_cannot_end_it(store: Store, session: str) -> None:
    me = await writer(store, session)
    (job,) = await claimed(store, me, "A1")
    past = {"lease_expires_at": "2020-01-01T00:00:00Z"}
    await table(store, "media_jobs").update(past).eq("id", job.id).execute()
    (again,) = (await store.media_claim("m2", 10, 60, session)).jobs
    assert (again.id, again.attempts) == (job.id, 2)
    for call in (
        store.media_done(job.id, "m1", file(session)),
        store.media_retry(job.id, "m1", "x", 1),
        store.media_abandon(job.id, "m1", "failed", "X", "x"),
        store.media_renew(job.id, "m1", 60),
    ):
        with pytest.raises(StoreRefused) as refused:
            await call
        assert refused.value.code == "stale_job"


async def test_a_stored_file_links_its_message_and_ends_the_job(store: Store, session: str) -> None:
    me = await writer(store, session)
    (job,) = await claimed(store, me, "A1")
    await store.media_renew(job.id, "m1", 60)
    await store.media_renew(job.id, "m1", 60)
    done = await store.media_done(job.id, "m1", file(session))
    assert (done.reused, done.gone) == (False, False)
    assert await store.media_done(job.id, "m1", file(session)) == type(done)(
        media_id=done.media_id, reused=False, gone=True
    )
    (row,) = await rows(store, "messages", session)
    assert (row["media_id"], row["media_status"]) == (done.media_id, "stored")
    assert await rows(store, "media_jobs", session) == []
    found = (await table(store, "media").select("*").eq("id", done.media_id).single().execute()).data
    assert (found["sha256"], found["bytes"], found["duration_s"]) == (digest(session), 5_000_000_000, None)


async def test_the_same_content_is_one_media_row(store: Store, session: str) -> None:
    me = await writer(store, session)
    one, two = await claimed(store, me, "A1", "A2")
    first = await store.media_done(one.id, "m1", file(session))
    second = await store.media_done(two.id, "m1", file(session, mime="image/png"))
    assert (second.media_id, second.reused) == (first.media_id, True)


async def test_a_verified_ciphertext_is_remembered_under_its_key(store: Store, session: str) -> None:
    me = await writer(store, session)
    (job,) = await claimed(store, me, "A1")
    enc, key = digest(f"enc {session}"), digest(f"key {session}")
    assert await store.media_known(enc, key) is None
    known = file(session, file_enc_sha256=enc, media_key_sha256=key)
    await store.media_done(job.id, "m1", known)
    for _ in range(2):
        assert await store.media_known(enc, key) == known
    assert await store.media_known(enc, digest("another key")) is None


async def test_a_retry_waits_and_takes_the_new_descriptor(store: Store, session: str) -> None:
    me = await writer(store, session)
    (job,) = await claimed(store, me, "A1")
    await store.media_retry(job.id, "m1", "e" * 5000, 3600)
    waiting = await store.media_claim("m1", 10, 60, session)
    assert waiting.jobs == ()
    assert waiting.next_in_seconds is not None
    assert 3000 < waiting.next_in_seconds <= 3600
    with pytest.raises(StoreRefused):
        await store.media_retry(job.id, "m1", "no longer mine", 0)
    now = {"next_attempt_at": "2020-01-01T00:00:00Z"}
    await table(store, "media_jobs").update(now).eq("id", job.id).execute()
    (again,) = (await store.media_claim("m2", 10, 60, session)).jobs
    assert (again.attempts, len(again.last_error or "")) == (2, 1000)
    await store.media_retry(again.id, "m2", "expired", 0, {"direct_path": "/new"})
    (third,) = (await store.media_claim("m2", 10, 60, session)).jobs
    assert third.descriptor == {"direct_path": "/new"}


async def test_an_abandoned_file_is_a_state_of_the_message_and_an_audit_entry(store: Store, session: str) -> None:
    me = await writer(store, session)
    (job,) = await claimed(store, me, "A1")
    for _ in range(2):
        await store.media_abandon(job.id, "m1", "expired", "MEDIA_EXPIRED", "410")
    (row,) = await rows(store, "messages", session)
    assert (row["media_id"], row["media_status"]) == (None, "expired")
    (audit,) = await rows(store, "audit_log", session)
    assert (audit["event"], audit["payload"]["code"]) == ("error", "MEDIA_EXPIRED")
    assert audit["payload"]["ctx"] == {"wa_msg_id": "A1", "attempts": 1}


async def test_a_media_row_needs_a_real_hash(store: Store, session: str) -> None:
    me = await writer(store, session)
    (job,) = await claimed(store, me, "A1")
    with pytest.raises(StoreRefused) as refused:
        await store.media_done(job.id, "m1", file(session, sha256="../../etc"))
    assert refused.value.code in {"23514", "SUP"}  # the embedded one does not name this class


async def test_an_object_is_private_replaced_by_a_second_upload_and_found(
    store: Store, session: str, tmp_path: Path
) -> None:
    path = f"{digest(session)}/original.bin"
    assert not await store.bucket.exists(path)
    await store.bucket.upload(path, b"half", "application/octet-stream")
    whole = tmp_path / "whole"
    whole.write_bytes(b"whole" * 100_000)
    await store.bucket.upload(path, whole, "application/pdf")
    assert await store.bucket.exists(path)
    assert await store.bucket.download(path) == whole.read_bytes()
    with pytest.raises(StoreRefused):
        await store.bucket.download("nothing/here")


async def test_the_bucket_is_looked_at_and_made_only_when_it_is_missing(
    embedded: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "BUCKET", f"wa-{uuid4().hex[:8]}")
    asked: list[str] = []

    async def note(request: httpx.Request) -> None:
        asked.append(request.method)

    async with httpx.AsyncClient(http2=False, event_hooks={"request": [note]}) as http:
        headers = {"apikey": embedded.key, "authorization": f"Bearer {embedded.key}"}
        client = AsyncStorageClient(f"{embedded.url}/storage/v1/", headers, http_client=http)
        made = bucket.Bucket(client, Timeouts())
        assert [await made.ensure(), await made.ensure()] == [True, False]
    assert asked == ["GET", "POST", "GET"]

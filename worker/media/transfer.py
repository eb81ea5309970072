"""Transfers one file: unless it is already known, download, detect its type, upload; then link it to its message.

The object is in the bucket before its row exists. After a crash in between, the job runs again and the upload replaces
the leftover.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

import anyio
from loguru import logger
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random

from worker.errors import MediaCorrupt, MediaRefused, MediaUnavailable, StoreRefused, StoreUnavailable
from worker.media.download import Downloader, Fetched
from worker.media.file_types import may_be_stored
from worker.media.paths import storage_path
from worker.media.remote import RemoteFile
from worker.media.sniff import sniff
from worker.store import MediaFile, Store

QUICK_RETRY_SECONDS = (0.5, 1.0)  # docs/contract.md §7

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Transferred:
    """A file linked to its message. `downloaded`: it was fetched. `reused`: its content was already stored."""

    file: MediaFile
    downloaded: bool
    reused: bool


class Transfers:
    """Stores the files of this process's jobs; shared by all of them.

    `document_max_bytes`: separate limit for documents; None: no separate limit.
    """

    def __init__(
        self, store: Store, downloader: Downloader, document_max_bytes: int | None = None, sleep: Sleep = anyio.sleep
    ) -> None:
        self._store = store
        self._downloader = downloader
        self._document_max_bytes = document_max_bytes
        self._sleep = sleep

    async def run(self, job_id: int, owner: str, file: RemoteFile) -> Transferred:
        """Store the file and link it to its message, which ends the job.

        Raises:
            MediaError: from `Downloader.fetch`; MediaRefused also for a file that the contract does not allow.
            StoreRefused, StoreUnavailable: from `Store.media_done` and `Bucket.upload`.
        """
        known = await self._find_known(file)
        if known is not None:
            await self._retry_once(lambda: self._store.media_done(job_id, owner, known))
            return Transferred(file=known, downloaded=False, reused=True)
        stored = await self._fetch_and_upload(file)
        try:
            linked = await self._retry_once(lambda: self._store.media_done(job_id, owner, stored))
        except StoreRefused as refused:
            if refused.code == "stale_job":  # the new holder may find the content known, and upload nothing
                await self._remove_duplicate(stored)
            raise
        logger.debug("a file is stored: {} bytes, {}", stored.bytes, stored.mime)
        if linked.reused:
            await self._remove_duplicate(stored)
        return Transferred(file=stored, downloaded=True, reused=linked.reused)

    async def _find_known(self, file: RemoteFile) -> MediaFile | None:
        """The stored file of a forward: the same ciphertext under the same key was verified before.

        Source: docs/whatsapp.md, "Media".
        """
        if file.file_enc_sha256 is None:
            return None
        enc_sha256, key_sha256 = file.file_enc_sha256, file.media_key_sha256
        return await self._retry_once(lambda: self._store.media_known(enc_sha256, key_sha256))

    async def _fetch_and_upload(self, file: RemoteFile) -> MediaFile:
        async with AsyncExitStack() as stack:
            fetched = await self._retry_once(
                lambda: stack.enter_async_context(
                    self._downloader.fetch(file.direct_path, file.url, file.keys, file.claims)
                )
            )
            stored = _media_file(file, fetched, self._document_max_bytes)
            await self._retry_once(lambda: self._store.bucket.upload(stored.storage_path, fetched.content, stored.mime))
        return stored

    async def _remove_duplicate(self, stored: MediaFile) -> None:
        """Remove our object if the content has another one: an earlier sender's type may give another extension.

        Failure does not matter to the job. The content's row, which the message protects from retention, names the
        object that stays.
        """
        try:
            kept = await self._store.media_known(stored.file_enc_sha256 or "", stored.media_key_sha256 or "")
            if kept is not None and kept.storage_path != stored.storage_path:
                await self._store.bucket.remove([stored.storage_path])
        except (StoreUnavailable, StoreRefused) as error:
            logger.warning("a second copy of a file may be left in the bucket: {}", error)

    async def _retry_once(self, call: Callable[[], Awaitable[T]]) -> T:
        """The contract's quick retry: repeat a call that may succeed once, after 500 to 1000 ms.

        A corrupt copy only if no second host was tried: each costs a whole download.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random(*QUICK_RETRY_SECONDS),
            stop=stop_after_attempt(2),
            sleep=self._sleep,
            reraise=True,
        )

        async def attempt() -> T:  # tenacity awaits only coroutine functions, not what a lambda returns
            return await call()

        return await retrying(attempt)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, MediaCorrupt):
        return error.copies == 1
    return isinstance(error, MediaUnavailable | StoreUnavailable)


def _media_file(file: RemoteFile, fetched: Fetched, document_max_bytes: int | None) -> MediaFile:
    """The row of a verified file. Type and hash come from its bytes, dimensions and duration from the sender.

    Raises:
        MediaRefused: the contract does not allow this type and size.
    """
    sniffed = sniff(fetched.head, file.mime, file.media_type)
    if not may_be_stored(sniffed.mime, fetched.proof.length, document_max_bytes):
        raise MediaRefused(f"{sniffed.mime} with {fetched.proof.length} bytes")
    return MediaFile(
        sha256=fetched.proof.sha256,
        mime=sniffed.mime,
        bytes=fetched.proof.length,
        storage_path=storage_path(fetched.proof.sha256, sniffed.extension),
        width=file.width,
        height=file.height,
        duration_s=file.duration_s,
        file_enc_sha256=fetched.proof.enc_sha256,
        media_key_sha256=file.media_key_sha256,
    )

"""The private bucket of media objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError

from worker.store.client import Timeouts, translated

BUCKET = "wa-media"
NO_BUCKET = ("400", "404")  # depends on the version of Storage
SLOWEST_BYTES_PER_S = 250_000.0  # 2 Mbit/s, as in `Timeouts.transfer`


class Bucket:
    """Objects of the bucket `wa-media`, by path."""

    def __init__(self, client: AsyncStorageClient, timeouts: Timeouts) -> None:
        self._client = client
        self._timeouts = timeouts

    async def ensure(self) -> bool:
        """Create the private bucket if it is missing. Returns True if it was.

        Checks first: trying to create an existing bucket leaves an error in a hosted Postgres' log.
        """
        with translated("bucket", self._timeouts.call):
            if await self._is_there():
                return False
            try:
                await self._client.create_bucket(BUCKET, options={"public": False})
            except StorageApiError as error:
                if str(error.status) != "409":  # another worker has just created it
                    raise
                return False
            return True

    async def _is_there(self) -> bool:
        try:
            await self._client.get_bucket(BUCKET)
        except StorageApiError as error:
            if str(error.status) not in NO_BUCKET:
                raise
            return False
        except ValidationError:  # storage3 cannot parse the embedded Supabase's timestamps
            return True
        return True

    async def upload(self, path: str, content: bytes | Path, mime: str) -> None:
        """Store an object, replacing a half-written one that a crash may have left. A `Path` is streamed."""
        with translated("upload", max(self._timeouts.transfer, _size(content) / SLOWEST_BYTES_PER_S)):
            try:
                await self._client.from_(BUCKET).upload(
                    path, content, {"content-type": mime, "upsert": "true", "cache-control": "3600"}
                )
            except StorageApiError as error:
                if str(error.status) != "409":  # already stored: the path is the hash of the content
                    raise

    async def download(self, path: str) -> bytes:
        """The whole object, for checks and tests.

        Raises:
            StoreRefused: there is no such object (`code` 404 or 400).
        """
        with translated("download", self._timeouts.transfer):
            return bytes(await self._client.from_(BUCKET).download(path))

    async def remove(self, paths: Sequence[str]) -> None:
        """Delete objects. Missing ones are no error."""
        with translated("remove", self._timeouts.transfer):
            await self._client.from_(BUCKET).remove(list(paths))

    async def exists(self, path: str) -> bool:
        with translated("object", self._timeouts.call):
            return bool(await self._client.from_(BUCKET).exists(path))


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)

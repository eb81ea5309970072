"""A file as its job describes it: parsed from `media_jobs.descriptor`, and sent to the phone for a re-upload."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from worker.errors import MediaRefused
from worker.media.decrypt import Claims
from worker.media.keys import MediaKeys, derive_keys

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """Everything needed to fetch and verify a file. Written by `worker.ingest.rules.descriptor`.

    Attributes:
        content_field: field of WAProto's `Message`, for the re-upload request.
        key: the message's key in Baileys' form, for the same request.
    """

    media_type: str
    content_field: str
    media_key: bytes = field(repr=False)
    direct_path: str | None = field(repr=False)
    url: str | None = field(repr=False)
    file_sha256: str | None
    file_enc_sha256: str | None
    file_length: int | None
    mime: str | None
    width: int | None
    height: int | None
    duration_s: float | None
    key: Json

    @property
    def keys(self) -> MediaKeys:
        return derive_keys(self.media_key, self.media_type)

    @property
    def claims(self) -> Claims:
        return Claims(enc_sha256=self.file_enc_sha256, length=self.file_length)

    @property
    def media_key_sha256(self) -> str:
        """Recognises the key later without storing it."""
        return hashlib.sha256(self.media_key).hexdigest()

    def as_message(self) -> dict[str, Any]:
        """The fields of the message's content that a re-upload needs, as WAProto JSON."""
        body = {
            "mediaKey": base64.b64encode(self.media_key).decode(),
            "directPath": self.direct_path,
            "url": self.url,
            "fileSha256": _base64(self.file_sha256),
            "fileEncSha256": _base64(self.file_enc_sha256),
            "fileLength": None if self.file_length is None else str(self.file_length),
            "mimetype": self.mime,
        }
        return {self.content_field: {name: value for name, value in body.items() if value is not None}}

    def renewed(self, content: Json) -> RemoteFile:
        """The same file at the address to which the phone uploaded it.

        Raises:
            MediaRefused: the answer has no address.
        """
        body = content.get(self.content_field)
        path = body.get("directPath") if isinstance(body, Mapping) else None
        if not isinstance(path, str) or not path:
            raise MediaRefused("the phone's answer has no path")
        return replace(self, direct_path=path, url=None)


def parse_remote(descriptor: Json) -> RemoteFile:
    """The file that a job's descriptor describes.

    Raises:
        MediaRefused: the descriptor lacks expected fields.
    """
    try:
        media_key = base64.b64decode(descriptor["media_key"], validate=True)
        derive_keys(media_key, descriptor["media_type"])
        names = ("media_type", "direct_path", "url", "file_sha256", "file_enc_sha256", "file_length")
        more = ("mime", "width", "height", "duration_s")
        known = {name: descriptor[name] for name in names} | {name: descriptor.get(name) for name in more}
        return RemoteFile(**known, content_field=descriptor["field"], media_key=media_key, key=dict(descriptor["key"]))
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise MediaRefused("the job's descriptor cannot be read") from None


def make_descriptor(file: RemoteFile) -> dict[str, Any]:
    """The inverse of `parse_remote`."""
    return {
        "media_type": file.media_type,
        "field": file.content_field,
        "media_key": base64.b64encode(file.media_key).decode(),
        "direct_path": file.direct_path,
        "url": file.url,
        "file_sha256": file.file_sha256,
        "file_enc_sha256": file.file_enc_sha256,
        "file_length": file.file_length,
        "mime": file.mime,
        "width": file.width,
        "height": file.height,
        "duration_s": file.duration_s,
        "key": dict(file.key),
    }


def _base64(digest: str | None) -> str | None:
    return None if digest is None else base64.b64encode(bytes.fromhex(digest)).decode()

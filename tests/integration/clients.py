"""Examples in Python that an app's server would run with supabase-py."""

from __future__ import annotations

import gc
import re
import warnings
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from storage3.types import SignedUrlJsonResponse
from supabase_auth.types import Session, User


async def run_python(example: str, page: Path, names: dict[str, Any]) -> None:
    """Run an example of a page among `names`, and leave there what it made."""

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # supabase-py's sync client warns of its own parts
            exec(compile(example, str(page), "exec"), names)  # noqa: S102

    await anyio.to_thread.run_sync(run)
    for client in gc.get_objects():  # a web app keeps its client for ever, and supabase-py's has no close
        if isinstance(client, httpx.Client):
            client.close()


def read_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded Supabase's times of users, `2026-11-27 13:33:38.052+00`, are refused by supabase-py."""
    for model in (Session, User):
        whole = model.model_validate_json
        monkeypatch.setattr(model, "model_validate_json", lambda text, whole=whole: whole(_with_iso_times(text)))


def _with_iso_times(text: bytes | str) -> str:
    plain = text.decode() if isinstance(text, bytes) else text
    return re.sub(r'"(\d{4}-\d\d-\d\d) ([\d:.]+\+00)"', r'"\1T\2:00"', plain)


def read_signed_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded Supabase spells one field in another way than Supabase does, and the path from its root."""
    whole = SignedUrlJsonResponse.model_validate_json
    monkeypatch.setattr(
        SignedUrlJsonResponse,
        "model_validate_json",
        lambda text: whole(text.replace(b'"signedUrl":"/storage/v1', b'"signedURL":"')),
    )

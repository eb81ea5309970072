"""One linked worker for the end-to-end tests that need nothing of their own.

The worker runs as an operator runs it; tests look where the web app looks (testkit/database.py) and send what a
phone sends (testkit/phone.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.embedded import EmbeddedSupabase
from tests.e2e.town import Town, found_town


@pytest.fixture(scope="session")
async def town(tmp_path_factory: pytest.TempPathFactory, supabase: EmbeddedSupabase) -> AsyncIterator[Town]:
    """A linked worker of the default session, its log at trace, files over 1 MB refused; two of three groups on."""
    settings = {"LOG_LEVEL": "trace", "WORKER_MAX_MEDIA_MB": "1", "WORKER_CATCH_UP_S": "3600"}
    folder: Path = tmp_path_factory.mktemp("town")
    async with found_town(folder, supabase, settings=settings) as linked:
        yield linked

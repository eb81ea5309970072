"""All async tests run on asyncio, which supabase-py needs; one event loop serves fixtures of every scope."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"

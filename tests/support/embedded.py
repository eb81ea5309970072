"""The embedded Supabase as tests and the demo use it: started by itself, or found where a worker runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Self


class EmbeddedSupabase:
    url: str
    service_key: str
    folder: Path

    @classmethod
    async def start(cls, folder: Path) -> Self:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exit: object) -> None: ...

    @property
    def worker_env(self) -> dict[str, str]:
        return {"SUPABASE_URL": self.url, "SUPABASE_SERVICE_KEY": self.service_key}


async def endpoint(data_dir: Path) -> tuple[str, str]:
    raise NotImplementedError

"""Which version of WhatsApp Web the worker claims to be: WA_VERSION, else fetched, else last good, else bundled.

Fetches only after WhatsApp refused a version (405), not at every connect. Source: docs/whatsapp.md, "Closes".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import anyio
import httpx
from loguru import logger

from worker.settings import Version

SOURCE = "https://web.whatsapp.com/sw.js"
REVISION = re.compile(rb'"?client_revision\\?"?\s*:\s*(\d{6,12})')
FETCH_SECONDS = 30.0  # in all; the connection waits for it
SCRIPT_BYTES_MAX = 4 * 1024 * 1024  # far more than the script has; bounds the memory


class VersionPolicy:
    """`present()` is the version to connect with; None: the one bundled with Baileys."""

    def __init__(self, pin: Version | None, last_good: Version | None, keep: Callable[[Version], None]) -> None:
        self._pin = pin
        self._last_good = last_good
        self._fetched: Version | None = None
        self._keep = keep
        self.wanted = False

    def present(self) -> Version | None:
        return self._pin or self._fetched or self._last_good

    def outdated(self) -> None:
        """WhatsApp refused the version: fetch one before the next attempt, and drop the stored one."""
        if self._pin:
            logger.error("WhatsApp refuses the version that WA_VERSION names; remove the setting, or name a newer one")
            return
        self._last_good = None
        self.wanted = True

    async def refresh(self, fetch: Callable[[], Awaitable[Version | None]]) -> None:
        """Fetch a version if the last one was refused; if that fails, the bundled one is used."""
        if self.wanted:
            self._fetched = await fetch()
            self.wanted = False

    def worked(self) -> None:
        """A connection opened: keep a fetched version."""
        if self._fetched and not self._pin:
            self._last_good = self._fetched
            self._keep(self._fetched)

    def forget(self) -> None:
        """Drop the fetched version: another account may follow."""
        self._fetched = None


async def fetch_version(client: httpx.AsyncClient | None = None) -> Version | None:
    """Today's version of WhatsApp Web, or None. Bounded in time and size."""
    script = b""
    headers = {"sec-fetch-site": "none", "user-agent": "Mozilla/5.0", "accept-encoding": "identity"}
    try:
        with anyio.fail_after(FETCH_SECONDS):
            async with (
                client or httpx.AsyncClient(timeout=FETCH_SECONDS, follow_redirects=False) as http,
                http.stream("GET", SOURCE, headers=headers) as answer,
            ):
                async for chunk in answer.aiter_bytes():
                    script += chunk
                    if len(script) > SCRIPT_BYTES_MAX or answer.status_code != httpx.codes.OK:
                        break
                found = REVISION.search(script) if answer.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, TimeoutError):
        found = None
    if not found:
        logger.warning("fetching the version of WhatsApp Web failed; using the bundled one")
        return None
    return (2, 3000, int(found[1]))


def parse_version(value: object) -> Version | None:
    """The version stored in `detail.version`, or None."""
    if isinstance(value, list) and len(value) == 3 and all(isinstance(part, int) for part in value):
        return (value[0], value[1], value[2])
    return None

"""Which version of WhatsApp Web we claim to be: the operator's, the last that worked, a fetched one, the bundled one.

Asks WhatsApp only after it refused a version (405), never at every connect (FACTS §2).
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
FETCH_SECONDS = 30.0  # the whole of it; nobody is connected meanwhile
SCRIPT_BYTES_MAX = 4 * 1024 * 1024  # far above what the script has; a page without end must not fill the memory


class VersionPolicy:
    """`present()` is what to connect with; None = the version that Baileys brings."""

    def __init__(self, pin: Version | None, last_good: Version | None, keep: Callable[[Version], None]) -> None:
        self._pin = pin
        self._last_good = last_good
        self._fetched: Version | None = None
        self._keep = keep
        self.wanted = False

    def present(self) -> Version | None:
        return self._pin or self._fetched or self._last_good

    def outdated(self) -> None:
        """WhatsApp refused it: fetch before the next attempt, and do not go back to the stored one."""
        if self._pin:
            logger.error("WhatsApp refuses the version that WA_VERSION names; remove the setting, or name a newer one")
            return
        self._last_good = None
        self.wanted = True

    async def refresh(self, fetch: Callable[[], Awaitable[Version | None]]) -> None:
        """Fetch if WhatsApp asked for it; a failure leaves the bundled one."""
        if self.wanted:
            self._fetched = await fetch()
            self.wanted = False

    def worked(self) -> None:
        """A connection opened with it: remember it."""
        if self._fetched and not self._pin:
            self._last_good = self._fetched
            self._keep(self._fetched)

    def forget(self) -> None:
        """A new account starts afresh."""
        self._fetched = None


async def fetch_version(client: httpx.AsyncClient | None = None) -> Version | None:
    """The version that WhatsApp Web has today; None if it cannot be had. Bounded in time and size."""
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
        logger.warning("the present version of WhatsApp Web could not be fetched; the bundled one is used")
        return None
    return (2, 3000, int(found[1]))


def parse_version(value: object) -> Version | None:
    """A version as it was stored in `detail.version`."""
    if isinstance(value, list) and len(value) == 3 and all(isinstance(part, int) for part in value):
        return (value[0], value[1], value[2])
    return None

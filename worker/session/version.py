"""The version of WhatsApp Web that the worker claims to be: WA_VERSION, else fetched, else last good, else bundled.

WhatsApp gives an outdated version a QR code, and then the scan fails on the phone only (docs/whatsapp.md, "The real
server in 2026"). So the worker fetches the current version whenever no account is linked, and when WhatsApp refuses
one (405). A linked account keeps the version that worked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import anyio
import httpx
from loguru import logger

from worker.outbound import BROWSER, http_client, why
from worker.settings import Version

SOURCE = "https://web.whatsapp.com/sw.js"
REVISION = re.compile(rb'"?client_revision\\?"?\s*:\s*(\d{6,12})')
FETCH_SECONDS = 10.0  # in total; connecting waits for it
SCRIPT_BYTES_MAX = 4 * 1024 * 1024  # far larger than the script; bounds memory
FETCH_AGAIN_SECONDS = 3600.0  # WhatsApp accepts a version for months
RETRY_SECONDS = 60.0  # the reconnect right after a scan must not wait for a second failing fetch
FRESH = timedelta(days=30)
HEADERS = {
    "user-agent": BROWSER,
    "accept": "*/*",
    "accept-language": "en-US,en;q=0.9",
    "accept-encoding": "identity",
    "sec-fetch-site": "none",
}


@dataclass(frozen=True, kw_only=True)
class VersionClaim:
    """A version, its source, and when it was fetched. `version` None: the bundled one, not known yet."""

    version: Version | None
    source: Literal["WA_VERSION", "fetched", "kept", "bundled"]
    at: datetime | None = None

    def facts(self) -> dict[str, str | None]:
        """The form stored in `detail.claims` and in audit entries."""
        number = ".".join(str(part) for part in self.version) if self.version else None
        at = self.at.isoformat(timespec="seconds") if self.at else None
        return {"version": number, "source": self.source, "at": at}


class VersionPolicy:
    """Decides which version to claim. `present()`: the version to connect with; None: the one bundled with Baileys.

    `unasked`: fetch whenever no account is linked, not only after a refusal. Off for a local server.
    """

    def __init__(
        self,
        pin: Version | None,
        last_good: VersionClaim | None,
        keep: Callable[[VersionClaim], None],
        *,
        unasked: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pin = pin
        self._last_good = last_good
        self._keep = keep
        self._unasked = unasked
        self._clock = clock
        self._fetched: VersionClaim | None = None
        self._bundled = VersionClaim(version=None, source="bundled")
        self._refused = False
        self._failed = False
        self._not_before = clock()

    @property
    def claim(self) -> VersionClaim:
        """What is claimed now."""
        if self._pin:
            return VersionClaim(version=self._pin, source="WA_VERSION")
        return self._fetched or self._last_good or self._bundled

    def present(self) -> Version | None:
        claim = self.claim
        return None if claim.source == "bundled" else claim.version

    def connected_with(self, version: Version) -> None:
        """Note what the sidecar claims: the only way to learn the bundled version."""
        self._bundled = (
            VersionClaim(version=version, source="bundled") if self.claim.source == "bundled" else self._bundled
        )

    def outdated(self) -> None:
        """WhatsApp refused the version: drop the stored one, and fetch before the next attempt."""
        if self._pin:
            logger.error("WhatsApp refuses the version that WA_VERSION names; remove the setting, or name a newer one")
            return
        self._fetched = self._last_good = None
        self._refused = True

    async def refresh(self, fetch: Callable[[], Awaitable[Version | None]], *, linked: bool) -> None:
        """Fetch if due. A failure keeps the known version, and `doubt` reports it."""
        due = self._unasked and not linked and self._clock() >= self._not_before
        if self._pin or not (self._refused or due):
            return
        version = await fetch()
        self._refused = False
        self._failed = version is None
        self._not_before = self._clock() + (RETRY_SECONDS if version is None else FETCH_AGAIN_SECONDS)
        if version:
            self._fetched = VersionClaim(version=version, source="fetched", at=datetime.now(UTC))

    def doubt(self) -> str | None:
        """A warning to show with a code: the version may be too old to link, and fetching a newer one failed."""
        claim = self.claim
        fresh = claim.at is not None and datetime.now(UTC) - claim.at < FRESH
        if self._pin or fresh or not self._failed:
            return None
        return (
            "The current version of WhatsApp Web could not be fetched, and the one in use may be too old: if the phone "
            "says that it could not link the device, let this machine reach web.whatsapp.com, or set WA_VERSION."
        )

    def worked(self) -> None:
        """A connection opened: store the fetched version."""
        if self._fetched and not self._pin:
            self._last_good = VersionClaim(version=self._fetched.version, source="kept", at=self._fetched.at)
            self._keep(self._last_good)

    def forget(self) -> None:
        """Drop the fetched version: another account may follow."""
        self._fetched = None
        self._not_before = self._clock()


async def fetch_version(
    url: str = SOURCE, client: httpx.AsyncClient | None = None, *, proxy: str | None = None
) -> Version | None:
    """The current version of WhatsApp Web; None if it cannot be fetched. Bounded in time and size."""
    script = b""
    try:
        with anyio.fail_after(FETCH_SECONDS):
            async with (
                client or http_client(url, own_proxy=proxy, timeout=FETCH_SECONDS, follow_redirects=False) as http,
                http.stream("GET", url, headers=HEADERS) as answer,
            ):
                async for chunk in answer.aiter_bytes():
                    script += chunk
                    if len(script) > SCRIPT_BYTES_MAX or answer.status_code != httpx.codes.OK:
                        break
                found = REVISION.search(script) if answer.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, TimeoutError) as error:
        logger.warning("fetching the version of WhatsApp Web failed: {}", why(error))
        return None
    if not found:
        logger.warning("fetching the version of WhatsApp Web failed: HTTP {}, no version in it", answer.status_code)
        return None
    return (2, 3000, int(found[1]))


def parse_kept(detail: dict[str, object]) -> VersionClaim | None:
    """The version that worked, from `detail.version` and `detail.version_at`; None if absent or invalid."""
    value, at = detail.get("version"), detail.get("version_at")
    if not (isinstance(value, list) and len(value) == 3 and all(isinstance(part, int) for part in value)):
        return None
    try:
        since = datetime.fromisoformat(at) if isinstance(at, str) else None
    except ValueError:
        since = None
    return VersionClaim(
        version=(value[0], value[1], value[2]), source="kept", at=since if since and since.tzinfo else None
    )

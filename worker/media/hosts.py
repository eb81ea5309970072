"""WhatsApp's current media hosts, in the order in which to try them.

Asks WhatsApp again when its last answer has expired. A host that fails goes to the end until the next answer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
from loguru import logger

from worker.bridge.protocol import MediaHostList
from worker.errors import BridgeError, MediaUnavailable
from worker.media.address import DEFAULT_HOST, is_whatsapp_host

ANSWER_SECONDS = 10.0  # one query; downloads wait for it
ASK_AGAIN_SECONDS = 60.0  # at least, even after no answer or a short-lived one
GOOD_SECONDS_MAX = 86_400.0
MOST_HOSTS = 4  # each may cost a full time-out

# Raises MediaUnavailable or a BridgeError if WhatsApp could not be asked.
AskHosts = Callable[[], Awaitable[MediaHostList]]


class MediaHosts:
    """The media hosts of one account. Without `ask` (a process without a phone): the default host."""

    def __init__(self, ask: AskHosts | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._now = now
        self._hosts = [DEFAULT_HOST]
        self._good_until = now()
        self._asking = anyio.Lock()

    async def current(self) -> tuple[str, ...]:
        async with self._asking:
            if self._ask is not None and self._now() >= self._good_until:
                await self._renew(self._ask)
        return tuple(self._hosts)

    def put_last(self, host: str) -> None:
        """Note that this host failed: try the others first."""
        if host in self._hosts:
            self._hosts.remove(host)
            self._hosts.append(host)

    async def _renew(self, ask: AskHosts) -> None:
        seconds = ASK_AGAIN_SECONDS
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                told = await ask()
        except (TimeoutError, MediaUnavailable, BridgeError) as error:
            logger.debug("could not ask WhatsApp for its media hosts: {}", type(error).__name__)
        else:
            own = [host for host in dict.fromkeys(told.hosts) if is_whatsapp_host(host)]
            self._hosts = list(dict.fromkeys([*own[:MOST_HOSTS], DEFAULT_HOST]))
            seconds = min(max(told.ttl_s, ASK_AGAIN_SECONDS), GOOD_SECONDS_MAX)
        self._good_until = self._now() + seconds

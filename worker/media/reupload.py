"""Asks the linked phone to re-upload files that WhatsApp's servers no longer have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from loguru import logger

from worker.errors import BridgeError, MediaExpired, MediaRefused, MediaUnavailable
from worker.media.remote import Json, RemoteFile
from worker.media.steps import Answer

ANSWER_SECONDS = 60.0  # Baileys itself waits for the phone forever (docs/whatsapp.md, "Media")

# (message key, content) → content with a new directPath.
# Raises MediaExpired if the phone does not have the file; MediaUnavailable or a BridgeError if it cannot be asked.
Refresh = Callable[[Json, Json], Awaitable[Json]]


class Reuploads:
    """At most `limit` files wait for the phone at once, so that an unreachable phone does not block other files."""

    def __init__(self, refresh: Refresh, limit: int, has_phone: Callable[[], bool] = lambda: True) -> None:
        self._refresh = refresh
        self._limit = limit
        self._has_phone = has_phone
        self._waiting = 0

    def room(self) -> int:
        """How many more requests to the phone are allowed; 0 while no phone is linked."""
        return self._limit - self._waiting if self._has_phone() else 0

    async def ask(self, file: RemoteFile) -> tuple[Answer, RemoteFile]:
        """Ask the phone. Returns its answer and the file, which has a new address if the answer is "renewed"."""
        if self._waiting >= self._limit:
            return "busy", file
        self._waiting += 1
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                return "renewed", file.renewed(await self._refresh(file.key, file.as_message()))
        except (MediaExpired, MediaRefused):
            return "refused", file
        except (TimeoutError, MediaUnavailable, BridgeError) as error:
            logger.info("the phone did not answer a request for a file: {}", type(error).__name__)
            return "unanswered", file
        finally:
            self._waiting -= 1

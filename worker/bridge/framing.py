"""Converts bytes to lines and back: one UTF-8 JSON document per line, bounded in both directions.

Knows nothing about JSON-RPC. A framing error ends the link, because the start of the next line is unknown.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream

from worker.errors import SidecarGone

MAX_LINE_BYTES = 32 * 1024 * 1024  # docs/protocol.md; a batch has 1 MB, one hostile stanza may be much larger
NEWLINE = b"\n"


async def read_documents(stream: ByteReceiveStream, limit: int = MAX_LINE_BYTES) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of `stream`, one per line, until it ends.

    Raises:
        SidecarGone: a line is over `limit`, is not UTF-8, is not a JSON object, or was cut off.
    """
    buffered = BufferedByteReceiveStream(stream)
    while True:
        try:
            line = await buffered.receive_until(NEWLINE, limit)
            if len(line) > limit:
                raise anyio.DelimiterNotFound(limit)
        except anyio.IncompleteRead:
            if buffered.buffer:
                raise SidecarGone("the sidecar's last line was cut off") from None
            return
        except anyio.DelimiterNotFound:
            raise SidecarGone(f"the sidecar wrote a line of more than {limit} bytes") from None
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return
        if line.strip():
            yield parse_document(line)


def parse_document(line: bytes) -> dict[str, Any]:
    """One line as a JSON object. Uses `json`, not pydantic's parser, because senders can plant lone surrogates.

    Raises:
        SidecarGone: it is not one. The error never quotes the line, which may contain a message.
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise SidecarGone(f"the sidecar wrote {len(line)} bytes to stdout that are not JSON") from None
    if not isinstance(document, dict):
        raise SidecarGone("the sidecar wrote a JSON document that is not an object")
    return document


def make_line(document: dict[str, Any]) -> bytes:
    """One document as a line, in ASCII, so that a lone surrogate survives as an escape."""
    return json.dumps(document, separators=(",", ":")).encode("ascii") + NEWLINE


class LineWriter:
    """Writes whole lines to the sidecar, one at a time; waits while its pipe is full.

    asyncio buffers the whole line before it waits, so a cancelled caller never leaves half a line behind.
    """

    def __init__(self, stream: ByteSendStream, limit: int = MAX_LINE_BYTES) -> None:
        self._stream = stream
        self._limit = limit
        self._turn = anyio.Lock()

    async def send(self, document: dict[str, Any]) -> None:
        """Write one document.

        Raises:
            SidecarGone: the sidecar no longer reads.
            ValueError: the document is too large; nothing was written.
        """
        line = make_line(document)
        if len(line) > self._limit:
            raise ValueError(f"a line of {len(line)} bytes is over the wire's limit of {self._limit}")
        async with self._turn:
            try:
                await self._stream.send(line)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
                raise SidecarGone("the sidecar no longer reads") from None

"""Bytes to lines and back: one UTF-8 JSON document a line, bounded in both directions.

Knows nothing of JSON-RPC. Whatever breaks the framing ends the link: the place of the next line is then unknown.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream

from worker.errors import SidecarGone

MAX_LINE_BYTES = 32 * 1024 * 1024  # docs/protocol.md; a batch is 1 MB, one hostile stanza may be much larger
NEWLINE = b"\n"


async def read_documents(stream: ByteReceiveStream, limit: int = MAX_LINE_BYTES) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of `stream`, one a line, until it ends.

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
    """One line as a JSON object. `json` and not pydantic's parser: a sender can plant a lone surrogate.

    Raises:
        SidecarGone: it is none. The text never quotes the line, which may hold a message.
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise SidecarGone(f"the sidecar wrote {len(line)} bytes to stdout that are not JSON") from None
    if not isinstance(document, dict):
        raise SidecarGone("the sidecar wrote a JSON document that is not an object")
    return document


def make_line(document: dict[str, Any]) -> bytes:
    """One document as a line. ASCII, so that a lone surrogate survives as an escape."""
    return json.dumps(document, separators=(",", ":")).encode("ascii") + NEWLINE


class LineWriter:
    """Writes whole lines to the sidecar, one at a time; waits while its pipe is full.

    asyncio takes a line into its buffer in one step and only then waits, so a caller that is cancelled
    here never leaves half a line behind.
    """

    def __init__(self, stream: ByteSendStream, limit: int = MAX_LINE_BYTES) -> None:
        self._stream = stream
        self._limit = limit
        self._turn = anyio.Lock()

    async def send(self, document: dict[str, Any]) -> None:
        """Write one document.

        Raises:
            SidecarGone: nobody reads any more.
            ValueError: the document is over the limit; nothing was written.
        """
        line = make_line(document)
        if len(line) > self._limit:
            raise ValueError(f"a line of {len(line)} bytes is over the wire's limit of {self._limit}")
        async with self._turn:
            try:
                await self._stream.send(line)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
                raise SidecarGone("the sidecar no longer reads") from None

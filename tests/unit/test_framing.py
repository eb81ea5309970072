"""Lines on the wire: bounded, whole, and nothing else."""

import json
from typing import Any

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.streams.stapled import StapledObjectStream

from worker.bridge.framing import LineWriter, make_line, read_documents
from worker.errors import SidecarGone


class Chunks:
    """A byte stream that gives these pieces, then ends."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self._pieces:
            raise anyio.EndOfStream
        return self._pieces.pop(0)

    async def aclose(self) -> None:
        self._pieces = []

    extra_attributes: dict[Any, Any] = {}  # noqa: RUF012


async def documents(*pieces: bytes, limit: int = 1000) -> list[dict[str, Any]]:
    return [document async for document in read_documents(Chunks(*pieces), limit)]  # type: ignore[arg-type]


async def test_documents_are_found_wherever_the_pipe_cuts() -> None:
    whole = b'{"a":1}\n\n{"b":"\xc3\xa9"}\r\n'
    for cut in range(len(whole) + 1):
        assert await documents(*(piece for piece in (whole[:cut], whole[cut:]) if piece)) == [{"a": 1}, {"b": "é"}]


@pytest.mark.parametrize(
    ("pieces", "says", "because"),
    [
        ([b"hello\n"], "not JSON", "somebody printed to stdout"),
        ([b"\xff\xfe\n"], "not JSON", "not UTF-8"),
        ([b"[1]\n"], "not an object", "JSON, but no document of ours"),
        ([b"[" * 900 + b"\n"], "not JSON", "too deep"),
        ([b'{"a":"' + b"x" * 2000], "more than 1000 bytes", "a line without end does not fill the memory"),
        ([b'{"a":"' + b"x" * 2000 + b'"}\n'], "more than 1000 bytes", "a line over the limit"),
        ([b'{"a":'], "cut off", "it died in mid-line"),
    ],
)
async def test_a_stream_that_is_not_the_wire_ends_the_link(pieces: list[bytes], says: str, because: str) -> None:
    with pytest.raises(SidecarGone, match=says) as gone:
        await documents(*pieces)
    assert "xxx" not in str(gone.value), "the line is not quoted: it may be a message"


async def test_an_end_between_lines_is_just_the_end() -> None:
    assert await documents(b"{}\n") == [{}]


def test_a_lone_surrogate_survives_the_way() -> None:
    assert json.loads(make_line({"text": "\ud800"})) == {"text": "\ud800"}


def writer(limit: int = 100) -> tuple[LineWriter, MemoryObjectSendStream[bytes], MemoryObjectReceiveStream[bytes]]:
    send, receive = anyio.create_memory_object_stream[bytes](10)
    return LineWriter(StapledObjectStream(send, receive), limit), send, receive  # type: ignore[arg-type]


async def test_a_document_over_the_limit_is_not_sent() -> None:
    lines, send, receive = writer()
    with send, receive:
        with pytest.raises(ValueError, match="over the wire's limit"):
            await lines.send({"text": "x" * 200})
        assert receive.statistics().current_buffer_used == 0


async def test_writing_to_a_sidecar_that_has_gone_says_so() -> None:
    lines, send, receive = writer()
    send.close()
    receive.close()
    with pytest.raises(SidecarGone):
        await lines.send({})

"""Stanzas for tests of the ingest: one valid message, and whatever a test changes in it."""

from __future__ import annotations

import base64
from typing import Any

from worker.bridge.protocol import Commit, Event, Stanza
from worker.ingest.rules.batch import Ingested, ingest
from worker.ingest.rules.live import LiveWindow
from worker.ingest.rules.normalise import Rules

GROUP = "120363000000000001@g.us"
OTHER_GROUP = "120363000000000002@g.us"
ANA = "1001@lid"
ANA_PHONE = "4915112345678@s.whatsapp.net"
BEN = "1002@lid"
NOW_S = 1_790_000_000
NOW_MS = NOW_S * 1000
HASH = "ab" * 32


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def make_rules(**changes: Any) -> Rules:
    """The rules of a session that stores `GROUP`, with the contract's defaults."""
    return Rules(**{"monitored": frozenset({GROUP}), "window": LiveWindow(), **changes})


def make_key(**changes: Any) -> dict[str, Any]:
    return {
        "remoteJid": GROUP,
        "fromMe": False,
        "id": "3EB0AA",
        "participant": ANA,
        "participantAlt": ANA_PHONE,
        "addressingMode": "lid",
        **changes,
    }


def make_stanza(content: dict[str, Any] | None = None, **changes: Any) -> Stanza:
    """A live message from Ana in `GROUP`, "hello" by default."""
    fields: dict[str, Any] = {
        "attrs": {"id": "3EB0AA", "from": GROUP, "participant": ANA, "t": str(NOW_S), "notify": "Ana"},
        "key": make_key(),
        "arrived_at_ms": NOW_MS,
        "server_time_offset_ms": None,
        "content": {"conversation": "hello"} if content is None else content,
        "failure": None,
        "hashes": [HASH],
        "retry_count": 0,
        "unavailable": None,
    }
    return Stanza(**{**fields, **changes})


def make_file(**changes: Any) -> dict[str, Any]:
    """A file's WAProto JSON, valid in every part."""
    return {
        "url": "https://mmg.whatsapp.net/d/f/abc.enc",
        "mimetype": "image/jpeg",
        "fileSha256": b64(b"\x01" * 32),
        "fileLength": "46706",
        "mediaKey": b64(b"\x02" * 32),
        "fileEncSha256": b64(b"\x03" * 32),
        "directPath": "/v/t62.7118-24/abc.enc?ccb=1",
        "mediaKeyTimestamp": "1790000000",
        "jpegThumbnail": b64(b"\xff\xd8\xff" + b"\0" * 50),
        **changes,
    }


def ingested(stanzas: list[Stanza] | None = None, events: list[Event] | None = None, **rules: Any) -> Ingested:
    """What the rules make of one commit that comes at `NOW_MS`."""
    commit = Commit(epoch=1, seq=1, stanzas=stanzas or [], events=events or [])
    return ingest(commit, make_rules(**rules), NOW_MS)

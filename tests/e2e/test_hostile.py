"""What strangers may send: stored sanely, or refused with a count; never a crash, never a stall of the others."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from testkit.database import Row
from testkit.embedded import EmbeddedSupabase
from testkit.phone import Sent
from tests.e2e.town import Town, found_town

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

Json = dict[str, Any]
REPLACED = "\ufffd"
DEEP = 20_000  # levels
FLOOD = 400
DIRECT_FLOOD = 900
FLOOD_DRAIN_SECONDS = 120.0
FLOOD_PATIENCE_SECONDS = 30.0  # for another's message in the midst of it


def nested(depth: int, field: str = "ephemeralMessage") -> Json:
    """A text in `depth` wrappers."""
    message: Json = {"conversation": "the core"}
    for _ in range(depth):
        message = {field: {"message": message}}
    return message


def quotes(depth: int) -> Json:
    """A text that quotes a text that quotes …"""
    message: Json = {"extendedTextMessage": {"text": "the first"}}
    for _ in range(depth):
        info = {"stanzaId": "A", "participant": "1@lid", "quotedMessage": message}
        message = {"extendedTextMessage": {"text": "in answer", "contextInfo": info}}
    return message


def is_text(text: str) -> Callable[[Row], bool]:
    return lambda row: (row["kind"], row["text"]) == ("text", text)


def is_kind(*kinds: str) -> Callable[[Row], bool]:
    return lambda row: row["kind"] in kinds


# name → body of /send, and what its row must be like; None: it is discarded, and counted
HOSTILE: dict[str, tuple[Json, Callable[[Row], bool] | None]] = {
    "a NUL byte": ({"text": "a\x00b"}, is_text(f"a{REPLACED}b")),
    "a lone surrogate": ({"text": "a\ud800b"}, lambda row: row["kind"] == "text" and row["text"].startswith("a")),
    "control and bidi characters in a text stay": ({"text": "a\u202eb\x07"}, is_text("a\u202eb\x07")),
    "a name of five thousand characters, right to left": (
        {"text": "n", "push_name": "\u202e" + "N" * 5000},
        lambda row: row["push_name"] == "N" * 256,
    ),
    "an id of three thousand characters": (
        {"text": "i", "id": "I" * 3000},
        lambda row: len(row["wa_msg_id"]) == 128 and "#" in row["wa_msg_id"],
    ),
    "an id that is SQL": ({"text": "q", "id": "'; drop table messages; --"}, is_text("q")),
    "an id that is not ASCII": ({"text": "e", "id": "🍊\u202e"}, is_text("e")),
    "a text of a million characters": ({"text": "x" * 1_000_000}, lambda row: len(row["text"]) == 1_000_000),
    "ten thousand mentions": (
        {"message": {"extendedTextMessage": {"text": "m", "contextInfo": {"mentionedJid": ["1@lid"] * 10_000}}}},
        is_text("m"),
    ),
    "a hundred wrappers": ({"message": nested(100)}, is_kind("unknown", "text", "undecryptable")),
    "two thousand wrappers": ({"message": nested(2000)}, is_kind("unknown", "text", "undecryptable")),
    "quotes of quotes, two hundred": ({"message": quotes(200)}, is_kind("text", "undecryptable")),
    "quotes of quotes, a thousand": ({"message": quotes(1000)}, is_kind("text", "undecryptable")),
    "a poll of five thousand options": (
        {"message": {"pollCreationMessage": {"name": "?", "options": [{"optionName": f"o{n}"} for n in range(5000)]}}},
        lambda row: row["kind"] == "poll" and len(row["text"].splitlines()) == 64,
    ),
    "two thousand contacts": (
        {"message": {"contactsArrayMessage": {"contacts": [{"displayName": "c", "vcard": "v" * 500}] * 2000}}},
        is_kind("contacts"),
    ),
    "numbers at the edge of 64 bits": (
        {
            "message": {
                "imageMessage": {
                    "fileLength": "18446744073709551615",
                    "width": 4294967295,
                    "height": 4294967295,
                    "mediaKeyTimestamp": "-9223372036854775808",
                    "caption": "large",
                    "directPath": "/none",
                    "mediaKey": "AAAA",
                }
            }
        },
        lambda row: (row["text"], row["media_status"]) == ("large", "failed"),
    ),
    "a place beyond the world": (
        {"message": {"locationMessage": {"degreesLatitude": 1e308, "degreesLongitude": -1e308, "name": "nowhere"}}},
        is_kind("location"),
    ),
    "a time in the year 5138": ({"text": "late", "t": 99999999999}, lambda row: row["ts"].startswith("20")),
    "a time that is no number": ({"text": "when", "attrs": {"t": "soon"}}, is_text("when")),
    "a time below zero": ({"text": "minus", "attrs": {"t": "-5"}}, is_text("minus")),
    "a time of long ago": ({"text": "old", "t": 1}, None),
    "a file of no bytes with a path for a name": (
        {"media": {"kind": "document", "data": "", "mime": "image/png", "file_name": "../../etc/\u202egnp.exe"}},
        lambda row: row["kind"] == "document" and row["file_name"] == ".._.._etc_gnp.exe",
    ),
    "a file that says it is another": (
        {"media": {"kind": "image", "data": "TVqQAAMAAAAEAAAA//8AALgAAAAA", "mime": "image/jpeg"}},
        is_kind("image"),
    ),
    "a vote about nothing": ({"message": {"pollUpdateMessage": {}}}, is_kind("poll_vote")),
    "an empty protocol message": ({"message": {"protocolMessage": {}}}, is_kind("unknown", "undecryptable")),
    "a pin of a message with an endless id": (
        {"message": {"pinInChatMessage": {"key": {"remoteJid": "x" * 5000, "id": "y" * 5000}, "type": "PIN_FOR_ALL"}}},
        is_kind("pin"),
    ),
}


@pytest.fixture
def deep_json() -> Iterator[None]:
    """Lets this side write what the other must be able to bear."""
    former = sys.getrecursionlimit()
    sys.setrecursionlimit(DEEP)
    yield
    sys.setrecursionlimit(former)


@pytest.fixture(scope="module")
async def own_town(tmp_path_factory: pytest.TempPathFactory, supabase: EmbeddedSupabase) -> AsyncIterator[Town]:
    async with found_town(tmp_path_factory.mktemp("hostile"), supabase, session="hostile") as town:
        yield town


@pytest.mark.usefixtures("deep_json")
async def test_hostile_messages_neither_harm_nor_hold_up_the_others(own_town: Town) -> None:
    town = own_town
    processes = town.worker.processes()
    logins = (await town.phone.state())["logins"]
    sent: dict[str, Sent] = {}
    between: list[Sent] = []
    for name, (body, _) in HOSTILE.items():
        sent[name] = await town.phone.send_raw({"from": "Ana", "to": town.market.id, **body})
        between.append(await town.phone.send("Ben", town.market.id, f"after {name}"))

    for message in between:
        await town.row(message)
    await town.phone.wait_receipts(list(sent.values()), seconds=60)

    rows = await town.database.messages(chat_id=town.market.id, sender=town.people["Ana"].lid)
    by_id = {row["wa_msg_id"]: row for row in rows}
    wrong = []
    for name, (_, fits) in HOSTILE.items():
        row = by_id.get(sent[name].id) or next((r for r in rows if r["wa_msg_id"][:40] == sent[name].id[:40]), None)
        if (row is None) != (fits is None):
            wrong.append(f"{name}: {'no row' if row is None else 'a row'}")
        elif row is not None and fits is not None and not fits(row):
            shown = {column: str(row[column])[:60] for column in ("kind", "text", "wa_msg_id", "file_name", "ts")}
            wrong.append(f"{name}: {shown} {row['media_status']} {str(row['raw'])[:200]}")
    assert wrong == []

    discards = await town.database.rows("wa_discards", session_id="hostile", reason="too_old")
    assert [row["count"] for row in discards] == [1]
    assert await town.database.rows("wa_refused_stanzas", session_id="hostile") == []
    assert town.worker.processes() == processes, "no part was started again"
    assert (await town.phone.state())["logins"] == logins, "and none had to log in again"
    assert "Traceback" not in town.worker.child.text()
    assert await town.phone.offline() == [], "WhatsApp keeps none of it for us"


async def test_a_flood_from_one_sender_does_not_hold_up_another(own_town: Town) -> None:
    town = own_town
    flood = await town.phone.burst(["Chika"], [town.market.id], FLOOD, text_prefix="flood", size=2000)
    other = await town.phone.send("Dora", town.crew.id, "in the midst of it")

    await town.database.wait_message(other.id, FLOOD_PATIENCE_SECONDS, town.worker.child.tail)

    await town.phone.wait_receipts(flood["ids"], seconds=60)
    texts = [row["text"] for row in await town.database.messages(sender=town.people["Chika"].lid)]
    assert sorted(texts) == sorted(item["text"] for item in flood["items"])


async def test_a_flood_of_undecryptable_direct_messages_makes_no_message_of_a_member_too_old(own_town: Town) -> None:
    town = own_town
    before = await _counted(town, "too_old")
    answers = len(await town.phone.receipts())
    garbage: Json = {"to": "direct", "text": "", "fault": {"garbage": 120, "never": True}}
    flood = [{**garbage, "from": f"Stranger {n % 50}"} for n in range(DIRECT_FLOOD)]
    between: list[Sent] = []
    for first in range(0, DIRECT_FLOOD, DIRECT_FLOOD // 6):
        await town.phone.post("/send_many", {"items": flood[first : first + DIRECT_FLOOD // 6]})
        between.append(await town.phone.send("Ben", town.market.id, f"beside {first}"))
    for message in between:
        await town.row(message)
    assert await _counted(town, "too_old") == before
    await town.phone.wait_for("queue_empty", FLOOD_DRAIN_SECONDS)
    kinds = {entry["kind"] for entry in (await town.phone.receipts())[answers:]}
    assert "retry" not in kinds, "nobody is asked for what would not be stored"


async def _counted(town: Town, reason: str) -> int:
    return sum(row["count"] for row in await town.database.rows("wa_discards", session_id="hostile", reason=reason))

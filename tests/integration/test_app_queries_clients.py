"""docs/app-queries.md in Python and JavaScript: both, as they stand, answer with the rows that the SQL is about."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from bench.queries import PAGE
from tests.integration.clients import run_python
from tests.integration.database import GROUP, OTHER_GROUP, at, message, photo, rows, writer
from tests.integration.pages import code_blocks
from tests.integration.test_store_changes import change
from worker.store import MediaFile, Store
from worker.store.embedded import Endpoint

# The names of an answer: in Python, in JavaScript.
ANSWERS = {
    "newest": "newest",
    "older": "older",
    "newest_of_each": "newestOfEach",
    "today": "today",
    "page": "page",
    "unread": "unread",
    "thread": "thread",
    "of_album": "ofAlbum",
    "copies": "copies",
    "gallery": "gallery",
    "of_person": "ofPerson",
}
ANA: dict[str, Any] = {"sender": "ana@lid"}
BEN: dict[str, Any] = {"sender": "ben@lid", "push_name": "Ben"}


def example(language: str) -> str:
    (found,) = code_blocks(PAGE.read_text(), language)
    return found


async def fill(store: Store, session: str) -> dict[str, dict[str, Any]]:
    """Two groups with something for each query, sixty messages more than a page; the rows by their WhatsApp id."""
    me = await writer(store, session, monitored=(GROUP, OTHER_GROUP))
    now: dict[str, Any] = {"ts": (datetime.now(UTC) - timedelta(minutes=5)).isoformat()}
    many = [message(f"T{n:02}", n, **(BEN if n % 3 else ANA)) for n in range(60)]
    some = [
        message("Q", 100, **ANA),
        message("A", 101, kind="album", text=None, **ANA),
        photo("SD", 103, **ANA),
        photo("HD", 104, rendition="hd", **ANA),
        message("E", 110, quoted_msg_id="Q", quoted_sender="ana@lid", **BEN),
        photo("P", 102, **ANA),
        message("mine", 120, from_me=True, **ANA),
        message("news", 130, **BEN),
        message("rename", 140, kind="system", text="Ana changed the group's name", **ANA),
        message("O", 50, chat_id=OTHER_GROUP, **BEN),
        message("today", chat_id=OTHER_GROUP, **now, **ANA),
    ]
    changes = [
        change("quote", "Q", "E", target_sender="ana@lid", author="ben@lid"),
        change("album", "A", "P", target_sender="ana@lid", author="ana@lid"),
        change("rendition", "SD", "HD", target_sender="ana@lid", author="ana@lid"),
    ]
    await me.commit(messages=[*many, *some], changes=changes)
    (job, *_) = [one for one in (await store.media_claim("w", 9, 60, session)).jobs if one.wa_msg_id == "P"]
    sha256 = "e" * 64
    media = MediaFile(sha256=sha256, mime="image/jpeg", bytes=3, storage_path=f"{sha256}/original.jpg")
    await store.media_done(job.id, "w", media)
    return {row["wa_msg_id"]: row for row in await rows(store, "messages", session)}


async def in_python(values: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    client = "from supabase import create_client\nsupabase = create_client(url, key)\n"
    found = {"url": endpoint.url, "key": endpoint.key, **values}
    await run_python(client + example("python"), PAGE, found)
    return {name: found[name] for name in ANSWERS}


async def in_javascript(values: dict[str, Any], endpoint: Endpoint, node: Path) -> dict[str, Any]:
    given = {name: value for name, value in values.items() if name != "read_until"}
    given |= {"readUntil": values["read_until"], "url": endpoint.url, "key": endpoint.key}
    script = "import { createClient } from '@supabase/supabase-js'\n"
    script += "".join(f"const {name} = {json.dumps(value)}\n" for name, value in given.items())
    script += "const supabase = createClient(url, key, { auth: { persistSession: false } })\n"
    script += f"{example('js')}\nconsole.log(JSON.stringify({{ {', '.join(ANSWERS.values())} }}))"
    done = await anyio.run_process(
        [node, "--input-type=module", "--eval", script], cwd=PAGE.parents[1], check=False, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout.decode()
    found = json.loads(done.stdout)
    return {name: found[in_js] for name, in_js in ANSWERS.items()}


def names(found: list[dict[str, Any]], stored: dict[str, dict[str, Any]]) -> list[str]:
    by_id = {row["id"]: name for name, row in stored.items()}
    return [by_id[row["id"]] for row in found]


@pytest.mark.parametrize("language", ["python", "javascript"])
async def test_the_queries_for_the_data_api_answer_as_the_page_says(
    store: Store, session: str, embedded: Endpoint, node: Path, language: str
) -> None:
    stored = await fill(store, session)
    group = {"id": stored["Q"]["group_id"]}
    of_row = {"question": "Q", "album": "A", "photo": "SD"}
    values = {"SESSION": session, "group": group, "person": "ben@lid", "read_until": at(100)}
    values |= {name: {"id": stored[wa_msg_id]["id"]} for name, wa_msg_id in of_row.items()}
    run = in_python(values, embedded) if language == "python" else in_javascript(values, embedded, node)

    found = await run

    everything = sorted(stored.values(), key=lambda row: (row["ts"], row["id"]), reverse=True)
    in_order = [row["wa_msg_id"] for row in everything]
    assert names(found["newest"], stored) == in_order[:50]
    assert names(found["older"], stored) == in_order[50:]
    last = {one["name"]: names(one["messages"], stored) for one in found["newest_of_each"]}
    assert last == {"Family": ["news"], "Work": ["today"]}
    assert found["today"] == 0, "all of this group is old"
    assert (
        names(found["page"], stored) == [row["wa_msg_id"] for row in everything if row["group_id"] == group["id"]][:50]
    )
    assert found["unread"] == len({"A", "P", "SD", "HD", "E", "news", "rename"})
    assert names(found["thread"], stored) == ["E"]
    assert names(found["of_album"], stored) == ["P"]
    assert names(found["copies"], stored) == ["HD"]
    assert names(found["gallery"], stored) == ["P"]
    assert found["gallery"][0]["media"]["storage_path"] == f"{'e' * 64}/original.jpg"
    bens = [row["wa_msg_id"] for row in everything if row["sender"] == "ben@lid"]
    assert names(found["of_person"], stored) == bens[:50]

"""docs/web-app.md, and coverage.md behind it: their examples run as they stand, over the embedded Supabase."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.clients import read_signed_urls, run_python
from tests.integration.database import GROUP, message, photo, rows, table, writer
from tests.integration.pages import code_blocks
from tests.integration.reading import monitored_groups, pending_flags
from worker.store import MediaFile, Store
from worker.store.embedded import Endpoint

PAGE = Path(__file__).resolve().parents[2] / "docs" / "web-app.md"
COVERAGE = PAGE.with_name("coverage.md")


def examples(language: str) -> list[str]:
    text = PAGE.read_text() + COVERAGE.read_text().replace("120363012345678901@g.us", GROUP)
    return code_blocks(text, language)


async def play(session: str) -> dict[str, Any]:
    """Run all Python examples in their order, in one namespace; what they left in it."""
    found: dict[str, Any] = {}
    await run_python("\n".join(examples("python")).replace('"default"  #', f'"{session}"  #'), PAGE, found)
    return found


@pytest.fixture(autouse=True)
def settings(embedded: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", embedded.url)
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", embedded.key)
    monkeypatch.syspath_prepend(PAGE.parents[1] / "supabase" / "types")  # where the page's reader has a copy
    read_signed_urls(monkeypatch)


async def test_the_python_examples_do_what_the_page_says(store: Store, session: str) -> None:
    held = await writer(store, session, monitored=())
    await store.set_session(
        session,
        held.fence,
        {
            "status": "connecting",
            "detail": {"qr": "2@code", "expiresAt": (datetime.now(UTC) + timedelta(seconds=20)).isoformat()},
        },
    )
    content = b"a photo of the page"
    sha256 = "d" * 64
    media = MediaFile(sha256=sha256, mime="image/jpeg", bytes=len(content), storage_path=f"{sha256}/original.jpg")
    await store.bucket.upload(media.storage_path, content, media.mime)
    await store.console.set_monitor(session, [group.id for group in await store.console.groups(session)], True)
    await held.commit(messages=[message("A1", 1), message("A2", 2), photo("P1", 3)])
    (job,) = (await store.media_claim("w", 1, 60, session)).jobs
    await store.media_done(job.id, "w", media)
    await store.audit(session, "connect")

    await store.prune(session, stanza_seconds=3600)

    found = await play(session)

    assert found["worker_runs"] is True
    assert found["current_qr"](found["session"]) == "2@code"
    assert found["current_qr"](found["session"] | {"status": "connected"}) is None
    expired = found["session"] | {"detail": {"qr": "2@code", "expiresAt": "2020-01-01T00:00:00Z"}}
    assert found["current_qr"](expired) is None
    assert [flag.key for flag in await pending_flags(store, session)] == ["fetch_groups_requested"]
    assert [group["name"] for group in found["groups"]] == ["Family", "Work"]
    assert GROUP in await monitored_groups(store, session)
    assert [row["kind"] for row in found["page"]] == ["image", "text", "text"]
    assert found["older"] == []
    assert found["news"] == []
    assert set(found["names"].values()) == {"Ana"}
    assert [row["kind"] for row in found["answer"]["results"]] == ["image", "text", "text"]
    assert {row["wa_msg_id"] for row in found["shown"].values()} == {"A1", "A2", "P1"}
    assert [row.wa_msg_id for row in found["messages"]] == ["P1", "A2", "A1"]
    assert {row.wa_msg_id for row in found["told"]} == {"A1", "A2", "P1"}
    assert [row["media"]["bytes"] for row in found["shown"].values() if row["media"]] == [len(content)]
    await table(store, "messages").delete().eq("session_id", session).eq("wa_msg_id", "A1").execute()
    asked = store._database.rpc("changes", {"p_session": session, "p_since": found["cursor"]})
    answer: Any = await asked.execute()
    told = answer.data["changes"]
    assert [(row["message_id"], row["deleted"]) for row in told] == [(min(found["shown"]), True)]
    assert found["events"][0]["event"] == "connect"
    assert "not_monitored" in found["reasons"]
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(found["signed"]["signedURL"])
    assert answer.content == content, "a signed URL needs no key"
    assert len(await rows(store, "messages", session)) == 2


async def test_the_python_examples_run_before_there_is_anything(session: str) -> None:
    found = await play(session)
    assert found["session"] is None
    assert (found["groups"], found["page"], found["events"]) == ([], [], [])


async def test_the_javascript_examples_run_too(node: Path, store: Store, session: str) -> None:
    held = await writer(store, session)
    await store.set_session(session, held.fence, {"status": "connected"})
    await held.commit(messages=[message("A1", 1)])
    script = "\n".join(examples("js")).replace("'default'", f"'{session}'", 1)
    told = "session.status, workerRuns, currentQr(session), groups.length, page, older.data, reasons"
    script += f"\nconsole.log(JSON.stringify([{told}]))"
    done = await anyio.run_process(
        [node, "--input-type=module", "--eval", script], cwd=PAGE.parents[1], check=False, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout.decode()
    status, worker_runs, qr, groups, page, older, reasons = json.loads(done.stdout.decode().splitlines()[-1])
    assert (status, worker_runs, qr or None, groups) == ("connected", True, None, 2)
    assert [row["text"] for row in page] == ["text of A1"]
    assert older == []
    assert "not_monitored" in reasons
    assert [flag.key for flag in await pending_flags(store, session)] == ["fetch_groups_requested"]


def test_every_example_is_there_in_both_languages() -> None:
    assert len(examples("python")) >= len(examples("js")) >= 7

"""What must be found nowhere: the content of chats that are not monitored, and anything secret in a log."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.phone import Media
from tests.e2e.town import Town

pytestmark = pytest.mark.anyio

SCHEMAS = Path(__file__).resolve().parents[2] / "supabase" / "schemas"
TABLES = sorted(
    {name for path in SCHEMAS.glob("*.sql") for name in re.findall(r"create table public\.(\w+)", path.read_text())}
)
SECRET_CHARACTERS = 16  # shorter strings in the credentials are names, platforms, registration ids


async def test_what_is_not_monitored_is_in_no_table_no_file_and_no_log_line(town: Town) -> None:
    group_text = "the-family-secret-7261"
    direct_text = "the-direct-secret-9134"
    owner_text = "the-owners-secret-5512"
    file = Media(
        kind="document", data=b"%PDF-1.4 the-file-secret-3377", mime="application/pdf", file_name="private-8847.pdf"
    )
    sent = [
        await town.phone.send("Ana", town.family.id, group_text),
        await town.phone.send("Ana", town.family.id, media=file),
        await town.phone.send("Ben", "direct", direct_text),
        await town.phone.send("me", "Ben", owner_text),
    ]
    await town.phone.wait_receipts(sent)
    await town.stored("Ana", town.market, "the-public-text-6120")  # the search must be able to find something
    needles = [group_text, direct_text, owner_text, "the-file-secret-3377", "private-8847"]
    needles.append(hashlib.sha256(file.data).hexdigest())

    for table in TABLES:
        content = json.dumps(await town.database.rows(table))
        assert not [needle for needle in needles if needle in content], f"in table {table}"
        assert table != "messages" or "the-public-text-6120" in content
    places = [town.worker.child.log, *_files(town.worker.data_dir), *_files(town.supabase.folder)]
    for path in places:
        stored = path.read_bytes()
        assert not [needle for needle in needles if needle.encode() in stored], f"in {path}"
    assert any(b"the-public-text-6120" in path.read_bytes() for path in _files(town.supabase.folder))
    assert sent[1].path not in (await town.phone.media_requests())["count"], "it was not even downloaded"
    paths = await town.database.objects()
    assert not [path for path in paths if path.startswith(needles[-1])]


async def test_no_log_line_has_the_service_key_credentials_or_key_material_at_level_trace(town: Town) -> None:
    await town.stored("Chika", town.market, "something to decrypt")
    row = await town.database.session_row()
    assert row is not None
    creds = json.loads(row["creds_json"])
    del creds["processedHistoryMessages"]  # ids of messages, no secret
    secrets = {town.supabase.service_key, *_long_strings(creds)}
    for key in await town.database.rows("wa_session_keys", order="type,key_id", session_id="default"):
        secrets |= set(_long_strings(json.loads(key["value"])))
    assert len(secrets) > 100, "credentials and some hundred keys were looked for"

    log = town.worker.child.text()

    assert '"level": "trace"' in log.lower() or '"level":"trace"' in log.lower(), "the log is at level trace"
    assert [secret for secret in secrets if secret in log] == []
    assert "<Buffer" not in log.replace("<Buffer [hidden]>", "")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else iter(())


def _long_strings(value: object) -> Iterator[str]:
    """Every string of this JSON that is long enough to be a key, but for what is no secret."""
    match value:
        case str() if len(value) >= SECRET_CHARACTERS and "@" not in value:
            yield value
        case dict():
            for each in value.values():
                yield from _long_strings(each)
        case list():
            for each in value:
                yield from _long_strings(each)

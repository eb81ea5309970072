"""The backup of the embedded Supabase, as docs/deploy.md has it: copied while stopped, and restored elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest

from testkit.database import Database
from testkit.embedded import endpoint
from testkit.phone import VirtualPhone
from testkit.worker import Worker
from tests.e2e.town import link, photo

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
SETTINGS = {"WORKER_CATCH_UP_S": "3600"}


def commands() -> list[str]:
    """The lines of the page that copy a data folder and put it back."""
    section = PAGE.read_text().partition("## Backup")[2].partition("\n## ")[0]
    return re.findall(r"^ *(tar -C data .*|mkdir data .*)$", section, re.MULTILINE)


async def test_a_restored_backup_has_the_messages_and_files_and_goes_on_without_a_scan(tmp_path: Path) -> None:
    archive, restore = commands()
    async with await VirtualPhone.start(tmp_path) as phone:
        await phone.person("Ana")
        group = await phone.group("Market", ["Ana"], "lid")
        async with Worker.start(tmp_path / "first", phone=phone, settings=SETTINGS) as worker:
            await worker.ready()
            supabase = await endpoint(worker.data_dir, tell=worker.child.tail)
            async with await Database.connect(supabase.url, supabase.key) as database:
                await link(phone, worker, database)
                await database.wait_groups([group.id], tell=worker.child.tail)
                await database.monitor([group.id])
                await database.fetch_groups(tell=worker.child.tail)
                text = await phone.send("Ana", group.id, "before the backup")
                await database.wait_message(text.id, tell=worker.child.tail)
                picture = await phone.send("Ana", group.id, media=photo())
                stored = await database.wait_media(picture.id, tell=worker.child.tail)
            assert await worker.child.stop() == 0
            home = worker.data_dir.parent
        await anyio.run_process(["bash", "-c", archive], cwd=home)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (home / "wa.tgz").rename(elsewhere / "wa.tgz")
        await anyio.run_process(["bash", "-c", restore], cwd=elsewhere)

        chosen = SETTINGS | {"WORKER_DATA_DIR": str(elsewhere / "data")}
        async with Worker.start(tmp_path / "second", phone=phone, settings=chosen) as worker:
            await worker.ready()
            supabase = await endpoint(elsewhere / "data", tell=worker.child.tail)
            async with await Database.connect(supabase.url, supabase.key) as database:
                after = await phone.send("Ana", group.id, "after the restore")
                await database.wait_message(after.id, tell=worker.child.tail)
                rows = {row["wa_msg_id"]: row for row in await database.messages()}
                assert set(rows) == {text.id, picture.id, after.id}
                assert rows[picture.id]["media_id"] == stored["media_id"]
                assert [event["event"] for event in await database.events("qr_generated")] == ["qr_generated"]
                (media,) = await database.rows("media")
                assert len(await database.download(media["storage_path"])) == int(media["bytes"])

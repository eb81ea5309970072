"""Everything that a group can carry (seeds/kinds.json), row by row; and what carries no content at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo.kinds import introduce_kinds, kind_differences, load_kinds, settled
from testkit.embedded import EmbeddedSupabase
from tests.e2e.town import Town, found_town

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

KINDS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "kinds.md"
# Kinds of the page that are messages about others, or need more than a message; they have tests of their own.
ELSEWHERE = {"reaction", "edit", "revoke"}


async def test_one_message_of_every_kind_becomes_the_row_that_was_written_down_for_it(
    tmp_path: Path, supabase: EmbeddedSupabase
) -> None:
    kinds = load_kinds()
    async with found_town(tmp_path, supabase, session="kinds") as town:
        tell = town.worker.child.tail
        players = await introduce_kinds(town.phone, kinds)
        await town.database.wait_groups([players.group.id], tell=tell)
        await town.database.monitor([players.group.id])
        await town.database.fetch_groups(tell=tell)

        for example in kinds.examples:
            await players.send(example)

        async def all_there() -> bool:
            return settled(players, await town.database.messages())

        await town.database.until("every message and every file", all_there, seconds=60, tell=tell)
        wrong = kind_differences(players, await town.database.messages(), await town.database.rows("media"))
        assert wrong == []

        rows = {row["wa_msg_id"]: row for row in await town.database.messages()}
        first, better = rows[players.sent["photo-sd"].id], rows[players.sent["photo-hd"].id]
        assert (better["rendition"], better["rendition_of"], first["rendition_of"]) == ("hd", first["id"], None)

        requests = (await town.phone.media_requests())["count"]
        withheld = [players.sent[each.id] for each in kinds.examples if each.expect.kind == "view_once"]
        assert withheld, "the file has views-once"
        assert not {sent.path for sent in withheld} & set(requests), "what may be seen once is not even downloaded"
        await without_content(town)


async def without_content(town: Town) -> None:
    """A view-once that never reaches linked devices, and something that happened to the group."""
    ana = town.people["Ana"]
    attrs = {"id": "3EB0VIEWONCE", "from": town.market.id, "participant": ana.lid, "participant_pn": ana.pn}
    attrs |= {"t": str((await town.phone.send("Ben", town.market.id, "before")).t), "type": "media", "notify": "Ana"}
    unavailable = {"tag": "unavailable", "attrs": {"type": "view_once"}}
    await town.phone.post("/stanza", {"node": {"tag": "message", "attrs": attrs, "content": [unavailable]}})
    row = await town.database.wait_message("3EB0VIEWONCE", tell=town.worker.child.tail)
    assert (row["kind"], row["text"], row["media_status"]) == ("view_once", None, None)

    await town.phone.rename(town.market.id, "Market, renamed", by="Ben")

    async def renamed() -> dict[str, Any] | None:
        rows = await town.database.messages(kind="system", chat_id=town.market.id)
        return next((row for row in rows if row["content"]["notice"] == "subject"), None)

    system = await town.database.until("the row of the renaming", renamed, tell=town.worker.child.tail)
    assert system["text"] == "The group is now called “Market, renamed”."
    assert system["sender"] == town.people["Ben"].lid
    await notices(town)
    answer = await town.phone.post("/bot", {"to": town.market.id})
    bot = await town.database.wait_message(answer["id"], tell=town.worker.child.tail)
    assert (bot["kind"], bot["content"], bot["pending"]) == ("bot_reply", {"encrypted": True}, False)


async def notices(town: Town) -> None:
    """Tags that Baileys makes nothing of, two of them in one notification."""
    ben = town.people["Ben"]
    attrs = {"id": "424242", "type": "w:gp2", "from": town.market.id, "participant": ben.lid, "participant_pn": ben.pn}
    attrs |= {"t": str((await town.phone.send("Ben", town.market.id, "before")).t)}
    children: list[dict[str, Any]] = [
        {"tag": "ephemeral", "attrs": {"expiration": "604800"}},
        {"tag": "growth_locked", "attrs": {}},
    ]
    await town.phone.post("/stanza", {"node": {"tag": "notification", "attrs": attrs, "content": children}})
    switch = await town.database.wait_message("424242", tell=town.worker.child.tail)
    locked = await town.database.wait_message("424242:1", tell=town.worker.child.tail)
    assert (switch["kind"], switch["content"]) == ("system", {"notice": "ephemeral", "expires_after_s": 604_800})
    assert (locked["kind"], locked["content"]) == ("system", {"notice": "growth_locked"})


def test_the_file_has_an_example_of_every_kind_on_the_page() -> None:
    page = KINDS_PAGE.read_text()
    table = page.partition("## Contents")[2].partition("`protocolMessage` goes by")[0]
    cells = [re.sub(r"with `\w+`", "", line.split("|")[2]) for line in table.splitlines() if line.startswith("| `")]
    documented = {kind for cell in cells for kind in re.findall(r"`([a-z_]+)`", cell)}
    shown = {example.expect.kind for example in load_kinds().examples}
    assert documented - shown == ELSEWHERE & documented
    assert len(shown) > 30


def test_the_file_is_plain_json_with_a_unique_id_for_each_message() -> None:
    kinds = load_kinds()
    ids = [example.id for example in kinds.examples]
    assert len(set(ids)) == len(ids)
    assert set(kinds.files) == set(kinds.stored)
    assert json.dumps([dict(example.send) for example in kinds.examples])

"""The worker's log where nobody looks at a terminal: JSON alone, and a message's lines can be found by its id."""

from __future__ import annotations

import json

import pytest

from tests.e2e.town import Town, photo

pytestmark = pytest.mark.anyio


async def test_every_line_is_json_with_the_session_and_a_message_s_lines_name_it_and_its_group(town: Town) -> None:
    row = await town.stored_media("Ben", town.market, photo())

    lines = [json.loads(line) for line in town.worker.child.text().splitlines()]

    assert {line["session"] for line in lines} == {"default"}
    assert {"at", "level", "from", "msg"} <= set.intersection(*(set(line) for line in lines))
    mine = [line for line in lines if line.get("wa_msg_id") == row["wa_msg_id"] and "group" in line]
    assert {line["group"] for line in mine} == {town.market.id}
    assert mine[0]["msg"] == "committed: image"
    assert [line for line in lines if line.get("part") == "sidecar"], "the sidecar's lines are among them"

"""The contract's acceptance list (docs/contract.md §13), line by line, over the real parts and the virtual phone."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from testkit.database import parse_time
from testkit.phone import Media
from tests.e2e.town import Town, photo

pytestmark = pytest.mark.anyio

QR_SECONDS = (20, 61)  # WhatsApp's first code lives 60 s, later ones 20 s (docs/whatsapp.md, "Closes")


async def test_1_on_start_wa_sessions_shows_connecting_then_connected_after_the_qr_scan(town: Town) -> None:
    linking = town.linking
    assert linking.before_scan["status"] == "connecting"
    assert linking.after_scan["status"] == "connected"
    assert "qr" not in linking.after_scan["detail"], "the QR is gone once it is used"
    assert town.owner.pn.partition("@")[0] in linking.after_scan["wa_number"]
    assert linking.after_scan["wa_name"]


async def test_2_the_qr_is_written_to_detail_with_a_future_expires_at(town: Town) -> None:
    detail = town.linking.before_scan["detail"]
    lives = parse_time(detail["expiresAt"]) - town.linking.seen_at
    assert timedelta(0) < lives <= timedelta(seconds=QR_SECONDS[1])
    assert len(detail["qr"].rpartition("#")[2].split(",")) >= 4, "ref, noise key, identity key, adv secret"


async def test_3_fetch_groups_now_upserts_groups_and_preserves_their_monitor_flags(town: Town) -> None:
    before = {row["wa_group_id"]: row["monitor"] for row in await town.database.groups()}
    assert before[town.market.id]
    assert not before[town.family.id]
    new = await town.phone.group("A new group", ["Ben"], notify=False)
    await town.phone.rename(town.crew.id, "Crew, renamed", notify=False)

    await town.database.fetch_groups(tell=town.worker.child.tail)

    after = {row["wa_group_id"]: row for row in await town.database.groups()}
    assert {wa_id: row["monitor"] for wa_id, row in after.items()} == {**before, new.id: False}
    assert after[new.id]["name"] == "A new group"
    assert after[town.crew.id]["name"] == "Crew, renamed"
    renamed = (await town.database.events("group_rename"))[-1]["payload"]
    assert renamed == {"from": "Crew", "to": "Crew, renamed", "wa_group_id": town.crew.id}


async def test_4_messages_of_a_monitored_group_become_rows_and_those_of_another_do_not(town: Town) -> None:
    wanted = await town.phone.send("Ana", town.market.id, "for everybody")
    ignored = await town.phone.send("Ana", town.family.id, "for the family")

    row = await town.row(wanted)
    await town.phone.wait_receipts([wanted, ignored])

    assert (row["text"], row["kind"], row["chat_id"]) == ("for everybody", "text", town.market.id)
    assert await town.database.message(ignored.id) is None


async def test_5_media_becomes_an_object_at_its_sha256_a_media_row_and_a_link(town: Town) -> None:
    picture = photo(caption="the road at six")
    sha256 = hashlib.sha256(picture.data).hexdigest()

    row = await town.stored_media("Ben", town.market, picture)

    media = await town.media_row(row["media_id"])
    assert (row["kind"], row["text"]) == ("image", "the road at six")
    assert media["sha256"] == sha256
    assert media["storage_path"] == f"{sha256}/original.jpg"
    assert (media["mime"], media["bytes"]) == ("image/jpeg", len(picture.data))
    assert (media["width"], media["height"]) == (960, 640)
    assert hashlib.sha256(await town.database.download(media["storage_path"])).hexdigest() == sha256
    assert await town.database.bucket_is_private()


async def test_6_the_same_file_in_several_messages_is_one_media_row(town: Town) -> None:
    picture = photo("oranges.jpg")
    first = await town.stored_media("Ana", town.market, picture)
    again = await town.stored_media("Chika", town.crew, picture)

    assert first["media_id"] == again["media_id"]
    sha256 = hashlib.sha256(picture.data).hexdigest()
    assert len(await town.database.rows("media", sha256=sha256)) == 1
    assert [path for path in await town.database.objects() if path.startswith(sha256)] == [f"{sha256}/original.jpg"]


async def test_7_a_text_then_an_image_of_the_same_sender_within_90_s_are_linked_by_parent_id(town: Town) -> None:
    text = await town.stored("Dora", town.crew, "look at this")
    await town.stored("Ben", town.crew, "somebody else in between")
    image = await town.stored_media("Dora", town.crew, photo())

    assert image["parent_id"] == text["id"]
    assert text["parent_id"] is None


async def test_8_the_audit_log_has_connect_qr_generated_discovery_and_error_on_a_forced_failure(town: Town) -> None:
    large = Media(kind="document", data=bytes(1_100_000), mime="application/zip", file_name="large.zip")
    last = await town.database.last_event()
    sent = await town.phone.send("Ana", town.market.id, media=large)  # this worker takes files up to 1 MB

    error = await town.database.wait_event("error", last, tell=town.worker.child.tail)

    assert error["payload"]["code"] == "MEDIA_TOO_LARGE"
    assert error["payload"]["ctx"]["wa_msg_id"] == sent.id
    row = await town.row(sent)
    assert row["media_id"] is None, "the message is kept, its file is not"
    assert {"connect", "qr_generated", "discovery", "error"} <= {each["event"] for each in await town.database.events()}


async def test_9_healthz_answers_ok_true(town: Town) -> None:
    assert await town.worker.healthz() == {"ok": True}

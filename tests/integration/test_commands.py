"""The commands over the embedded Supabase: what they show, what they change, how they end."""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from testkit.commands import Commands, served
from testkit.processes import PYTHON, Child
from testkit.waiting import until
from testkit.worker import environment
from tests.integration.database import GROUP, OTHER_GROUP, Writer, at, message, photo, rows, table, writer
from tests.integration.reading import monitored_groups, pending_flags
from worker.commands import terminal
from worker.errors import StoreRefused, StoreUnavailable, UnexpectedAnswer
from worker.ingest.parts import Item
from worker.store import Flag, MediaFile, Store, connect_store, exports
from worker.store.console import Console
from worker.store.embedded import Embedded, Endpoint, embedded_supabase
from worker.store.endpoint import write_endpoint
from worker.store.session import SessionStore

BOUND = 30.0


@pytest.fixture
def wa(embedded: Endpoint, store: Store, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands of a session of one's own, away from any .env."""
    monkeypatch.chdir(tmp_path)
    return Commands({"SUPABASE_URL": embedded.url, "SUPABASE_SERVICE_KEY": embedded.key, "WORKER_SESSION": session})


def recent(wa_msg_id: str, age_seconds: float = 60.0, **columns: Any) -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(seconds=age_seconds)
    return message(wa_msg_id, **{"ts": at.isoformat(), "received_at": at.isoformat(), **columns})


async def group_ids(store: Store, session: str) -> dict[str, int]:
    return {group.wa_group_id: group.id for group in await store.console.groups(session)}


def file(content: str, size: int = 5) -> MediaFile:
    sha256 = (content * 64)[:64]
    return MediaFile(sha256=sha256, mime="image/jpeg", bytes=size, storage_path=f"{sha256}/original.jpg")


def real_file(content: bytes) -> MediaFile:
    sha256 = hashlib.sha256(content).hexdigest()
    return MediaFile(sha256=sha256, mime="image/jpeg", bytes=len(content), storage_path=f"{sha256}/original.jpg")


async def store_photo(store: Store, held: Writer, media: MediaFile, row: dict[str, Any], content: bytes) -> None:
    """A photo message whose file is in the bucket and linked."""
    await store.bucket.upload(media.storage_path, content, media.mime)
    await held.commit(messages=[row])
    job = (await store.media_claim("tester", 1, 60, held.session)).jobs[0]
    await store.media_done(job.id, "tester", media)


# ── how they find Supabase, and how they fail ───────────────────────────────────────────────────────────────────────


async def test_without_settings_and_without_a_worker_the_line_says_what_to_do(wa: Commands, tmp_path: Path) -> None:
    ran = await Commands({"WORKER_DATA_DIR": str(tmp_path / "none")})("status")
    assert ran.code == 2
    assert ran.err.startswith("wa-worker: SUPABASE_URL is not set and no worker runs on")
    assert ran.err.count("\n") == 1


async def test_a_running_workers_embedded_supabase_is_found(
    wa: Commands, embedded: Endpoint, session: str, tmp_path: Path
) -> None:
    write_endpoint(tmp_path, embedded)
    ran = await Commands({"WORKER_DATA_DIR": str(tmp_path), "WORKER_SESSION": session})("status", "--json")
    assert ran.code == 0
    assert ran.json["session"] is None


async def test_an_endpoint_file_whose_server_is_gone_counts_for_nothing(
    wa: Commands, embedded: Endpoint, tmp_path: Path
) -> None:
    write_endpoint(tmp_path, replace(embedded, url="http://127.0.0.1:9"))
    ran = await Commands({"WORKER_DATA_DIR": str(tmp_path)})("status")
    assert (ran.code, "no worker runs on" in ran.err) == (2, True)
    ran = await Commands({"WORKER_DATA_DIR": str(tmp_path)})("doctor")
    assert ran.code == 0, "nothing is wrong yet"
    assert "not checked, because no worker is running" in ran.out


async def test_a_supabase_that_is_away_is_one_line_and_exit_code_4(wa: Commands) -> None:
    ran = await wa("status", SUPABASE_URL="http://127.0.0.1:9")
    assert ran.code == 4
    assert ran.err == (
        "wa-worker: Supabase does not answer (wa_status: the connection is refused); `wa-worker doctor` checks why\n"
    )


async def test_a_refused_key_is_one_line_and_exit_code_2(wa: Commands, embedded: Endpoint) -> None:
    other = "sb_secret_of_another_project"
    ran = await wa("groups", "list", SUPABASE_SERVICE_KEY=other)
    assert ran.code == 2
    assert "SUPABASE_SERVICE_KEY is refused" in ran.err
    assert other not in ran.err
    ran = await wa("groups", "list", SUPABASE_SERVICE_KEY=embedded.publishable_key)
    assert ran.code == 2
    assert ran.err.startswith("wa-worker: SUPABASE_SERVICE_KEY: is the publishable key")
    assert embedded.publishable_key not in ran.err


# ── status ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_status_shows_session_worker_groups_and_files(wa: Commands, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[recent("A1", text="hello [bold]you\x1b[2J"), photo("P1", 1)])
    patch = {"status": "connected", "detail": {"say": "Connected."}, "wa_name": "Ana", "wa_number": "4917"}
    await store.set_session(session, held.fence, patch)
    ran = await wa("status", "--check")
    assert ran.code == 0, ran.err
    assert f"{session}: connected as Ana (4917)" in ran.out
    assert "worker-1" in ran.out
    assert "2 messages stored" in ran.out
    assert "1 to come (0 running, 1 due, 0 waiting" in ran.out
    assert "Ana: hello [bold]you [2J" in ran.out, "what strangers wrote is neither markup nor an escape sequence"
    assert "\x1b[2J" not in ran.out
    assert [line.split()[1:3] for line in ran.out.splitlines() if "Work" in line and "Worker" not in line]


async def test_status_as_json_and_its_verdict(wa: Commands, store: Store, session: str) -> None:
    ran = await wa("status", "--json", "--check")
    assert (ran.code, ran.json["storing"]) == (1, False)
    async with served(store, session) as fence:
        await store.set_session(session, fence, {"status": "connected", "detail": {"qr": "2@secret"}})
        ran = await wa("status", "--json", "--check")
    assert (ran.code, ran.json["storing"]) == (0, True)
    assert "2@secret" not in ran.out
    assert ran.json["jobs"] == {"running": 0, "due": 0, "waiting": 0, "oldest_s": None, "abandoned": {}}


async def test_coverage_says_since_when_each_group_is_complete_and_names_each_gap(
    wa: Commands, store: Store, session: str
) -> None:
    assert "No group was ever switched on" in (await wa("coverage")).out
    held = await writer(store, session)
    at = (datetime.now(UTC) - timedelta(seconds=60)).isoformat()
    dropped = {"chat_id": GROUP, "reason": "too_old", "from_at": at, "to_at": at, "count": 3}
    await held.commit(messages=[recent("A1")], dropped=[dropped])
    said = "Family: not complete: not switched on"
    assert (await wa("coverage")).out.strip() == said, "no worker has heard of the switch"
    assert said in (await wa("status")).out
    ran = await wa("coverage", "family")
    assert [line.split("  ")[-1] for line in ran.out.splitlines()] == [
        said,
        "not connected to WhatsApp",
        "not switched on",
        "dropped: came too late (3 messages)",
    ]
    one, every = (await wa("coverage", "family", "--json")).json, (await wa("coverage", "--json")).json
    assert [gap["reason"] for gap in one["gaps"]] == ["not_connected", "not_monitored", "too_old"]
    assert [group["wa_group_id"] for group in every["groups"]] == [GROUP]
    assert [group["gap_count"] for group in (await wa("status", "--json")).json["coverage"]] == [3]


# ── groups ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_groups_are_switched_by_id_or_name_and_listed(wa: Commands, store: Store, session: str) -> None:
    await writer(store, session, monitored=())
    ids = await group_ids(store, session)
    assert (await wa("groups", "monitor", "family", str(ids[OTHER_GROUP]))).code == 0
    assert await monitored_groups(store, session) == {GROUP, OTHER_GROUP}
    ran = await wa("groups", "unmonitor", OTHER_GROUP, "--json")
    assert ran.json == {"changed": 1, "groups": [str(ids[OTHER_GROUP])], "monitor": False}
    listed = {group["name"]: group["monitor"] for group in (await wa("groups", "list", "--json")).json}
    assert listed == {"Family": True, "Work": False}
    shown = (await wa("groups", "list")).out
    assert [line.split()[1:] for line in shown.splitlines()] == [
        ["group", "stored", "24", "h", "last", "message"],
        ["Family", "yes"],
        ["Work", "no"],
    ]


async def test_a_name_that_fits_none_or_several_changes_nothing(wa: Commands, store: Store, session: str) -> None:
    await writer(store, session, monitored=())
    twin = {"session_id": session, "wa_group_id": "77@g.us", "name": "Family"}
    await table(store, "groups").insert(twin).execute()
    ran = await wa("groups", "monitor", "Work", "Family")
    assert ran.code == 2
    assert "could be several groups; give the id" in ran.err
    ran = await wa("groups", "monitor", "Nobody")
    assert (ran.code, "no group is called 'Nobody'" in ran.err) == (2, True)
    assert await monitored_groups(store, session) == frozenset()


# ── doctor ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def grades(ran: Any) -> dict[str, str]:
    return {check["name"]: check["grade"] for check in ran.json["checks"]}


async def test_doctor_finds_nothing_wrong(wa: Commands, store: Store, session: str) -> None:
    async with served(store, session):
        ran = await wa("doctor", "--json")
    assert ran.code == 0, ran.out
    found = grades(ran)
    assert {name for name, grade in found.items() if grade == "ok"} >= {
        "Python", "Node", "Sidecar", "Supabase", "Schema", "Key", "Clock", "Bucket", "Session",
    }  # fmt: skip
    lines = (await wa("doctor")).out
    assert "OK   Bucket: wa-media, private" in lines
    assert lines.rstrip().splitlines()[-1].startswith(("All is well.", "Nothing failed; "))


async def test_doctor_looks_at_the_project_alone(wa: Commands) -> None:
    found = grades(await wa("doctor", "--supabase", "--json"))
    assert {"Supabase", "Schema", "Key", "Clock", "Bucket"} <= set(found)
    assert not {"Settings", "Python", "Node", "Sidecar", "WhatsApp"} & set(found)
    ran = await wa("doctor", "--supabase", SUPABASE_URL="", SUPABASE_SERVICE_KEY="")
    assert (ran.code, ran.out[:40]) == (1, "FAIL Supabase: SUPABASE_URL and SUPABASE")


async def test_doctor_names_the_wrong_key(wa: Commands, embedded: Endpoint) -> None:
    ran = await wa("doctor", SUPABASE_SERVICE_KEY=embedded.publishable_key)
    assert (ran.code, ran.out[:65]) == (2, "FAIL Settings: SUPABASE_SERVICE_KEY: is the publishable key, whic")
    ran = await wa("doctor", "--json", SUPABASE_SERVICE_KEY="sb_secret_of_another_project")
    assert (ran.code, grades(ran)["Key"]) == (1, "fail")


async def test_doctor_names_an_address_where_nobody_answers(wa: Commands) -> None:
    ran = await wa("doctor", SUPABASE_URL="http://127.0.0.1:9")
    assert ran.code == 1
    assert "FAIL Supabase: 127.0.0.1:9 cannot be reached" in ran.out


async def test_a_project_with_other_tables_of_our_names_is_recognised_and_left_alone(
    wa: Commands, node: Path, tmp_path: Path
) -> None:
    migrations = tmp_path / "theirs"
    migrations.mkdir()
    theirs = (
        "create table public.groups (id bigint primary key, title text); insert into public.groups values (1, 'x');"
    )
    theirs += "grant all on public.groups to service_role;"
    (migrations / "20200101000000_theirs.sql").write_text(theirs)
    place = Embedded(data_dir=tmp_path / "data", node=node, migrations=migrations)
    async with embedded_supabase(place) as other:
        ran = await wa("doctor", SUPABASE_URL=other.url, SUPABASE_SERVICE_KEY=other.key)
        assert ran.code == 1
        assert "FAIL Schema: this project has other tables with our names (groups); they were left alone" in ran.out
        async with connect_store(other.url, other.key) as store:
            with pytest.raises(UnexpectedAnswer) as odd:  # and a worker does not start on it
                await store.check()
            assert "lacks our functions" in (odd.value.remedy or "")
            assert (await table(store, "groups").select("*").execute()).data == [{"id": 1, "title": "x"}]


async def test_doctor_cannot_read_the_settings(wa: Commands) -> None:
    ran = await wa("doctor", WORKER_POLL_MS="soon")
    assert ran.code == 2
    assert "WORKER_POLL_MS" in ran.out


# ── qr ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def waiting(qr: str, seconds: float = 20.0) -> dict[str, Any]:
    expires = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    return {"status": "connecting", "detail": {"state": "waiting_for_scan", "qr": qr, "expiresAt": expires}}


async def test_qr_draws_each_code_until_the_account_is_connected(
    wa: Commands, store: Store, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(store, session) as fence, anyio.create_task_group() as others:
        await store.set_session(session, fence, waiting("2@first", 2 * BOUND))

        drawn: list[str] = []

        def draw(code: str) -> str:
            drawn.append(code)
            return terminal.draw_qr(code)

        monkeypatch.setattr("worker.commands.link.draw_qr", draw)

        async def is_drawn(code: str) -> bool:
            return code in drawn

        async def scan_when_drawn() -> None:
            await until("the first code", lambda: is_drawn("2@first"), seconds=BOUND)
            await store.set_session(session, fence, waiting("2@second", 2 * BOUND))
            await until("the second code", lambda: is_drawn("2@second"), seconds=BOUND)
            await store.set_session(session, fence, {"status": "connected", "detail": {}, "wa_name": "Ana"})

        others.start_soon(scan_when_drawn)
        ran = await wa("link", "--timeout", str(2 * BOUND))
    assert drawn == ["2@first", "2@second"]
    assert ran.code == 0, ran.err
    assert ran.out.count("Scan it:") == 2
    assert ran.out.count("▄") > 50
    assert ran.out.rstrip().endswith("Connected as Ana.")


async def test_an_expired_code_is_not_drawn(wa: Commands, store: Store, session: str) -> None:
    async with served(store, session) as fence:
        await store.set_session(session, fence, waiting("2@old", -1))
        ran = await wa("link", "--timeout", "1")
        assert (ran.code, ran.out) == (1, "")
        assert "Waiting for the next code." in ran.err
        assert (await wa("link", "--json")).code == 1
        await store.set_session(session, fence, waiting("2@new"))
        assert (await wa("link", "--json")).json["qr"] == "2@new"


async def test_qr_without_a_worker_says_so(wa: Commands, store: Store, session: str) -> None:
    assert "no worker has ever served" in (await wa("link")).err
    async with served(store, session) as fence:
        await store.set_session(session, fence, waiting("2@left behind"))
    ran = await wa("link")
    assert (ran.code, ran.out) == (1, "")
    assert "no worker is running" in ran.err


async def test_link_by_code_needs_a_whole_number(wa: Commands, store: Store, session: str) -> None:
    async with served(store, session):
        ran = await wa("link", "--code", "0151 1234567")
    assert (ran.code, ran.out) == (2, "")
    assert "with its country code" in ran.err


async def test_link_by_code_asks_once_and_shows_the_code(wa: Commands, store: Store, session: str) -> None:
    async with served(store, session) as fence:
        await store.set_session(session, fence, waiting("2@qr"))
        ran = await wa("link", "--code", "+49 (0)151 1234567", "--timeout", "2")
        (flag,) = await pending_flags(store, session)
        assert (flag.key, flag.phone) == ("wa_pairing_code_requested", "491511234567")
        assert "▄" not in ran.out, "no QR code beside it"
        patch = waiting("2@qr")
        patch["detail"]["pairing_code"] = "ABCD1234"
        await store.set_session(session, fence, patch)
        ran = await wa("link", "--code", "491511234567", "--timeout", "2")
    assert "Code: ABCD1234" in ran.out


async def test_qr_refresh_raises_the_flag(wa: Commands, store: Store, session: str) -> None:
    async with served(store, session) as fence:
        await store.set_session(session, fence, {"status": "disconnected", "detail": {"state": "idle", "say": "Idle."}})
        ran = await wa("link", "--refresh", "--timeout", "1")
    assert "Idle." in ran.err
    assert [flag.key for flag in await pending_flags(store, session)] == ["wa_refresh_qr_requested"]


# ── tail ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_tail_shows_the_newest_of_one_group_or_all(wa: Commands, store: Store, session: str) -> None:
    held = await writer(store, session, monitored=(GROUP, OTHER_GROUP))
    await held.commit(messages=[message("A1", 1), message("B1", 2, chat_id=OTHER_GROUP), photo("A2", 3, chat_id=GROUP)])
    lines = (await wa("tail", "--no-follow")).out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        "Family  Ana: text of A1",
        "Work  Ana: text of B1",
        "Family  Ana: [image, pending] (a.jpg)",
    ]
    lines = (await wa("tail", "family", "--no-follow", "-n", "1")).out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["Ana: [image, pending] (a.jpg)"]
    assert (await wa("tail", "nobody")).code == 2


async def test_tail_says_that_there_is_nothing_yet(wa: Commands, store: Store, session: str) -> None:
    await writer(store, session)
    ran = await wa("tail", "--no-follow")
    assert (ran.code, ran.out, ran.err) == (0, "", "No messages yet.\n")


async def test_search_finds_in_one_group_or_all(wa: Commands, store: Store, session: str) -> None:
    held = await writer(store, session, monitored=(GROUP, OTHER_GROUP))
    await held.commit(messages=[message("A1", 1), message("B1", 2, text="text\x1b[2J", chat_id=OTHER_GROUP)])
    await store.prune(session, stanza_seconds=3600)
    lines = (await wa("search", "TEX")).out.splitlines()
    assert [line[17:] for line in lines] == ["Work · Ana: text [2J", "Family · Ana: text of A1"]
    (found,) = json.loads((await wa("search", "tex", "--group", "family", "--json")).out)["results"]
    assert [part["text"] for part in found["excerpt"]] == ["text", " of A1"]
    nothing = await wa("search", "nowhere")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "Nothing found.\n")
    assert (await wa("search", "tex", "--group", "nobody")).code == 2


async def test_tail_names_who_did_something_by_the_name_that_they_wrote_under(
    wa: Commands, store: Store, session: str
) -> None:
    held = await writer(store, session)
    notice = message("N1", 2, kind="system", text="The group has a new name.", push_name=None)
    await held.commit(messages=[message("A1", 1), notice])
    (line,) = (await wa("tail", "--no-follow", "-n", "1")).out.splitlines()
    assert line.endswith("Family  Ana: [system] The group has a new name.")


async def test_tail_is_live_and_ctrl_c_is_clean(wa: Commands, store: Store, session: str, tmp_path: Path) -> None:
    held = await writer(store, session)
    await held.commit(messages=[message("A1")])
    command: list[str | Path] = [PYTHON, "-m", "worker", "tail", "--poll", "0.1"]
    child = Child.start(
        "tail", command, log=tmp_path / "tail.log", cwd=tmp_path, env=environment(wa.env), pipe_stdout=True
    )
    try:
        assert "text of A1" in await child.read_line()
        await held.commit(messages=[message("A2", 5)])
        assert "text of A2" in await child.read_line()
        child.process.send_signal(signal.SIGINT)
        assert await child.wait(BOUND) == 0
        assert child.text() == ""
    finally:
        child.kill()


# ── media retry ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_media_retry_makes_jobs_of_what_was_given_up(wa: Commands, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[photo("P1"), photo("P2", 1), message("P3", 2, kind="image", media_status="failed")])
    first, second = (await store.media_claim("w", 5, 60, session)).jobs
    await store.media_abandon(first.id, "w", "expired", "MEDIA_EXPIRED", "gone")
    await store.media_abandon(second.id, "w", "too_large", "MEDIA_TOO_LARGE", "30 MB")
    assert (await wa("status", "--json")).json["jobs"]["abandoned"] == {"expired": 1, "too_large": 1}

    ran = await wa("media", "retry")
    assert ran.code == 0
    assert ran.out == "1 file will be tried again.\n1 more cannot be: what a download needs was not kept.\n"
    again = (await store.media_claim("w", 5, 60, session)).jobs
    assert [(job.wa_msg_id, job.descriptor, job.attempts) for job in again] == [("P1", first.descriptor, 1)]
    statuses = {row["wa_msg_id"]: row["media_status"] for row in await rows(store, "messages", session)}
    assert statuses == {"P1": "pending", "P2": "too_large", "P3": "failed"}

    assert (await wa("media", "retry", "--status", "too_large", "--json")).json == {"requeued": 1, "without": 0}
    assert (await wa("media", "retry", "--json")).json["requeued"] == 0, "a second time there is nothing left"


async def test_what_could_not_be_stored_is_listed_exported_and_taken_back(
    wa: Commands, store: Store, session: str, tmp_path: Path
) -> None:
    me = await writer(store, session)
    assert (await wa("refused", "list")).out == "Nothing is listed.\n"
    good, bad = Item("message", message("GOOD")), Item("message", message("BAD", sender=None))
    await me.commit(refused=[good.as_base64("XX000", "internal", "waiting"), bad.as_base64("23502", "no sender")])
    assert "2 items could not be stored, 1 of them tried again" in (await wa("status")).out
    listed = (await wa("refused", "list", "--json")).json
    assert [(one["wa_msg_id"], one["state"]) for one in listed] == [("GOOD", "waiting"), ("BAD", "refused")]
    ran = await wa("refused", "list")
    assert "waiting message GOOD" in ran.out
    assert "text of GOOD" not in ran.out
    file = tmp_path / "refused.jsonl"
    assert (await wa("refused", "export", str(file))).code == 0
    assert [json.loads(line)["content"]["text"] for line in file.read_text().splitlines()] == [
        "text of GOOD",
        "text of BAD",
    ]
    assert file.stat().st_mode & 0o077 == 0
    assert (await wa("refused", "export", str(file))).code == 2, "nothing is overwritten"
    ran = await wa("refused", "retry")
    assert (ran.code, ran.out) == (1, "1 taken back.\n1 not: Postgres says 23502\n")
    assert [row["wa_msg_id"] for row in await rows(store, "messages", session)] == ["GOOD"]
    assert (await wa("refused", "retry", "0", "--json")).json == {"taken": 0, "left": {"0": "gone"}}


async def test_a_revoked_message_leaves_no_media_key_behind(store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[photo("P1")])
    (job,) = (await store.media_claim("w", 5, 60, session)).jobs
    await store.media_abandon(job.id, "w", "failed", "MEDIA_UNAVAILABLE", "")
    assert len(await rows(store, "wa_media_abandoned", session, "at")) == 1
    revoke = {"kind": "revoke", "chat_id": GROUP, "target_sender": "ana@lid", "target_id": "P1", "author": "ana@lid"}
    await held.commit(changes=[{**revoke, "change_id": "R1", "at": at(5), "payload": {"blank": True}}])
    assert await rows(store, "wa_media_abandoned", session, "at") == []


# ── logout ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_logout_waits_for_the_worker(wa: Commands, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(creds="c")
    await store.set_session(session, held.fence, {"status": "connected"})

    async def worker() -> None:
        async def raised() -> list[Flag] | None:
            return await pending_flags(store, session) or None

        flags = await until("the flag", raised, seconds=BOUND)
        await store.wipe_credentials(session, held.fence)
        await store.set_session(session, held.fence, {"status": "disconnected"})
        await store.flag_handled(session, flags[0])
        assert flags[0].key == "wa_disconnect_requested"

    async with anyio.create_task_group() as others:
        others.start_soon(worker)
        ran = await wa("logout", "--yes", "--timeout", "20")
    assert (ran.code, ran.out.split(".")[0]) == (0, "Logged out")
    assert (await wa("logout")).out == "Nothing is linked.\n", "nothing to ask about"


async def test_logout_that_nobody_obeys_is_no_success(wa: Commands, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(creds="c")
    ran = await wa("logout", "--yes", "--timeout", "1")
    assert (ran.code, "did not log out within 1 s" in ran.err) == (1, True)
    ran = await wa("logout")
    assert (ran.code, "nothing was unlinked" in ran.err) == (1, True), "nobody answered the question"
    await store.lease_release(session, "worker-1", held.fence)
    for arguments in (["--json"], []):
        ran = await wa("logout", *arguments)
        assert (ran.code, "no worker is running" in ran.err, "Unlink" in ran.out) == (1, True, False)


# ── prune ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_prune_counts_first_and_deletes_only_what_is_old_and_unneeded(
    wa: Commands, store: Store, session: str
) -> None:
    held = await writer(store, session)
    old, shared = file("a"), file("b")
    long_ago = {"ts": (datetime.now(UTC) - timedelta(days=40)).isoformat()}
    await store_photo(store, held, old, photo("P1") | long_ago, b"old")
    await store_photo(store, held, shared, photo("P2") | long_ago, b"shared")
    await store_photo(store, held, shared, photo("P3") | {"ts": datetime.now(UTC).isoformat()}, b"shared")

    ran = await wa("prune", "--older-than", "30", "--json")
    told = ran.json
    assert (told["dry_run"], told["messages"]) == (True, 2)
    assert len(await rows(store, "messages", session)) == 3
    assert await store.bucket.exists(old.storage_path)

    assert "2 messages" in (await wa("prune", "--older-than", "30")).out
    ran = await wa("prune", "--older-than", "30", "--yes")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("Deleted 2 messages, ")
    assert [row["wa_msg_id"] for row in await rows(store, "messages", session)] == ["P3"]
    assert not await store.bucket.exists(old.storage_path)
    assert await store.bucket.download(shared.storage_path) == b"shared"
    assert "Deleted 0 messages, 0 files." in (await wa("prune", "--older-than", "30", "--yes")).out
    assert (await wa("prune", "--older-than", "0")).code == 2


async def test_the_setting_for_how_long_messages_are_kept_deletes_what_prune_would(store: Store, session: str) -> None:
    held = await writer(store, session)
    for name, days in (("P1", 40), ("P2", 20)):
        sent = {"ts": (datetime.now(UTC) - timedelta(days=days)).isoformat()}
        await store_photo(store, held, file(name[1]), photo(name) | sent, name.encode())
    kept = SessionStore(store, session, held.fence)

    deleted = await kept.delete_messages(await kept.database_time() - timedelta(days=30), 500)

    assert (deleted.messages, deleted.more) == (1, False)
    assert [row["wa_msg_id"] for row in await rows(store, "messages", session)] == ["P2"]
    assert await kept.delete_unused_objects() >= 1
    assert not await store.bucket.exists(file("1").storage_path)
    assert await store.bucket.download(file("2").storage_path) == b"P2"


async def test_an_interrupted_prune_is_finished_by_the_next_and_no_row_points_to_a_doomed_object(
    wa: Commands, store: Store, session: str
) -> None:
    held = await writer(store, session)
    media = file("c")
    await store_photo(store, held, media, photo("P1") | {"ts": "2020-01-01T00:00:00Z"}, b"again")
    await store.console.delete_messages(session, datetime(2021, 1, 1, tzinfo=UTC), 10)
    assert media.sha256 in await store.console.list_media_to_delete(100)  # and here the power went off

    await held.commit(messages=[photo("P2") | {"ts": datetime.now(UTC).isoformat()}])
    (job,) = (await store.media_claim("w", 1, 60, session)).jobs
    await store.bucket.upload(media.storage_path, b"again", media.mime)
    with pytest.raises(StoreRefused) as refused:
        await store.media_done(job.id, "w", media)
    assert refused.value.code == "object_doomed"

    assert (await wa("prune", "--older-than", "3000", "--yes", "--json")).json["objects"] >= 1
    assert not await store.bucket.exists(media.storage_path)
    with pytest.raises(StoreRefused):
        await store.media_done(job.id, "w", media)  # uploaded before the object went
    moment = (datetime.now(UTC) - timedelta(minutes=3)).isoformat()
    await table(store, "wa_media_doomed").update({"deleted_at": moment}).eq("sha256", media.sha256).execute()
    await store.bucket.upload(media.storage_path, b"again", media.mime)
    assert not (await store.media_done(job.id, "w", media)).reused


# ── export ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "messages.jsonl").read_text().splitlines()]


async def test_export_writes_messages_and_files_and_later_adds_what_is_new(
    wa: Commands, store: Store, session: str, tmp_path: Path
) -> None:
    held = await writer(store, session)
    content = b"a photo"
    media = real_file(content)
    await store_photo(store, held, media, photo("P1"), content)
    await held.commit(messages=[message("A1", 5, text="ünïcode\n\N{PARTY POPPER}")])
    folder = tmp_path / "out"
    assert (await wa("export", "Family", str(folder), "--json")).json["messages"] == 2
    first, second = lines_of(folder)
    assert (folder / first["media"]["file"]).read_bytes() == content
    assert second["text"] == "ünïcode\n\N{PARTY POPPER}"

    await store_photo(store, held, media, photo("P2", 10), content)
    again = (await wa("export", "Family", str(folder), "--json")).json
    assert (again["messages"], again["files"]) == (1, 0)
    assert [line["wa_msg_id"] for line in lines_of(folder)] == ["P1", "A1", "P2"]
    assert [path.name for path in folder.iterdir() if path.name.endswith(".part")] == []
    manifest = json.loads((folder / "export.json").read_text())
    assert "not_monitored" in {gap["reason"] for gap in manifest["coverage"]["gaps"]}, "what is missing, and why"
    assert (manifest["members"], (folder / "members.jsonl").exists()) == (0, False)

    people = [{"member": "ana@lid", "role": "admin"}, {"member": "ben@lid", "role": "member"}]
    listed = {"wa_group_id": GROUP, "at": at(20), "what": "list", "members": people, "complete": True}
    await store.write_members(session, held.fence, [listed])
    assert (await wa("export", "Family", str(folder), "--json")).json["members"] == 2
    assert json.loads((folder / "export.json").read_text())["members"] == 2
    first = json.loads((folder / "members.jsonl").read_text().splitlines()[0])
    assert (first["member"], first["role"], first["push_name"], first["number"]) == (
        "ana@lid", "admin", "Ana", "4917@s.whatsapp.net"
    )  # fmt: skip

    ran = await wa("export", "Work", str(folder))
    assert (ran.code, "another group" in ran.err) == (2, True)


async def test_an_interrupted_export_goes_on_where_it_was(
    wa: Commands, store: Store, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PAGE", 2)
    held = await writer(store, session)
    await held.commit(messages=[message(f"A{n}", n) for n in range(6)])
    calls = 0
    whole = Console.export_messages

    async def torn(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StoreUnavailable("away")
        return await whole(self, *args)

    monkeypatch.setattr(Console, "export_messages", torn)
    folder = tmp_path / "out"
    assert (await wa("export", "Family", str(folder))).code == 4
    assert not (folder / "messages.jsonl").exists(), "what has its name is whole"
    with (folder / "messages.jsonl.part").open("a") as part:
        part.write('{"half": ')  # a power cut in the middle of a line
    assert (await wa("export", "Family", str(folder), "--json")).json["messages"] == 2
    assert [line["wa_msg_id"] for line in lines_of(folder)] == [f"A{n}" for n in range(6)]


async def test_a_file_that_the_bucket_lost_is_said_and_is_no_success(
    wa: Commands, store: Store, session: str, tmp_path: Path
) -> None:
    held = await writer(store, session)
    media = real_file(b"lost")
    await store_photo(store, held, media, photo("P1"), b"lost")
    await store.bucket.remove([media.storage_path])
    await store.bucket.remove([media.storage_path])  # an interrupted prune does it again: no error
    ran = await wa("export", "Family", str(tmp_path / "out"), "--json")
    assert (ran.code, ran.json["missing"]) == (1, 1)
    assert media.storage_path in ran.err
    assert lines_of(tmp_path / "out")[0]["media"]["file"] is None

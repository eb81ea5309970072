"""`wa-worker sessions` over the embedded Supabase: an account's life from the outside."""

from __future__ import annotations

import hashlib
import re
from uuid import uuid4

import anyio
import pytest

from testkit.commands import Commands
from tests.integration.database import photo, table, writer
from tests.integration.test_commands import real_file, store_photo, wa
from worker.store import HeldSession, Store

__all__ = ["wa"]  # fixtures

SECRET = "s3cret"  # noqa: S105


async def test_a_session_is_added_shown_and_listed(wa: Commands, session: str) -> None:
    owner = str(uuid4())
    ran = await wa("sessions", "add", session, "catch_up_s=60", f"proxy=http://me:{SECRET}@p:3128", "--owner", owner)
    hosts = (await wa("sessions", "list", "--json")).json["hosts"]
    then = ": a host takes it soon" if hosts else ", but no host runs: start one with `wa-worker host`"
    assert (ran.code, ran.out) == (0, f"{session} is wanted{then}.\n")
    again = await wa("sessions", "add", session)
    assert (again.code, "exists already" in again.err) == (1, True)
    shown = (await wa("sessions", "show", session, "--json")).json
    assert (shown["wanted"], shown["owner_id"], shown["settings"]["catch_up_s"]) == (True, owner, 60)
    for arguments in (["list"], ["list", "--json"], ["show", session], ["show", session, "--json"]):
        ran = await wa("sessions", *arguments)
        assert (ran.code, session in ran.out, SECRET in ran.out + ran.err) == (0, True, False)
    assert session in [row["id"] for row in (await wa("sessions", "list", "--json")).json["sessions"]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "a b"], "cannot be a session's name"),
        (["add", "True"], "cannot be a session's name"),
        (["add", "x", "catch_up_s"], "is not KEY=VALUE"),
        (["add", "x", "catch_up=1"], "there is no such setting"),
        (["add", "x", "catch_up_s=soon"], "settings.catch_up_s"),
        (["add", "x", "proxy=ftp://x"], "settings.proxy"),
        (["show", "nobody"], "there is no session nobody"),
        (["start", "nobody"], "there is no session nobody"),
        (["stop", "nobody"], "there is no session nobody"),
        (["set", "nobody", "catch_up_s=1"], "there is no session nobody"),
        (["remove", "nobody", "--yes"], "there is no session nobody"),
        (["ask", "nobody", "refresh-qr"], "there is no session nobody"),
        (["ask", "nobody", "pairing-code"], "--phone is only for pairing-code"),
        (["ask", "nobody", "refresh-qr", "--phone", "49"], "--phone is only for pairing-code"),
    ],
)
async def test_a_wrong_argument_is_one_line_and_changes_nothing(wa: Commands, arguments: list[str], says: str) -> None:
    ran = await wa("sessions", *arguments)
    assert (ran.code, says in ran.err) == (2, True)
    assert "x" not in [row["id"] for row in (await wa("sessions", "list", "--json")).json["sessions"]]


async def test_settings_are_set_and_taken_back(wa: Commands, session: str) -> None:
    await wa("sessions", "add", session, "catch_up_s=60", "revoke=blank")
    ran = await wa("sessions", "set", session, "catch_up_s=", f"proxy=http://me:{SECRET}@p:3128", "--json")
    assert ran.code == 0
    assert SECRET not in ran.out
    shown = (await wa("sessions", "show", session, "--json")).json["settings"]
    assert (shown["revoke"], "catch_up_s" in shown, "p:3128" in shown["proxy"]) == ("blank", False, True)
    wrong = await wa("sessions", "set", session, "revoke=perhaps")
    assert (wrong.code, "settings.revoke" in wrong.err) == (2, True)
    assert (await wa("sessions", "show", session, "--json")).json["settings"] == shown
    keys = await wa("sessions", "set", session)
    assert re.search("catch_up_s +WORKER_CATCH_UP_S", keys.out)


async def test_no_password_of_a_proxy_is_shown(wa: Commands, store: Store, session: str) -> None:
    added = await wa("sessions", "add", session, f"proxy=me:{SECRET}@p:3128", "--json")
    assert added.json == {"session": session, "wanted": True, "settings": {"proxy": "http://p:3128"}}
    await wa("sessions", "stop", session)
    read = await store.console.session_settings(session)
    assert read is not None
    assert read.values == {"proxy": f"http://me:{SECRET}@p:3128"}
    assert await store.console.set_settings(session, {"proxy": f"me:{SECRET}@p:3128"}, read.version), "as an app may"
    shown = [await wa("sessions", "show", session, *more) for more in ((), ("--json",))]
    shown.append(await wa("sessions", "set", session, "catch_up_s=60"))
    for ran in shown:
        assert (ran.code, "p:3128" in ran.out, SECRET in ran.out + ran.err) == (0, True, False)


async def test_stop_waits_until_the_host_has_let_it_go(wa: Commands, store: Store, session: str) -> None:
    await wa("sessions", "add", session)
    (claimed,) = [one for one in (await store.host_poll("h:1:x", 500, [], 60.0)).claimed if one.session == session]
    held = HeldSession(session=session, fence=1, monitored=0, media=0, claimed=True, settings=claimed.settings.version)
    stopped: list[int] = []

    async def stop() -> None:
        stopped.append((await wa("sessions", "stop", session)).code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop)

        async def is_told() -> bool:
            news = (await store.host_poll("h:1:x", 0, [held], 60.0)).updates
            return session in news and news[session].stop

        with anyio.fail_after(60):
            while not await is_told():  # noqa: ASYNC110
                await anyio.sleep(0.05)
        assert stopped == []
        await store.lease_release(session, "h:1:x", 1)
    assert stopped == [0]
    assert (await wa("sessions", "start", session)).code == 0
    assert (await wa("sessions", "show", session, "--json")).json["wanted"] is True
    await wa("sessions", "stop", session)


async def test_what_is_no_host_is_named_at_once(wa: Commands, store: Store, session: str) -> None:
    await store.lease_acquire(session, "laptop:7:x", 60)
    with anyio.fail_after(60):
        for command in (["stop", session, "--timeout", "3600"], ["remove", session, "--yes"]):
            ran = await wa("sessions", *command)
            assert (ran.code, "laptop:7 serves it on its own" in ran.err) == (1, True), command


async def test_one_is_told_when_there_is_no_host(wa: Commands, store: Store, session: str) -> None:
    await wa("sessions", "add", session, "--stopped")
    ran = await wa("sessions", "ask", session, "fetch-groups", "--timeout", "0")
    assert (ran.code, f"Nobody serves {session} now" in ran.err) == (1, True)
    await table(store, "wa_hosts").delete().neq("owner", "").execute()
    ran = await wa("sessions", "start", session)
    assert (ran.code, "no host runs" in ran.out) == (0, True)
    await store.host_poll("h:1:x", 1, [], 60.0)
    ran = await wa("sessions", "start", session)
    assert (ran.code, "a host takes it soon" in ran.out) == (0, True)
    await wa("sessions", "stop", session, "--timeout", "0")
    await table(store, "wa_hosts").delete().neq("owner", "").execute()


async def test_a_request_waits_for_its_answer(wa: Commands, store: Store, session: str) -> None:
    await store.lease_acquire(session, "h", 60)
    held = HeldSession(session=session, fence=1, monitored=0, media=0)

    async def answer() -> None:
        with anyio.fail_after(60):
            while not (news := (await store.host_poll("h", 0, [held])).updates):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        (request,) = news[session].requests
        assert (request.name, request.args) == ("pairing_code", {"phone": "+49 151 1234567"})
        await store.request_handled(session, request.id, "the code is shown")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        ran = await wa("sessions", "ask", session, "pairing-code", "--phone", "+49 151 1234567")
    assert (ran.code, ran.out) == (0, f"{session}: the code is shown\n")
    late = await wa("sessions", "ask", session, "refresh-qr", "--timeout", "0")
    assert (late.code, "the request stays" in late.err) == (1, True)


async def test_a_removal_is_refused_until_it_is_stopped_says_what_goes_and_takes_the_files(
    wa: Commands, store: Store, session: str
) -> None:
    held = await writer(store, session)
    shared, own = hashlib.sha256(session.encode()).digest(), session.encode()
    await store_photo(store, held, real_file(own), photo("p1"), own)
    await store_photo(store, held, real_file(shared), photo("p2", 1), shared)
    other = await writer(store, f"{session}-2")
    await store_photo(store, other, real_file(shared), photo("p1"), shared)
    assert (await wa("sessions", "start", session)).code == 0
    refused = await wa("sessions", "remove", session, "--yes")
    assert (refused.code, f"`wa-worker sessions stop {session}`" in refused.err) == (1, True)
    await store.lease_release(session, "worker-1", held.fence)
    await wa("sessions", "stop", session)
    asked = await wa("sessions", "remove", session, "--with-data")
    assert asked.code == 1, "nobody said yes"
    assert f"2 messages, 2 groups, people, audit log, and 1 file ({len(own)} B)" in asked.out
    ran = await wa("sessions", "remove", session, "--with-data", "--json")
    assert ran.json == {"session": session, "data": True, "objects": ran.json["objects"]}
    assert ran.json["objects"] >= 1
    assert not await store.bucket.exists(real_file(own).storage_path)
    assert await store.bucket.exists(real_file(shared).storage_path)
    assert (await wa("sessions", "show", session)).code == 2
    (row,) = (await table(store, "messages").select("media_id").eq("session_id", other.session).execute()).data
    assert row["media_id"]


async def test_without_data_messages_stay(wa: Commands, store: Store, session: str) -> None:
    held = await writer(store, session)
    await held.commit(messages=[photo("p1")], creds="{}")
    await store.lease_release(session, "worker-1", held.fence)
    ran = await wa("sessions", "remove", session, "--yes")
    assert (ran.code, ran.out) == (0, f"{session} is removed.\n")
    status = await store.status(session)
    assert (status["messages"], status["session"]["has_creds"]) == (1, False)


async def test_any_command_takes_the_session_by_an_option(wa: Commands, store: Store, session: str) -> None:
    await writer(store, f"{session}-2")
    ran = await wa("--session", f"{session}-2", "status", "--json")
    assert ran.json["session"]["id"] == f"{session}-2"

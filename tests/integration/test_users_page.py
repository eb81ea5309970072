"""docs/users.md on the embedded Supabase, as users who signed up: its examples run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest

from testkit.embedded import EmbeddedSupabase
from tests.integration.clients import read_sessions, read_signed_urls, run_python
from tests.integration.database import GROUP, OTHER_GROUP, Writer, message, photo, table, writer
from tests.integration.pages import code_blocks
from tests.integration.reading import monitored_groups
from worker.store import HeldSession, MediaFile, Store, connect_store

PAGE = Path(__file__).resolve().parents[2] / "docs" / "users.md"
PASSWORD = "correct horse battery"  # noqa: S105


@pytest.fixture(scope="module")
async def supabase(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedSupabase]:
    """One with sign-up; what other tests use has none."""
    async with await EmbeddedSupabase.start(tmp_path_factory.mktemp("users"), users=True) as running:
        yield running


@pytest.fixture(scope="module")
async def store(supabase: EmbeddedSupabase) -> AsyncIterator[Store]:
    async with connect_store(supabase.url, supabase.service_key) as connected:
        await connected.bucket.ensure()
        yield connected


@dataclass(frozen=True)
class User:
    """Somebody who signed up, with a client that sends the publishable key and their token, as a browser does."""

    id: str
    email: str
    http: httpx.AsyncClient

    async def rows(self, path: str) -> list[dict[str, Any]]:
        answer = await self.http.get(f"/rest/v1/{path}")
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    async def call(self, function: str, **args: Any) -> Any:
        return (await self.http.post(f"/rest/v1/rpc/{function}", json=args)).json()

    async def sign(self, path: str) -> httpx.Response:
        return await self.http.post(f"/storage/v1/object/sign/wa-media/{path}", json={"expiresIn": 60})


@asynccontextmanager
async def signed_up(supabase: EmbeddedSupabase) -> AsyncIterator[User]:
    email = f"{uuid4().hex}@example.com"
    headers = {"apikey": supabase.publishable_key}
    async with httpx.AsyncClient(base_url=supabase.url, headers=headers, trust_env=False, timeout=30) as http:
        answer = await http.post("/auth/v1/signup", json={"email": email, "password": PASSWORD})
        http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield User(answer.json()["user"]["id"], email, http)


async def join(store: Store, session: str, user: User, role: str = "member", groups: list[int] | None = None) -> None:
    row = {"session_id": session, "user_id": user.id, "role": role, "groups": groups}
    await table(store, "session_members").insert(row).execute()


async def fill(store: Store, session: str, shared: str) -> tuple[Writer, dict[str, int]]:
    """Two groups with a text and a picture each. The first group's picture is one that other sessions have as well."""
    held = await writer(store, session, monitored=(GROUP, OTHER_GROUP))
    for place, group in enumerate((GROUP, OTHER_GROUP)):
        of: dict[str, Any] = {"chat_id": group, "sender": f"{session}{place}@lid", "sender_alt": None}
        await held.commit(messages=[message(f"T{place}", 1, **of), photo(f"P{place}", 2, **of)])
        (job,) = (await store.media_claim("w", 1, 60, session)).jobs
        sha256 = shared if place == 0 else uuid4().hex * 2
        media = MediaFile(sha256=sha256, mime="image/jpeg", bytes=3, storage_path=f"{sha256}/original.jpg")
        await store.bucket.upload(media.storage_path, b"abc", media.mime)
        await store.media_done(job.id, "w", media)
    await store.host_poll("worker-1", 0, [HeldSession(session=session, fence=held.fence, monitored=None, media=0)])
    found: Any = await table(store, "groups").select("id, wa_group_id").eq("session_id", session).execute()
    return held, {row["wa_group_id"]: row["id"] for row in found.data}


async def files(store: Store, group: int) -> set[str]:
    found: Any = await table(store, "messages").select("media(storage_path)").eq("group_id", group).execute()
    return {row["media"]["storage_path"] for row in found.data if row["media"]}


TABLES = ("groups", "messages", "message_changes", "media", "people", "session_members", "runtime_flags")
CLOSED = ("wa_sessions", "wa_session_keys", "audit_log", "media_jobs", "message_secrets", "wa_identities")


async def test_users_of_two_sessions_see_their_groups_and_sign_their_files(
    supabase: EmbeddedSupabase, store: Store
) -> None:
    ours, theirs = f"t-{uuid4().hex[:12]}", f"t-{uuid4().hex[:12]}"
    shared = uuid4().hex * 2
    (_, groups), (_, others) = await fill(store, ours, shared), await fill(store, theirs, shared)
    async with signed_up(supabase) as owner, signed_up(supabase) as member, signed_up(supabase) as stranger:
        assert [await stranger.rows(name) for name in TABLES] == [[]] * len(TABLES)
        await join(store, ours, owner, "owner")
        await join(store, ours, member, groups=[groups[OTHER_GROUP], others[OTHER_GROUP]])
        await join(store, theirs, stranger, "owner")
        for user, session, mine in (
            (owner, ours, list(groups.values())),
            (member, ours, [groups[OTHER_GROUP]]),
            (stranger, theirs, list(others.values())),
        ):
            assert {row["id"] for row in await user.rows("groups?select=id")} == set(mine)
            assert {row["group_id"] for row in await user.rows("messages?select=group_id")} == set(mine)
            assert {row["sender"] for row in await user.rows("people?select=sender")} == {
                row["sender"] for row in await user.rows("messages?select=sender")
            }
            every = [*groups.values(), *others.values()]
            for args in ({}, {"p_filter": {"groups": every}}):
                found = await user.call("my_search", p_session=session, p_query="text", **args)
                assert {row["group_id"] for row in found["results"]} == set(mine)
            for name, number in groups.items():
                answer = await user.http.post("/rest/v1/rpc/my_coverage", json={"p_session": ours, "p_group": name})
                assert answer.status_code == (200 if number in mine else 403), answer.text
            told = await user.call("changes", p_session=session, p_since="0")
            assert {row["message"]["group_id"] for row in told["changes"]} == set(mine)
            (known,) = await user.call("my_sessions")
            assert (known["id"], "detail" in known) == (session, user is not member)
            may = set[str]().union(*[await files(store, group) for group in mine])
            for group in (*groups.values(), *others.values()):
                for path in await files(store, group):
                    assert (await user.sign(path)).is_success == (path in may), (path, may)
            assert [await user.rows(name) for name in CLOSED] == [[]] * len(CLOSED)
            refused = await user.http.post("/rest/v1/rpc/wa_status", json={"p_session": session})
            assert refused.status_code == 403
            deleted = await user.http.delete("/rest/v1/messages?id=gt.0", headers={"Prefer": "return=representation"})
            assert deleted.json() == []
        await owner.http.patch("/rest/v1/groups?id=gt.0", json={"monitor": False})
        await member.http.patch("/rest/v1/groups?id=gt.0", json={"monitor": False})
        assert await monitored_groups(store, ours) == frozenset()
        assert len(await monitored_groups(store, theirs)) == 2


def examples() -> str:
    *page, way_around = code_blocks(PAGE.read_text(), "js")
    assert len(page) == 5
    create = "createClient(SUPABASE_URL, PUBLISHABLE_KEY"
    return way_around + "\n".join(page).replace(create, create + ", { global: { fetch: withSignedUrls } }")


async def test_the_python_example_sees_what_its_user_may_see(
    supabase: EmbeddedSupabase, store: Store, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = code_blocks(PAGE.read_text(), "python")
    read_signed_urls(monkeypatch)
    read_sessions(monkeypatch)
    _, groups = await fill(store, session, uuid4().hex * 2)
    async with signed_up(supabase) as user:
        await join(store, session, user, groups=[groups[GROUP]])
        found: dict[str, Any] = {
            "SUPABASE_URL": supabase.url,
            "PUBLISHABLE_KEY": supabase.publishable_key,
            "EMAIL": user.email,
            "PASSWORD": PASSWORD,
        }
        await run_python(example, PAGE, found)
    assert found["session"] == session
    assert [group["id"] for group in found["groups"]] == [groups[GROUP]]
    assert {row["kind"] for row in found["page"]} == {"text", "image"}
    assert {row["message"]["group_id"] for row in found["changed"]["changes"]} == {groups[GROUP]}
    assert [row["group_id"] for row in found["found"]] == [groups[GROUP]]
    assert found["archive"]["complete"] is False
    async with httpx.AsyncClient(trust_env=False) as anybody:
        assert (await anybody.get(found["signed"]["signedURL"])).content == b"abc"


# Waits until the page shows what it was told, prints it, and ends.
WATCH = """
console.log(JSON.stringify({ sessions, groups, hits, say, url: signed.data.signedUrl }))
const look = setInterval(() => {
  const texts = [...shown.values()].map((message) => message.text)
  if (!texts.includes('news of P9')) return
  console.log(JSON.stringify({ texts, live }))
  clearInterval(look)
  process.exit(0)
}, 50)
"""


async def test_the_page_lives_on_the_cursor_where_there_is_no_realtime(
    supabase: EmbeddedSupabase, store: Store, session: str, node: Path
) -> None:
    held, groups = await fill(store, session, uuid4().hex * 2)
    async with signed_up(supabase) as user:
        await join(store, session, user, groups=[groups[GROUP]])
        values = {
            "SUPABASE_URL": supabase.url,
            "PUBLISHABLE_KEY": supabase.publishable_key,
            "EMAIL": user.email,
            "PASSWORD": PASSWORD,
        }
        script = "".join(f"const {name} = {json.dumps(value)}\n" for name, value in values.items())
        command: list[str | Path] = [node, "--input-type=module", "--eval", script + examples() + WATCH]
        process = await anyio.open_process(command, cwd=PAGE.parents[1], stderr=subprocess.STDOUT)
        async with process:
            assert process.stdout is not None
            text = ""
            with anyio.fail_after(60):
                async for chunk in process.stdout:
                    text += chunk.decode()
                    if text.count("\n") == 1:  # the page is up
                        of = {"chat_id": GROUP, "sender": f"{session}0@lid", "text": "news of P9"}
                        unseen = of | {"chat_id": OTHER_GROUP, "text": "not for this user"}
                        await held.commit(messages=[message("X9", 9, **unseen), message("P9", 9, **of)])
        first, last = map(json.loads, text.splitlines())
    assert [row["id"] for row in first["sessions"]] == [session]
    assert [len(group["messages"]) for group in first["groups"]] == [2]
    assert [hit["text"] for hit in first["hits"]] == ["text of T0"]
    assert re.fullmatch(r"\d+ gaps, one goes on", first["say"]), "no worker runs"
    async with httpx.AsyncClient(trust_env=False) as anybody:
        assert (await anybody.get(first["url"])).content == b"abc"
    assert sorted(filter(None, last["texts"])) == ["news of P9", "text of T0"]
    assert last["live"] is False

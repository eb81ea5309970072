"""Linking an account that WhatsApp gates behind its passkey (docs/whatsapp.md, "The passkey gate")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import anyio
import pytest

from testkit.database import Database, Row, parse_time
from testkit.embedded import EmbeddedSupabase
from testkit.phone import VirtualPhone
from testkit.processes import NODE, PYTHON, Child
from testkit.waiting import until
from testkit.worker import Worker, environment
from worker.session.requests import ENTER_THE_NEW_CODE

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

REQUEST = "passkey_prologue_request"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A worker with no account, and a virtual phone whose server asks for the passkey."""

    phone: VirtualPhone
    worker: Worker
    database: Database

    async def scan(self) -> None:
        await self.phone.scan(await self.database.wait_qr(tell=self.worker.child.tail))

    async def type_code(self) -> None:
        """Link by number and code instead."""
        number = (await self.phone.owner()).pn.partition("@")[0]
        await self.database.wait_qr(tell=self.worker.child.tail)
        await self.database.raise_flag("wa_pairing_code_requested", phone=number)
        await self.phone.pair_code((await self.detail_with("pairing_code"))["pairing_code"])

    async def detail_with(self, field: str, value: object = None) -> Row:
        """Wait until the session's detail has this field, or this value of it."""

        async def probe() -> Row | None:
            detail = await self.database.detail()
            found = detail.get(field)
            return detail if found is not None and (value is None or found == value) else None

        waited = self.database.until(f"detail.{field} {value or ''}", probe, tell=self.worker.child.tail)
        return cast(Row, await waited)

    async def acks(self, count: int = 1) -> list[str]:
        """Types of the notifications that were acked, with the error if one was named."""

        async def probe() -> list[str] | None:
            acks: list[str] = (await self.phone.passkey())["acks"]
            return acks if len(acks) >= count else None

        return cast(list[str], await self.database.until(f"{count} acks", probe, tell=self.worker.child.tail))

    async def answer(self, options: Row | None = None, **lies: object) -> None:
        """The owner runs the script in a browser and pastes what it prints."""
        await self.detail_with("passkey")
        assertion = await self.phone.passkey_assert(options, **lies)
        await self.database.raise_flag("wa_passkey_answered", assertion={**assertion, "authenticatorAttachment": "x"})

    async def code(self) -> str:
        """The code on our screen."""

        async def probe() -> str | None:
            return ((await self.database.detail()).get("passkey") or {}).get("code")

        return cast(str, await self.database.until("a code to compare", probe, tell=self.worker.child.tail))

    async def compare(self, *, same: bool = True) -> None:
        code = await self.code()
        if same:
            assert code == (await self.phone.passkey())["code"], "both screens show the same"
            await self.phone.passkey_confirm()
        await self.database.raise_flag("wa_passkey_compared", code=code, same=same)

    async def ends(self, *words: str) -> None:
        """Wait until the attempt has ended with a sentence that has these words."""

        async def probe() -> Row | None:
            row = await self.database.session_row() or {}
            detail = row.get("detail") or {}
            return detail if (row.get("status"), detail.get("state")) == ("disconnected", "needs_you") else None

        detail = cast(Row, await self.database.until("the end", probe, tell=self.worker.child.tail))
        assert not [word for word in (*words, "Start over") if word not in detail["say"]], detail["say"]
        assert "passkey" not in detail

    async def links(self) -> None:
        """The attempt that follows succeeds, whatever ended the one before."""
        await self.phone.realism(passkey=False)
        await self.database.raise_flag("wa_refresh_qr_requested")
        await self.scan()
        await self.database.wait_status("connected", tell=self.worker.child.tail)


@asynccontextmanager
async def gated(
    folder: Path, supabase: EmbeddedSupabase, session: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Gate]:
    chosen = {**supabase.worker_env, "WORKER_SESSION": session, **(settings or {})}
    async with (
        await VirtualPhone.start(folder) as phone,
        await Database.connect(supabase.url, supabase.service_key, session) as database,
    ):
        await phone.realism(passkey=True)
        async with Worker.start(folder / "worker", phone=phone, settings=chosen) as worker:
            await worker.ready()
            yield Gate(phone=phone, worker=worker, database=database)


@pytest.mark.parametrize("way", ["scan", "type_code"])
async def test_whatsapp_asks_for_the_passkey_and_the_worker_says_so(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, way: str
) -> None:
    async with gated(tmp_path, supabase, session) as gate:
        await getattr(gate, way)()

        detail = await gate.detail_with("state", "needs_you")
        assert "set WORKER_PASSKEY=true" in detail["say"]
        assert {"qr", "pairing_code"}.isdisjoint(detail)
        assert await gate.acks() == [REQUEST], "answered once, although Baileys cannot"
        ready = await gate.worker.get("/readyz")
        assert ready is not None
        assert [reason for reason in ready.json()["reasons"] if "passkey" in reason]
        assert detail["say"] in gate.worker.child.text()
        assert "Nobody scanned" not in gate.worker.child.text()
        (error,) = [e["payload"] for e in await gate.database.events("error")]
        assert (error["code"], error["msg"]) == ("NEEDS_A_PERSON", detail["say"])

        await gate.phone.realism(passkey=False)
        await gate.database.raise_flag("wa_refresh_qr_requested")
        await gate.scan()
        await gate.database.wait_status("connected", tell=gate.worker.child.tail)


# ── switched on ─────────────────────────────────────────────────────────────────────────────────────────────────────

ON = {"WORKER_PASSKEY": "true"}
HURRIED = {**ON, "WA_PASSKEY_STEP_MS": "5000"}


@pytest.mark.parametrize("way", ["scan", "type_code"])
async def test_the_passkey_links_once_a_person_has_compared_the_codes(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, way: str
) -> None:
    settings = {**ON, "LOG_LEVEL": "trace"}
    async with gated(tmp_path, supabase, session, settings) as gate:
        await getattr(gate, way)()
        detail = await gate.detail_with("passkey")
        assert detail["state"] == "needs_you"
        assert detail["passkey"]["options"]["rpId"] == "whatsapp.com"
        assert {"qr", "pairing_code", "expiresAt"}.isdisjoint(detail)
        await gate.answer()
        await gate.compare()
        await gate.database.wait_status("connected", tell=gate.worker.child.tail)

        end = await gate.phone.passkey()
        assert (end["stage"], end["proof"], end["problems"]) == ("linked", "absent", [])
        assert end["acks"] == [REQUEST, "crsc_continuation"]
        rows = await gate.database.rows("runtime_flags", key=gate.database.flag_key("wa_passkey_answered"))
        assert set(rows[0]["value"]) == set(rows[0]["handled_value"]) == {"at"}, "the answer is not kept"
        answer = (await gate.phone.passkey_assert({"challenge": "AAAA"}))["id"]
        assert answer not in gate.worker.child.text(), "and in no log line at any level"
        events = [event["event"] for event in await gate.database.events()]
        assert {"passkey_requested", "passkey_compared", "connect"} <= set(events)


async def test_a_wrong_answer_is_turned_down_and_may_be_given_again(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        await gate.scan()
        await gate.answer(origin="https://example.com")
        await gate.database.wait_event("error", tell=gate.worker.child.tail)
        (error,) = [event["payload"] for event in await gate.database.events("error")]
        assert (error["code"], error["ctx"]["flag"]) == ("REQUEST_TURNED_DOWN", "wa_passkey_answered")
        assert "web.whatsapp.com" in error["msg"]
        await gate.answer()
        await gate.compare()
        await gate.database.wait_status("connected", tell=gate.worker.child.tail)


async def test_codes_that_differ_link_nothing(tmp_path: Path, supabase: EmbeddedSupabase, session: str) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        await gate.scan()
        await gate.answer()
        await gate.compare(same=False)
        await gate.ends("differ")
        assert (await gate.phone.passkey())["stage"] == "compare", "the last step was never sent"
        await gate.links()


@pytest.mark.parametrize("options", ["absent", "broken", "twice", "wrong_from"])
async def test_however_the_request_comes_it_can_be_answered(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, options: str
) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        await gate.phone.passkey_variant(options=options)
        await gate.scan()
        await gate.detail_with("passkey")
        await gate.answer()
        await gate.compare()
        await gate.database.wait_status("connected", tell=gate.worker.child.tail)
        assert (await gate.phone.passkey())["problems"] == []


FAILURES = [
    pytest.param({"refuse": "passkey_prologue"}, ["refused", "passkey_prologue", "400"], id="the answer is refused"),
    pytest.param({"refuse": "companion_nonce"}, ["refused", "companion_nonce", "400"], id="the nonce is refused"),
    pytest.param({"continuation": "short_key"}, ["crsc_continuation"], id="the phone's key is too short"),
    pytest.param({"continuation": "short_nonce"}, ["crsc_continuation"], id="the phone's nonce is too short"),
    pytest.param({"continuation": "silence"}, ["then sent nothing"], id="silence after the answer"),
    pytest.param({"continuation": "early"}, ["then sent nothing"], id="the phone's half came too early"),
    pytest.param({"refuse": "ref"}, ["refused", "passkey_prologue", "400"], id="the reference is refused"),
    pytest.param({"silence": "ref"}, ["gave no readable answer", "passkey_prologue"], id="silence at the reference"),
    pytest.param(
        {"silence": "passkey_prologue"}, ["gave no readable answer", "passkey_prologue"], id="silence at the answer"
    ),
    pytest.param({"silence": "companion_nonce"}, ["then sent nothing"], id="silence at the nonce"),
    pytest.param({"cut": "ref"}, ["passkey_prologue"], id="cut at the reference"),
    pytest.param({"cut": "passkey_prologue"}, ["passkey_prologue"], id="cut at the answer"),
    pytest.param({"cut": "companion_nonce"}, ["cannot be resumed"], id="cut at the nonce"),
]


@pytest.mark.parametrize(("variant", "words"), FAILURES)
async def test_an_attempt_that_fails_says_how_and_the_next_one_links(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, variant: dict[str, str], words: list[str]
) -> None:
    silent = "silence" in variant or "then sent nothing" in words
    async with gated(tmp_path, supabase, session, HURRIED if silent else ON) as gate:
        await gate.phone.passkey_variant(**variant)
        await gate.scan()
        await gate.answer()
        await gate.ends(*words)
        await gate.links()


NO_OPTIONS = [
    pytest.param({"silence": "passkey_request_options"}, ["gave no readable answer"], id="silence"),
    pytest.param({"refuse": "passkey_request_options"}, ["refused", "400"], id="refused"),
    pytest.param({"cut": "passkey_request_options"}, ["passkey_request_options"], id="cut"),
]


@pytest.mark.parametrize(("variant", "words"), NO_OPTIONS)
async def test_a_request_without_options_that_brings_none_ends_the_attempt_and_the_next_one_links(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, variant: dict[str, str], words: list[str]
) -> None:
    async with gated(tmp_path, supabase, session, HURRIED) as gate:
        await gate.phone.passkey_variant(options="absent", **variant)
        await gate.scan()
        await gate.ends(*words)
        await gate.links()


@pytest.mark.parametrize("while_a_person", ["signs", "compares"])
async def test_a_connection_that_ends_while_a_person_is_at_it_ends_the_attempt_and_the_next_one_links(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, while_a_person: str
) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        await gate.scan()
        if while_a_person == "compares":
            await gate.answer()
            await gate.code()
        await gate.detail_with("passkey")
        await gate.phone.post("/passkey/cut", {})
        await gate.ends("cannot be resumed")
        await gate.links()


async def test_a_connection_that_ends_with_the_request_leaves_no_attempt(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        await gate.phone.passkey_variant(cut="passkey_prologue_request")
        first = await gate.database.wait_qr(tell=gate.worker.child.tail)
        await gate.phone.scan(first)

        async def over() -> str | None:  # it may have been read before the end, or not
            detail = await gate.database.detail()
            return (
                detail["state"] if detail.get("state") == "needs_you" or (detail.get("qr") or first) != first else None
            )

        if await gate.database.until("the end, or a new code", over, tell=gate.worker.child.tail) == "needs_you":
            await gate.links()
        else:
            await gate.phone.realism(passkey=False)
            await gate.scan()
            await gate.database.wait_status("connected", tell=gate.worker.child.tail)


async def test_a_person_may_take_longer_than_the_codes_would_have_lived(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    hurried_codes = {**ON, "WA_QR_TIMEOUT_MS": "1500"}  # six codes: 9 s
    async with gated(tmp_path, supabase, session, hurried_codes) as gate:
        await gate.phone.realism(
            time_scale=20, qr_expires=False
        )  # 160 s are 8 s, 300 s are 15 s, the challenge's 600 s 30
        await gate.scan()
        expires = parse_time((await gate.detail_with("passkey"))["passkey"]["expiresAt"])

        async def late() -> bool:
            return datetime.now(UTC) > expires - timedelta(seconds=14)

        await until("more than half of the challenge's life", late, seconds=30)
        await gate.answer()
        await gate.compare()
        await gate.database.wait_status("connected", tell=gate.worker.child.tail)


async def test_the_phone_links_although_the_last_step_got_no_answer(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        await gate.phone.passkey_variant(silence="encrypted_pairing_request")
        await gate.scan()
        await gate.answer()
        await gate.compare()
        await gate.database.wait_status("connected", tell=gate.worker.child.tail)


LAST_STEP = [
    pytest.param({"refuse": "encrypted_pairing_request"}, ["refused", "400"], id="refused"),
    pytest.param({"silence": "pair-success"}, ["neither the phone nor WhatsApp"], id="no pair-success"),
    pytest.param({"cut": "encrypted_pairing_request"}, ["passkey"], id="cut"),
]


@pytest.mark.parametrize(("variant", "words"), LAST_STEP)
async def test_a_last_step_that_fails_says_so_and_the_next_attempt_links(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str, variant: dict[str, str], words: list[str]
) -> None:
    settings = {**ON, "WA_PASSKEY_STEP_MS": "10000"} if "silence" in variant else ON
    async with gated(tmp_path, supabase, session, settings) as gate:
        await gate.phone.passkey_variant(**variant)
        await gate.type_code()
        await gate.answer()
        await gate.compare()
        await gate.ends(*words)
        await gate.links()


async def test_a_person_who_is_too_slow_is_told_so_at_each_step(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    async with gated(tmp_path, supabase, session, HURRIED) as gate:
        await gate.scan()
        await gate.answer()
        await gate.ends("Nobody compared")
        await gate.phone.realism(time_scale=600, qr_expires=False)  # a challenge lives a second
        await gate.database.raise_flag("wa_refresh_qr_requested")
        await gate.scan()
        await gate.ends("Nobody answered")


async def test_an_answer_that_nobody_asked_for_is_turned_down_and_forgotten(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        await gate.database.wait_qr(tell=gate.worker.child.tail)
        await gate.database.raise_flag("wa_passkey_answered", assertion="secret")
        await gate.database.wait_flag_handled("wa_passkey_answered", tell=gate.worker.child.tail)
        rows = await gate.database.rows("runtime_flags", key=gate.database.flag_key("wa_passkey_answered"))
        assert "secret" not in str(rows)


# ── wa-worker link ──────────────────────────────────────────────────────────────────────────────────────────────────

# A browser with the account's passkey, as far as the script sees one.
BROWSER = """
const [script, control] = process.argv.slice(1)
let click
globalThis.addEventListener = (_, handler) => { click = handler }
const bytes = (text) => (text === null ? null : Uint8Array.from(Buffer.from(text, 'base64url')).buffer)
const get = async ({ publicKey: { challenge, rpId } }) => {
  const options = { challenge: Buffer.from(challenge).toString('base64url'), rpId }
  const asked = await fetch(`${control}/passkey/assert`, { method: 'POST', body: JSON.stringify({ options }) })
  const { id, rawId, type, response } = await asked.json()
  const parts = Object.entries(response).map(([name, value]) => [name, bytes(value)])
  return { id, rawId: bytes(rawId), type, response: Object.fromEntries(parts) }
}
Object.defineProperty(globalThis, 'navigator', { value: { credentials: { get } }, configurable: true })
;(0, eval)(script)
await click({ preventDefault() {}, stopPropagation() {} })
"""


@dataclass(frozen=True, kw_only=True)
class Linking:
    """`wa-worker link` in a terminal of its own."""

    child: Child

    @classmethod
    def start(cls, folder: Path, supabase: EmbeddedSupabase, session: str, *options: str) -> Linking:
        env = environment({**supabase.worker_env, "WORKER_SESSION": session})
        command: list[str | Path] = [PYTHON, "-m", "worker", "link", *options]
        return cls(child=Child.start("link", command, log=folder / "link.log", cwd=folder, env=env, hold_stdin=True))

    async def says(self, text: str) -> str:
        """Wait until it has printed this; everything that it has printed."""

        async def probe() -> str | None:
            return self.child.text() if text in self.child.text() else None

        return cast(str, await until(f"{text!r} from link", probe, seconds=30, tell=self.child.tail))

    def type(self, text: str) -> None:
        assert self.child.process.stdin is not None
        self.child.process.stdin.write(text.encode() + b"\n")
        self.child.process.stdin.flush()


async def test_link_shows_the_script_takes_what_it_prints_and_asks_about_the_codes(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        linking = Linking.start(tmp_path, supabase, session, "--passkey")
        try:
            await linking.says("Scan it:")
            await gate.scan()
            printed = await linking.says("})()")
            linking.type("what?")
            await linking.says("Not sent")
            script = printed[printed.index("(() => {") : printed.index("})()") + len("})()")]
            ran = await anyio.run_process(
                [str(NODE), "--input-type=module", "-e", BROWSER, script, gate.phone.control_url]
            )
            answer = ran.stdout.decode()
            linking.type(answer[answer.index("{") :])
            await linking.says(f"Code: {await gate.code()}")
            await gate.phone.passkey_confirm()
            linking.type("maybe")
            linking.type("y")
            await linking.says("Connected as ")
            assert await linking.child.wait(30) == 0
            assert (await gate.phone.passkey())["problems"] == []
        finally:
            linking.child.kill()


async def test_link_by_code_asks_for_one_and_a_no_to_the_codes_links_nothing(
    tmp_path: Path, supabase: EmbeddedSupabase, session: str
) -> None:
    async with gated(tmp_path, supabase, session, ON) as gate:
        number = (await gate.phone.owner()).pn.partition("@")[0]
        linking = Linking.start(tmp_path, supabase, session, "--passkey", "--code", f"+{number[:2]} {number[2:]}")
        try:
            retired = (await gate.detail_with("pairing_code"))["pairing_code"]
            await linking.says(f"Code: {retired}")
            await gate.phone.post("/pair_code/refresh", {})
            code = (await gate.detail_with("say", ENTER_THE_NEW_CODE))["pairing_code"]
            await linking.says(f"Code: {code}")
            await gate.phone.pair_code(code)
            await linking.says("})()")
            await gate.answer()
            await linking.says("Does the phone show the same code?")
            linking.type("n")
            await gate.ends("differ")
            await linking.says("differ")
        finally:
            linking.child.kill()

"""The session's smaller parts: flags, lease, report, the database's absence, sealed state, commits."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import anyio
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from loguru import logger

from tests.unit.doubles import BOUND, Database, make_flag, until
from worker.bridge.protocol import Commit, Nothing, StanzasKnown, StateGet
from worker.errors import (
    KeyRefused,
    SequenceGap,
    StaleFence,
    StateError,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UnexpectedAnswer,
)
from worker.ingest.committer import Committer, Listeners
from worker.ingest.rules.normalise import Rules
from worker.session import auth_state as state_module
from worker.session.auth_state import AuthState
from worker.session.flags import Request, RequestKind, read_flag
from worker.session.report import Report, View
from worker.store import KeyChange, Store, lease, retry
from worker.store.availability import DatabaseWatch
from worker.store.cipher import MARK, StateCipher
from worker.store.retry import until_answered

KEY, OTHER = bytes(range(32)), bytes(32)

# ── flags ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ask", [RequestKind.GROUPS, RequestKind.REFRESH, RequestKind.DISCONNECT])
def test_each_flag_of_the_contract_is_a_request(ask: RequestKind) -> None:
    flag = make_flag(ask.value)
    assert read_flag(flag) == Request(kind=ask, flag=flag)


def test_a_flag_of_somebody_else_is_left_alone() -> None:
    assert read_flag(make_flag("feature_x")) is None


def test_a_flag_without_a_time_is_explained() -> None:
    fault = read_flag(make_flag("fetch_groups_requested", None))
    assert isinstance(fault, str)
    assert "no valid time" in fault


@pytest.mark.parametrize(
    "written",
    [
        "491511234567",
        "+491511234567",
        "+49 (0)151 1234567",
        "0049 151 1234567",
        "0049 (0)151/123-4567",
        " +49.151.1234567 ",
    ],
)
def test_a_phone_number_is_put_right(written: str) -> None:
    request = read_flag(replace(make_flag("wa_pairing_code_requested"), phone=written))
    assert isinstance(request, Request), request
    assert request.phone == "491511234567"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("0151 1234567", "no country code"),
        ("(0)151 1234567", "no country code"),
        ("+0151 1234567", "no country code"),
        ("", "7 to 15 digits"),
        ("49151", "7 to 15 digits"),
        ("4915112345678901", "7 to 15 digits"),
        ("+49 151 CALL", "7 to 15 digits"),
        ("٤٩١٥١١٢٣٤٥٦٧", "7 to 15 digits"),
    ],
)
def test_a_number_that_cannot_be_put_right_is_refused_with_a_sentence(written: str, why: str) -> None:
    fault = read_flag(replace(make_flag("wa_pairing_code_requested"), phone=written))
    assert isinstance(fault, str)
    assert why in fault
    assert '"phone": "491511234567"' in fault


# ── lease ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_waits_for_the_lease_and_says_so_once() -> None:
    database = Database(holder="elsewhere:77:abc")
    said: list[str] = []
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:

            async def acquire() -> None:
                held = await lease.acquire(cast(Store, database), "default", "me", 0.03, said.append)
                assert held.fence == 1

            task_group.start_soon(acquire)
            await until(lambda: said and database.tries >= 3)
            database.holder = None
    assert said == ["another worker (elsewhere:77) serves this session; waiting until it stops"]


def test_every_process_has_a_name_of_its_own() -> None:
    assert lease.make_owner() != lease.make_owner()


# ── the database's absence ──────────────────────────────────────────────────────────────────────────────────────────


async def fails() -> None:
    raise StoreUnavailable("away")


async def answers() -> None:
    return None


async def refuses() -> None:
    raise StoreRefused("no", "22P02")


async def test_the_database_is_gone_when_one_caller_waited_too_long() -> None:
    now = 100.0
    watch = DatabaseWatch(patience=20.0, clock=lambda: now)
    with pytest.raises(StoreUnavailable):
        await watch.observe("commit", fails())
    assert (watch.away, watch.gone) == (True, False)
    now = 119.0
    with pytest.raises(StoreUnavailable):
        await watch.observe("commit", fails())
    assert not watch.gone
    now = 121.0
    assert watch.gone, "counted from the first failure"
    await watch.observe("state", answers())
    assert watch.gone, "another's luck does not help"
    await watch.observe("commit", answers())
    assert not watch.away


async def test_a_caller_that_ended_with_its_sidecar_is_not_waited_for() -> None:
    now = 100.0
    watch = DatabaseWatch(patience=20.0, clock=lambda: now)
    async with anyio.create_task_group() as sidecar:
        sidecar.start_soon(until_answered, lambda: watch.observe("commit", fails()))
        await until(lambda: watch.away)
        sidecar.cancel_scope.cancel()
    now = 200.0
    assert watch.gone, "a connection made meanwhile would be ended although the database answers"
    watch.withdraw("commit", "state")
    assert (watch.away, watch.gone) == (False, False)


async def test_who_waits_long_for_the_database_says_so_once_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "SAID_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(retry, "PAUSE_FIRST_SECONDS", 0.001)
    said: list[str] = []
    sink = logger.add(lambda line: said.append(str(line)), level="WARNING", format="{message}")
    tries = 0

    async def at_last() -> int:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise UnexpectedAnswer("wa_monitored_groups: the answer is not the function's")
        return tries

    assert await until_answered(at_last, what="the monitored groups") == 5
    logger.remove(sink)
    (line,) = said
    assert line.startswith("the monitored groups: no answer yet (wa_monitored_groups: the answer is not")


async def test_a_refusal_is_an_answer() -> None:
    watch = DatabaseWatch()
    with pytest.raises(StoreUnavailable):
        await watch.observe("commit", fails())
    with pytest.raises(StoreRefused):
        await watch.observe("commit", refuses())
    assert not watch.away


async def test_waiting_for_the_database_ends_when_the_last_has_its_answer() -> None:
    watch = DatabaseWatch()
    for source in ("commit", "lease"):
        with pytest.raises(StoreUnavailable):
            await watch.observe(source, fails())
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(watch.back)
            await watch.observe("lease", answers())
            assert watch.away
            watch.forget()


# ── report ──────────────────────────────────────────────────────────────────────────────────────────────────────────

WAITING = View(status="connecting", state="waiting_for_scan", say="Scan.", qr="2@x")
CONNECTED = View(status="connected", state="connected", say="Connected.", wa_name="Ana")


async def reporting(database: Database, act: Callable[[Report], Any]) -> None:
    report = Report(database.store, keep={"version": [2, 3000, 1]})
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(report.run)
            act(report)
            await until(lambda: database.tries)
            database.away = False
            await report.flushed()
            task_group.cancel_scope.cancel()


async def test_status_and_audit_are_written_together() -> None:
    database = Database()

    def act(report: Report) -> None:
        report.show(WAITING)
        report.audit("qr_generated", ttl_s=60)

    await reporting(database, act)
    assert database.row["status"] == "connecting"
    assert database.row["detail"]["qr"] == "2@x"
    assert database.row["detail"]["version"] == [2, 3000, 1], "what is kept stays, whatever the state"
    assert database.events() == ["qr_generated"]


async def test_a_state_without_a_code_clears_the_code_and_keeps_the_name() -> None:
    database = Database()

    def act(report: Report) -> None:
        for view in (CONNECTED, WAITING, CONNECTED):
            report.show(view)

    await reporting(database, act)
    assert "qr" not in database.row["detail"]
    assert database.row["wa_name"] == "Ana"


async def test_a_long_outage_is_logged_when_it_begins_and_once_an_hour() -> None:
    now = [0.0]
    said: list[str] = []
    report = Report(cast(Any, Database()), clock=lambda: now[0])
    connecting = View(status="connecting", state="connecting", say="Connecting.")
    away = View(status="disconnected", state="reconnecting", say="Not reached.")
    sink = logger.add(lambda line: said.append(str(line).strip()), level="INFO", format="{message}")
    try:
        for _ in range(240):  # two hours, an attempt every half a minute
            report.show(connecting)
            report.show(away)
            now[0] += 30
        assert said[:6] == ["Connecting.", "Not reached."] * 3
        assert said.count("Not reached.") == 3 + 1, "and once an hour after the third, at 1:01"
        report.show(CONNECTED)
        report.show(away)
        assert said[-2:] == [CONNECTED.say, "Not reached."], "another outage begins anew"
    finally:
        logger.remove(sink)


async def test_while_the_database_is_away_the_last_state_and_all_audits_are_kept() -> None:
    database = Database(away=True)

    def act(report: Report) -> None:
        for n in range(5):
            report.audit("reconnect", attempt=n)
        report.show(WAITING)
        report.show(CONNECTED)

    await reporting(database, act)
    assert database.row["status"] == "connected"
    assert [entry["attempt"] for entry in database.events("reconnect")] == [0, 1, 2, 3, 4]


async def test_a_database_that_is_away_for_days_does_not_cost_memory_without_end() -> None:
    database = Database(away=True)

    def act(report: Report) -> None:
        for n in range(3000):
            report.audit("reconnect", attempt=n)

    await reporting(database, act)
    assert len(database.audits) == 1000
    assert database.audits[-1].payload["attempt"] == 2999, "the newest are kept"


# ── sealed state ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_key_values_are_stored_as_they_are() -> None:
    assert StateCipher("default", None).close("session", "1", "{}") == "{}"


def test_values_from_before_the_key_are_read() -> None:
    assert StateCipher("default", KEY).open("session", "1", '{"a":1}') == '{"a":1}'


def test_a_rotated_key_reads_what_the_former_one_wrote() -> None:
    old = StateCipher("default", OTHER).close("session", "1", "value")
    assert StateCipher("default", KEY, OTHER).open("session", "1", old) == "value"
    new = StateCipher("default", KEY, OTHER).close("session", "1", "value")
    assert StateCipher("default", KEY).open("session", "1", new) == "value"


# `value` of session `default`, type `session`, name `1`, as a worker without session keys encrypted it with KEY.
FORMER = "enc:AUsC4XQVDjoTJ876gOuEtEIYyw627DjQF2o019s5ZXVFVQ=="


def test_a_value_that_the_master_key_encrypted_is_read() -> None:
    assert StateCipher("default", KEY).open("session", "1", FORMER) == "value"
    assert StateCipher("default", OTHER, KEY).open("session", "1", FORMER) == "value"


def test_the_key_of_one_session_opens_nothing_of_another() -> None:
    raw = base64.b64decode(StateCipher("other", KEY).close("session", "1", "value")[len(MARK) :])
    own, context = derived(KEY, "other"), json.dumps(["other", "session", "1"]).encode()
    assert AESGCM(own).decrypt(raw[1:13], raw[13:], context) == b"value"
    for key in (KEY, derived(KEY, "default")):
        with pytest.raises(InvalidTag):
            AESGCM(key).decrypt(raw[1:13], raw[13:], context)


def derived(master: bytes, session: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"wa-worker state " + session.encode()).derive(master)


def tampered(stored: str) -> str:
    raw = bytearray(base64.b64decode(stored[len(MARK) :]))
    raw[-1] ^= 1
    return MARK + base64.b64encode(raw).decode()


STORED = StateCipher("default", KEY).close("session", "1", "value")


UNREADABLE: list[tuple[StateCipher, str, str, str, str, str]] = [
    (StateCipher("default", OTHER), "session", "1", STORED, "WORKER_STATE_KEY: does not fit", "a wrong key"),
    (StateCipher("default", None), "session", "1", STORED, "WORKER_STATE_KEY: not set", "no key"),
    (StateCipher("default", KEY), "session", "2", STORED, "does not fit", "another key's value in its place"),
    (StateCipher("default", KEY), "pre-key", "1", STORED, "does not fit", "another type"),
    (StateCipher("other", KEY), "session", "1", STORED, "does not fit", "another session"),
    (StateCipher("other", KEY), "session", "1", FORMER, "does not fit", "another session, with the master key"),
    (StateCipher("default", KEY), "session", "1", tampered(STORED), "does not fit", "a flipped bit"),
    (StateCipher("default", KEY), "session", "1", STORED[:30], "torn|does not fit", "cut off"),
    (StateCipher("default", KEY), "session", "1", MARK + "AwAAAA==", "newer wa-worker", "an unknown version"),
    (StateCipher("default", KEY), "session", "1", MARK, "newer wa-worker", "empty"),
]


@pytest.mark.parametrize(
    ("seal", "type_", "name", "stored", "says", "because"), UNREADABLE, ids=[because for *_, because in UNREADABLE]
)
def test_a_value_that_cannot_be_opened_is_an_error(
    seal: StateCipher, type_: str, name: str, stored: str, says: str, because: str
) -> None:
    with pytest.raises(StateError, match=says):
        seal.open(type_, name, stored)


def make_state(database: Database, key: bytes | None = None) -> AuthState:
    return AuthState(database.store, StateCipher("default", key), DatabaseWatch())


async def test_no_credentials_are_none() -> None:
    assert (await make_state(Database()).load(Nothing())).creds is None


async def test_credentials_come_back_unchanged() -> None:
    creds = '{"noiseKey": {"private": "…"}, "b": 1.0}'
    assert (await make_state(Database(creds=creds)).load(Nothing())).creds == creds


@pytest.mark.parametrize(
    ("database", "because"),
    [
        (Database(creds='{"noiseKey": {"pri'), "cut off"),
        (Database(creds=""), "empty is torn, not absent"),
        (Database(creds="null"), "JSON, but no credentials"),
        (Database(creds="[]"), "JSON, but no object"),
        (Database(keys={("session", "1"): "{}"}), "keys without credentials: half of it is gone"),
        (Database(creds=StateCipher("default", KEY).close("creds", "creds", "{}")), "encrypted, and no key is set"),
    ],
)
async def test_torn_credentials_are_never_taken_for_absent(database: Database, because: str) -> None:
    state = make_state(database)
    with pytest.raises(StateError) as torn:
        await state.load(Nothing())
    assert state.trouble is torn.value, because
    assert database.patches == []
    assert database.wipes == 0


async def test_a_database_that_is_away_is_never_taken_for_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "READ_PATIENCE_SECONDS", 0.05)
    state = make_state(Database(away=True))
    with pytest.raises(StoreUnavailable):
        await state.load(Nothing())
    with pytest.raises(StoreUnavailable):
        await state.get(StateGet(type="session", ids=["1"]))
    with pytest.raises(StoreUnavailable):
        await state.known(StanzasKnown(hashes=["ab" * 32]))


async def test_keys_are_opened_and_absent_ones_left_out() -> None:
    seal = StateCipher("default", KEY)
    database = Database(keys={("session", "1"): seal.close("session", "1", "one"), ("pre-key", "2"): "x"})
    values = await make_state(database, KEY).get(StateGet(type="session", ids=["1", "2"]))
    assert values.values == {"1": "one"}


# ── commits ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_stanza(number: int, chat: str = "1@g.us", text: str = "hello") -> dict[str, Any]:
    key = {"remoteJid": chat, "fromMe": False, "id": f"ID{number}", "participant": "7@lid"}
    now = 1_790_000_000
    return {
        "attrs": {"id": f"ID{number}", "from": chat, "t": str(now)}, "key": key, "arrived_at_ms": now * 1000,
        "server_time_offset_ms": 0, "content": {"conversation": text}, "failure": None,
        "hashes": [f"{number:064x}"], "retry_count": 0, "unavailable": None,
    }  # fmt: skip


def make_commit(*stanzas: dict[str, Any], **more: Any) -> Commit:
    return Commit.model_validate({"epoch": 3, "seq": 1, "stanzas": list(stanzas), "events": [], **more})


def make_committer(database: Database, key: bytes | None = None, watch: DatabaseWatch | None = None) -> Committer:
    return Committer(
        database.store,
        StateCipher("default", key),
        watch or DatabaseWatch(),
        rules=lambda: Rules(monitored={"1@g.us"}),
        listeners=Listeners(error=Report(database.store).error),
    )


async def test_a_commit_is_answered_when_it_is_durable() -> None:
    database = Database()
    done = await make_committer(database).commit(
        make_commit(make_stanza(1), creds="{}", keys={"session": {"a": "v", "b": None}})
    )
    assert done.seq == 1
    batch = database.commits[0]
    assert (batch.epoch, batch.seq, batch.creds) == (3, 1, "{}")
    assert list(batch.keys) == [
        KeyChange(type="session", id="a", value="v"),
        KeyChange(type="session", id="b", value=None),
    ]
    assert [message["text"] for message in batch.messages] == ["hello"]


async def test_the_content_of_other_chats_is_not_sent_but_their_hashes_are() -> None:
    database = Database()
    stanzas = [make_stanza(1, "2@g.us", "the secret"), make_stanza(2, "49@s.whatsapp.net", "the secret")]
    await make_committer(database).commit(make_commit(*stanzas))
    batch = database.commits[0]
    assert "the secret" not in repr(batch)
    assert len(batch.hashes) == 2
    assert sum(batch.discards.values()) == 2


def joined(seconds: float) -> dict[str, Any]:
    """An event: somebody joined the group."""
    return {
        "type": "system", "key": {"remoteJid": "1@g.us", "id": "S1", "participant": "7@lid"},
        "stub_type": "GROUP_PARTICIPANT_ADD", "stub_parameters": ["8@lid"], "t": str(int(seconds)),
    }  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
async def test_the_age_of_an_event_is_judged_by_whatsapps_clock_when_ours_is_ahead(together: bool) -> None:
    database, ahead_s = Database(), 40
    event = joined(time.time() - ahead_s)
    stanza = make_stanza(1) | {"server_time_offset_ms": -1000.0 * ahead_s}
    committer = make_committer(database)
    if together:
        await committer.commit(make_commit(stanza, events=[event]))
    else:
        await committer.commit(make_commit(stanza))
        await committer.commit(make_commit(seq=2, events=[event]))
    assert [message["wa_msg_id"] for batch in database.commits for message in batch.messages][-1] == "S1"


@pytest.mark.parametrize("was_off_by_s", [3600.0, -3600.0], ids=["it was ahead", "it was behind"])
async def test_a_clock_that_is_set_right_makes_no_event_old_and_gives_it_no_other_time(
    monkeypatch: pytest.MonkeyPatch, was_off_by_s: float
) -> None:
    database, right = Database(), time.time()
    committer = make_committer(database)
    monkeypatch.setattr(time, "time", lambda: right + was_off_by_s)
    stanza = make_stanza(1) | {"server_time_offset_ms": -1000.0 * was_off_by_s}
    await committer.commit(make_commit(stanza))
    monkeypatch.setattr(time, "time", lambda: right)
    await committer.commit(make_commit(seq=2, events=[joined(right)]))
    (event,) = [each for batch in database.commits for each in batch.messages if each["wa_msg_id"] == "S1"]
    assert datetime.fromisoformat(event["ts"]).timestamp() == int(right)


async def test_credentials_and_keys_are_sealed_on_their_way() -> None:
    database, seal = Database(), StateCipher("default", KEY)
    await make_committer(database, KEY).commit(make_commit(creds='{"secret":1}', keys={"session": {"a": "secret"}}))
    batch = database.commits[0]
    assert "secret" not in repr(batch)
    assert seal.open("creds", "creds", batch.creds or "") == '{"secret":1}'
    assert seal.open("session", "a", batch.keys[0].value or "") == "secret"


async def test_a_database_that_is_away_is_asked_again_under_the_same_number() -> None:
    database = Database(away=True)
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(make_committer(database).commit, make_commit(make_stanza(1)))
            await until(lambda: database.tries >= 2)
            database.away = False
    assert [batch.seq for batch in database.commits] == [1]


@pytest.mark.parametrize("error", [StaleFence("x"), SequenceGap("x")])
async def test_a_batch_that_comes_too_late_is_not_tried_again(error: Exception) -> None:
    database = Database(refuse=lambda batch: error)
    with pytest.raises(type(error)):
        await make_committer(database).commit(make_commit(make_stanza(1)))


@pytest.mark.parametrize(
    "answer",
    [
        UnexpectedAnswer("XX000"),
        UnexpectedAnswer("HTTP 404 with an HTML page"),
        KeyRefused("HTTP 403"),
        StoreRefused("no", "22P05"),
    ],
    ids=lambda answer: str(answer),
)
async def test_a_message_is_not_set_aside_for_one_bad_answer(answer: StoreError) -> None:
    answers = [answer]
    database = Database(refuse=lambda batch: answers.pop() if answers else None)
    await make_committer(database).commit(make_commit(make_stanza(1), make_stanza(2)))
    (batch,) = database.commits
    assert (len(batch.messages), list(batch.refused)) == (2, [])


async def test_a_batch_of_keys_that_is_refused_for_good_is_an_error_and_not_silence() -> None:
    database = Database(refuse=lambda batch: StoreRefused("no", "XX000"))
    with pytest.raises(StoreRefused):
        await make_committer(database).commit(make_commit(keys={"session": {"a": "v"}}))


async def test_a_number_is_looked_up_once_for_its_lid() -> None:
    database = Database(identities={"4911@s.whatsapp.net": "7@lid"})
    committer = make_committer(database)
    stanza = make_stanza(1)
    stanza["key"]["participant"] = "4911@s.whatsapp.net"
    await committer.commit(make_commit(stanza))
    database.identities = {}
    await committer.commit(make_commit(stanza, seq=2))
    assert [batch.messages[0]["sender"] for batch in database.commits] == ["7@lid", "7@lid"]


async def test_a_database_that_is_away_when_a_number_is_looked_up_is_seen_to_be_away() -> None:
    database, watch = Database(away=True), DatabaseWatch()
    stanza = make_stanza(1)
    stanza["key"]["participant"] = "4911@s.whatsapp.net"
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(make_committer(database, watch=watch).commit, make_commit(stanza))
            await until(lambda: watch.away)
            database.away = False
    assert not watch.away
    assert len(database.commits) == 1

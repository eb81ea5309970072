"""The life of a connection, step by step, against a sidecar that says what it is told to say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from tests.unit.doubles import BOUND, Database, Sidecar, make_flag, until
from worker.bridge.protocol import ConnectionState, PairingCodeRetired, PasskeyFailed, PasskeyRequested, Stalled
from worker.errors import CallFailed, CallTimeout, SidecarGone, StateError, Stuck, cause
from worker.session import reconnect_policy, socket
from worker.session.auth_state import AuthState
from worker.session.connection import Connection, SocketOptions
from worker.session.discovery import Discovery
from worker.session.events import DatabaseGone, EventQueue
from worker.session.flags import Request, RequestKind
from worker.session.reconnect_policy import ReconnectPolicy, RetryState, StayDown
from worker.session.report import Report
from worker.session.requests import Requests
from worker.session.suspects import Suspects
from worker.session.version import VersionPolicy
from worker.settings import Settings
from worker.store import Flag
from worker.store.availability import DatabaseWatch
from worker.store.cipher import StateCipher

PASSKEY_OPTIONS = {"challenge": "QkJCQkJC", "timeout": 600_000, "rpId": "whatsapp.com"}


@dataclass
class Life:
    """One connection with everything around it."""

    database: Database
    sidecar: Sidecar
    connection: Connection
    events: EventQueue
    watch: DatabaseWatch
    done: list[Flag] = field(default_factory=list)
    ended: BaseException | None = None

    def ask(self, ask: RequestKind, at: str = "2026-01-31T12:00:00Z", phone: str | None = None) -> None:
        self.events.put(Request(kind=ask, flag=make_flag(ask.value, at), phone=phone))

    async def state(self, name: str) -> dict[str, Any]:
        """Wait until the row says that it is in this state."""
        await until(lambda: self.database.row.get("detail", {}).get("state") == name)
        return self.database.row

    async def connects(self, count: int) -> None:
        await until(lambda: len(self.sidecar.connects) == count)

    async def ends_or_connects(self, count: int) -> None:
        await until(lambda: self.ended or len(self.sidecar.connects) == count)

    async def open(self) -> None:
        await self.connects(len(self.sidecar.connects) or 1)
        self.sidecar.opens()
        await self.state("connected")


@asynccontextmanager
async def life(
    retry: RetryState | None = None, events: EventQueue | None = None, **settings: Any
) -> AsyncIterator[Life]:
    chosen = Settings(_env_file=None, **{"worker_backoff_base_ms": 1, "worker_backoff_max_ms": 4, **settings})  # type: ignore[call-arg]
    database, sidecar, watch = Database(), Sidecar(), DatabaseWatch()
    own = events is None
    events = events or EventQueue()
    report = Report(database.store)
    done: list[Flag] = []

    def finish(request: Request, result: str = "") -> None:
        done.append(request.flag)

    state = AuthState(database.store, StateCipher("default", None), watch)
    version = VersionPolicy(None, None, lambda _: None, unasked=False)
    policy = ReconnectPolicy(
        settings=chosen, report=report, version=version, retry=retry or RetryState(), draw=lambda: 0.0
    )
    connection = Connection(
        state=state,
        policy=policy,
        report=report,
        options=SocketOptions(chosen, version, Suspects(database.store)),
        events=events,
        requests=Requests(state, policy, report, Discovery(database.store, report, finish), finish),
        on_open=lambda me: None,
    )
    it = Life(database, sidecar, connection, events, watch, done)

    async def run() -> None:
        try:
            await connection.run(sidecar.peer)
        except* Exception as group:
            it.ended = cause(group)

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(report.run)
            task_group.start_soon(run)
            yield it
            task_group.cancel_scope.cancel()
    sidecar.hang_up()
    if own:
        events.close()


async def test_from_the_qr_to_open_as_the_contract_says() -> None:
    async with life() as it:
        await it.connects(1)
        row = await it.state("connecting")
        assert row["status"] == "connecting"
        before = datetime.now(UTC)
        it.sidecar.shows_qr("2@code", ttl_ms=60_000)
        row = await it.state("waiting_for_scan")
        assert row["status"] == "connecting"
        assert row["detail"]["qr"] == "2@code"
        shown_at = datetime.fromisoformat(row["detail"]["expiresAt"]) - timedelta(seconds=60)
        assert before - timedelta(seconds=1) < shown_at <= datetime.now(UTC)  # told in whole seconds
        it.sidecar.says(ConnectionState(state="connecting", is_new_login=True))
        row = await it.state("paired")
        assert "qr" not in row["detail"], "a used code is gone"
        it.sidecar.closes(515, "Stream Errored (restart required)", "pairing")
        await it.connects(2)
        it.sidecar.opens()
        row = await it.state("connected")
        assert (row["status"], row["wa_name"], row["wa_number"]) == ("connected", "Ana's worker", "491511234567")
        assert set(row["detail"]) == {"state", "say", "claims"}
        assert row["detail"]["claims"] == {"version": "2.3000.1", "source": "bundled", "at": None}
        await until(lambda: "connect" in it.database.events())
        assert it.database.events() == ["qr_generated", "disconnect", "reconnect", "connect"]
        assert [each.epoch for each in it.sidecar.connects] == [1, 2], "each connection has its own epoch"


async def test_the_log_is_drained_before_the_next_epoch_begins() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.closes(503, phase="connecting")
        await it.connects(2)
        assert it.sidecar.calls == ["close", "connect", "close", "connect"]


async def test_each_further_code_replaces_the_one_before() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.shows_qr("2@first")
        it.sidecar.shows_qr("2@second", ttl_ms=20_000)
        await until(lambda: it.database.row.get("detail", {}).get("qr") == "2@second")
        await until(lambda: len(it.database.events("qr_generated")) == 2)
        assert [event["ttl_s"] for event in it.database.events("qr_generated")] == [60.0, 20.0]
        assert it.database.events("qr_generated")[0]["claims"]["version"] == "2.3000.1"


async def test_codes_that_ran_out_are_not_renewed_until_somebody_asks() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.closes(408, "QR refs attempts ended", "pairing")
        row = await it.state("idle")
        assert row["status"] == "disconnected"
        assert "wa-worker link --refresh" in row["detail"]["say"]
        assert len(it.sidecar.connects) == 1
        it.ask(RequestKind.REFRESH)
        await it.connects(2)
        assert [flag.key for flag in it.done] == ["wa_refresh_qr_requested"]


async def test_codes_that_ran_out_are_renewed_after_a_pause_if_that_is_set() -> None:
    async with life(worker_qr_again_s=1) as it:
        await it.connects(1)
        it.sidecar.closes(408, "QR refs attempts ended", "pairing")
        await it.state("idle")
        plan = it.connection.policy.retry.plan
        assert isinstance(plan, StayDown)
        assert plan.seconds == 1
        await it.connects(2)


async def test_a_lost_connection_is_made_again_with_growing_pauses() -> None:
    async with life() as it:
        for n in range(1, 5):
            await it.connects(n)
            it.sidecar.closes(428, "Connection Terminated")
        await it.connects(5)
        await until(lambda: len(it.database.events("reconnect")) == 4)
        assert it.database.events("reconnect") == [
            {"attempt": 1, "delay": 0.001},
            {"attempt": 2, "delay": 0.002},
            {"attempt": 3, "delay": 0.004},
            {"attempt": 4, "delay": 0.004},
        ]
        assert it.database.events("disconnect")[0] == {"code": 428, "reason": "Connection Terminated", "phase": "open"}


async def test_the_pauses_start_anew_after_a_connection_that_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect_policy, "HELD_SECONDS", 0.0)
    async with life() as it:
        for n in range(1, 4):
            await it.connects(n)
            it.sidecar.opens()
            it.sidecar.closes(503)
        await it.connects(4)
        await until(lambda: len(it.database.events("reconnect")) == 3)
        assert [each["attempt"] for each in it.database.events("reconnect")] == [1, 1, 1]


async def test_an_unlinked_device_forgets_its_credentials_and_asks_for_a_scan() -> None:
    async with life() as it:
        it.database.creds = "{}"
        await it.open()
        it.sidecar.closes(401, "Stream Errored (conflict)")
        await it.connects(2)
        assert it.database.wipes == 1


@pytest.mark.parametrize("code", [402, 403, 406, 413, 440])
async def test_what_needs_a_person_stays_down_and_says_so(code: int) -> None:
    async with life() as it:
        await it.open()
        it.sidecar.closes(code, "Connection Failure")
        row = await it.state("needs_you")
        assert row["status"] == "disconnected"
        await until(lambda: it.database.events("error"))
        assert it.database.events("error")[0]["code"] == "NEEDS_A_PERSON"
        assert it.database.wipes == 0
        it.ask(RequestKind.GROUPS)
        it.ask(RequestKind.REFRESH)
        await it.connects(2)


async def test_an_account_that_is_refused_again_and_again_is_asked_for_more_slowly() -> None:
    async with life(worker_backoff_base_ms=60_000, worker_backoff_max_ms=60_000) as it:
        await it.connects(1)
        it.sidecar.closes(401, "Connection Failure", "connecting")
        await it.connects(2)
        it.sidecar.closes(411, "Connection Failure", "connecting")
        row = await it.state("reconnecting")
        assert "next_attempt_at" in row["detail"]
        assert len(it.sidecar.connects) == 2, "the first time at once, then with pauses"


async def test_a_restart_asked_for_after_each_opening_is_backed_off() -> None:
    async with life(worker_backoff_base_ms=60_000, worker_backoff_max_ms=60_000) as it:
        for n in range(1, 5):
            await it.connects(n)
            it.sidecar.opens()
            it.sidecar.closes(515, "Stream Errored (restart required)")
        await it.state("reconnecting")
        assert len(it.sidecar.connects) == 4


@pytest.mark.parametrize("gone", [SidecarGone("ended"), CallTimeout("close")], ids=["ended", "hung"])
@pytest.mark.parametrize("ask", [RequestKind.REFRESH, RequestKind.DISCONNECT])
async def test_what_is_asked_for_while_the_sidecar_dies_is_done_by_the_next(ask: RequestKind, gone: Exception) -> None:
    retry = RetryState()
    with closing(EventQueue()) as events:
        async with life(retry, events=events) as it:
            await it.open()
            it.sidecar.failures["close"] = [gone]
            it.ask(ask)
            await until(lambda: it.ended or it.done)
        if it.done:  # a logout that takes too long is done all the same
            assert (ask, it.ended) == (RequestKind.DISCONNECT, None)
            return
        async with life(retry, events=events) as it:
            await until(lambda: [flag.key for flag in it.done] == [ask.value])


async def test_a_ban_is_no_longer_because_the_sidecar_ended_meanwhile() -> None:
    retry = RetryState()
    async with life(retry) as it:
        await it.connects(1)
        it.sidecar.closes(402, "Connection Failure", "connecting", {"expire": "3600"})
        await it.state("needs_you")
    plan = retry.plan
    assert isinstance(plan, StayDown)
    retry.plan = replace(plan, view=replace(plan.view, next_attempt_at=datetime.now(UTC)))  # the hour is over
    async with life(retry) as it:
        await it.connects(1)


@pytest.mark.parametrize(
    ("status", "why"), [(400, "check the number"), (429, "too many"), (503, "(503)"), (None, "connection failed")]
)
async def test_a_pairing_code_that_whatsapp_refuses_is_no_code_and_says_why(status: int | None, why: str) -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.shows_qr()
        await it.state("waiting_for_scan")
        it.sidecar.failures["pairing_code"] = [CallFailed("bad-request", -32000, {"status": status})]
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        await until(lambda: it.done and it.database.events("error"))
        assert why in it.database.events("error")[0]["msg"]
        assert "pairing_code" not in it.database.row["detail"]


async def test_a_pairing_code_stands_alone_when_the_last_qr_has_run_out() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.shows_qr("2@last")
        await it.state("waiting_for_scan")
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        await until(lambda: it.database.row["detail"].get("pairing_code"))
        expires_at = it.database.row["detail"]["pairing_code_expires_at"]
        it.sidecar.shows_qr(None, 20_000)
        await until(lambda: "qr" not in it.database.row["detail"])
        detail = it.database.row["detail"]
        assert "expiresAt" not in detail, "that is the QR code's"
        assert (detail["pairing_code"], detail["pairing_code_expires_at"]) == ("ABCD1234", expires_at)
        assert len(it.database.events("qr_generated")) == 1


async def test_the_passkey_gate_needs_a_person_and_is_not_tried_again_by_itself() -> None:
    async with life(worker_qr_again_s=1) as it:
        await it.connects(1)
        it.sidecar.shows_qr()
        it.sidecar.says(PasskeyRequested(options=None))
        row = await it.state("needs_you")
        assert "passkey" in row["detail"]["say"]
        assert it.sidecar.calls[-1] == "close"
        it.ask(RequestKind.REFRESH)
        await it.connects(2)


async def test_a_pairing_code_that_has_run_out_is_not_shown_beside_the_next_qr() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.code_ttl_ms = 1
        it.sidecar.shows_qr("2@one")
        await it.state("waiting_for_scan")
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        await until(lambda: it.database.row["detail"].get("pairing_code"))
        it.sidecar.shows_qr("2@two")
        await until(lambda: it.database.row["detail"].get("qr") == "2@two")
        assert "pairing_code" not in it.database.row["detail"]
        assert "Scan" in it.database.row["detail"]["say"]


async def test_a_pairing_code_that_never_comes_is_turned_down() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.shows_qr()
        await it.state("waiting_for_scan")
        it.sidecar.failures["pairing_code"] = [CallTimeout("pairing_code")]
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        await until(lambda: it.done)
        assert it.ended is None


async def test_a_temporary_ban_is_waited_out() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.closes(402, "Connection Failure", "connecting", {"expire": "0.5"})
        row = await it.state("needs_you")
        over = datetime.fromisoformat(row["detail"]["next_attempt_at"])
        plan = it.connection.policy.retry.plan
        assert isinstance(plan, StayDown)
        assert plan.seconds == 0.5
        await it.connects(2)
        assert datetime.now(UTC) >= over


async def test_a_refresh_ends_the_socket_and_makes_a_new_one() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.shows_qr()
        it.ask(RequestKind.REFRESH)
        await it.connects(2)
        assert it.sidecar.calls == ["close", "connect", "close", "close", "connect"]


async def test_what_an_ended_socket_still_says_is_not_news() -> None:
    async with life() as it:
        await it.connects(1)
        it.ask(RequestKind.REFRESH)
        it.sidecar.closes(401, "Connection Failure", "connecting")  # arrives while the socket is being ended
        await it.connects(2)
        assert it.database.wipes == 0


async def test_a_disconnect_logs_out_forgets_and_stays_down_until_a_refresh() -> None:
    async with life() as it:
        await it.open()
        it.ask(RequestKind.DISCONNECT)
        row = await it.state("logged_out")
        assert row["status"] == "disconnected"
        assert "close logout" in it.sidecar.calls
        assert it.database.wipes == 1
        assert [flag.key for flag in it.done] == ["wa_disconnect_requested"]
        assert len(it.sidecar.connects) == 1
        it.ask(RequestKind.REFRESH)
        await it.connects(2)


async def test_a_logout_that_is_not_graceful_forgets_all_the_same() -> None:
    async with life() as it:
        it.sidecar.failures["close"] = []
        await it.open()
        it.sidecar.failures["close"] = [CallFailed("no answer", -32000)]
        it.ask(RequestKind.DISCONNECT)
        row = await it.state("logged_out")
        assert "WhatsApp could not be told" in row["detail"]["say"]
        assert it.database.wipes == 1


async def test_a_disconnect_is_obeyed_while_waiting_to_reconnect() -> None:
    async with life(worker_backoff_base_ms=60_000, worker_backoff_max_ms=60_000) as it:
        await it.connects(1)
        it.sidecar.closes(428)
        await it.state("reconnecting")
        it.ask(RequestKind.DISCONNECT)
        row = await it.state("logged_out")
        assert "WhatsApp" not in row["detail"]["say"], "no phone lists a device that was never linked"


async def test_a_logout_of_which_whatsapp_could_not_be_told_says_what_is_left_to_do() -> None:
    async with life(worker_backoff_base_ms=60_000, worker_backoff_max_ms=60_000) as it:
        await it.open()
        it.sidecar.closes(428)
        await it.state("reconnecting")
        it.ask(RequestKind.DISCONNECT)
        row = await it.state("logged_out")
        assert "WhatsApp could not be told" in row["detail"]["say"]
        assert "Remove this device on the phone" in row["detail"]["say"]
        assert it.database.wipes == 1


async def test_groups_are_found_at_the_first_connection_and_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.session.discovery.SPACING_SECONDS", 0.0)
    async with life() as it:
        await it.open()
        await until(lambda: it.sidecar.calls.count("groups") == 1)
        assert [group.wa_group_id for group in it.database.groups] == ["1@g.us"]
        it.ask(RequestKind.GROUPS)
        await until(lambda: it.done)
        assert it.sidecar.calls.count("groups") == 2
        it.sidecar.closes(428)
        await it.connects(2)
        it.sidecar.opens()
        it.ask(RequestKind.GROUPS)
        await until(lambda: len(it.done) == 2)
        assert it.sidecar.calls.count("groups") == 3, "not again at the second connection by itself"


async def test_a_pairing_code_is_shown_beside_the_qr() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.shows_qr("2@one")
        await it.state("waiting_for_scan")
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        await until(lambda: it.database.row["detail"].get("pairing_code") == "ABCD1234")
        it.sidecar.shows_qr("2@two")
        await until(lambda: it.database.row["detail"].get("qr") == "2@two")
        assert it.database.row["detail"]["pairing_code"] == "ABCD1234", "it outlives the QR code"
        it.sidecar.opens()
        row = await it.state("connected")
        assert "pairing_code" not in row["detail"]


async def test_a_server_that_retires_every_pairing_code_is_given_five_more_and_no_sixth() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.shows_qr("2@one")
        await it.state("waiting_for_scan")
        it.sidecar.says(PairingCodeRetired(by_hand=False))  # there is none: nothing is drawn for it
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        for _ in range(6):
            it.sidecar.says(PairingCodeRetired(by_hand=False))
        await until(lambda: it.database.events("error"))
        assert it.sidecar.calls.count("pairing_code 491511234567") == 6
        assert it.database.events("error")[0]["code"] == "PAIRING_CODE_RETIRED"
        await until(lambda: "pairing_code" not in it.database.row["detail"])
        it.sidecar.shows_qr("2@two")
        await until(lambda: it.database.row["detail"].get("qr") == "2@two")
        assert "retired the pairing code" in it.database.row["detail"]["say"]


async def test_a_retired_pairing_code_whose_successor_is_refused_is_shown_no_longer() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.shows_qr("2@one")
        await it.state("waiting_for_scan")
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        await until(lambda: it.database.row["detail"].get("pairing_code"))
        it.sidecar.failures["pairing_code"] = [CallFailed("too many", -32000, {"status": 429})]
        it.sidecar.says(PairingCodeRetired(by_hand=False))
        await until(lambda: it.database.events("error"))
        await until(lambda: "pairing_code" not in it.database.row["detail"])
        assert it.database.row["detail"]["qr"] == "2@one", "the QR code is as good as before"


async def test_a_pairing_code_that_is_retired_during_the_passkeys_exchange_has_no_successor() -> None:
    async with life(worker_passkey=True) as it:
        await it.connects(1)
        it.sidecar.shows_qr("2@one")
        await it.state("waiting_for_scan")
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        await until(lambda: it.database.row["detail"].get("pairing_code"))
        it.sidecar.says(PasskeyRequested(options=PASSKEY_OPTIONS))
        await it.state("needs_you")
        for by_hand in (False, True):
            it.sidecar.says(PairingCodeRetired(by_hand=by_hand))
        it.sidecar.says(PasskeyFailed(step="crsc_continuation", status=None))  # told after those
        await until(lambda: it.sidecar.calls[-1] == "close" and it.database.events("error"))
        assert it.sidecar.calls.count("pairing_code 491511234567") == 1
        assert [error["code"] for error in it.database.events("error")] == ["NEEDS_A_PERSON"]


async def test_a_pairing_code_for_a_linked_session_is_turned_down() -> None:
    async with life() as it:
        await it.open()
        it.ask(RequestKind.PAIRING_CODE, phone="491511234567")
        await until(lambda: it.done)
        await until(lambda: it.database.events("error"))
        assert it.database.events("error")[0]["code"] == "REQUEST_TURNED_DOWN"


async def test_a_database_that_is_away_ends_the_socket_and_nothing_reconnects_before_it_is_back() -> None:
    async with life() as it:
        await it.open()
        it.database.away = True
        it.events.put(DatabaseGone(reason="wa_commit: HTTP 404 with an HTML page"))
        await until(lambda: it.sidecar.calls[-1] == "close")
        assert len(it.sidecar.connects) == 1
        it.database.away = False
        await it.connects(2)
        await until(lambda: len(it.database.events("disconnect")) == 1)
        assert it.database.events("disconnect")[0]["reason"] == (
            "the database does not answer (wa_commit: HTTP 404 with an HTML page)"
        )
        assert not it.database.events("reconnect"), "it is no network fault"


async def test_torn_state_stops_everything_and_changes_nothing() -> None:
    async with life() as it:
        it.sidecar.failures["connect"] = [CallFailed("lacks noiseKey", -32000, {"reason": "unreadable"})]
        await until(lambda: it.ended)
        assert isinstance(it.ended, StateError)
        assert it.database.wipes == 0


async def test_a_socket_that_is_still_open_is_ended_first() -> None:
    async with life() as it:
        it.sidecar.failures["connect"] = [CallFailed("a socket is open", -32001)]
        await it.connects(1)
        assert it.sidecar.calls == ["close", "connect", "close", "close", "connect"]


async def test_a_connection_that_never_opens_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "OPEN_WITHIN_SECONDS", 0.02)
    async with life() as it:
        await it.connects(2)
        await until(lambda: it.database.events("error"))
        assert it.database.events("error")[0]["code"] == "STALLED"


async def test_stalls_escalate_from_the_socket_to_the_sidecar_to_the_worker() -> None:
    retry = RetryState()
    ends: list[type[BaseException]] = []
    for _ in range(3):
        async with life(retry) as it:
            await it.connects(1)
            while it.ended is None:
                connects = len(it.sidecar.connects)
                it.sidecar.says(Stalled(reason="deaf", detail={}))
                await it.ends_or_connects(connects + 1)
            ends.append(type(it.ended))
    assert ends == [SidecarGone, SidecarGone, Stuck]
    assert retry.stalls == 4


async def test_an_error_that_was_nobodys_is_no_stall() -> None:
    async with life() as it:
        await it.open()
        it.sidecar.says(Stalled(reason="unhandled", detail={"error": "Boom"}))
        it.sidecar.closes(428)
        await it.connects(2)
        assert it.connection.policy.retry.stalls == 0


async def test_what_outlives_a_sidecar_is_kept() -> None:
    retry = RetryState()
    async with life(retry) as it:
        await it.open()
        it.sidecar.closes(403, "Connection Failure")
        await it.state("needs_you")
    async with life(retry) as it:
        row = await it.state("needs_you")
        assert row["status"] == "disconnected"
        assert it.sidecar.connects == [], "a new sidecar is no reason to try again"


async def test_the_farewell_drains_and_does_not_log_out() -> None:
    async with life() as it:
        await it.open()
        await it.connection.shut_down(it.sidecar.peer)
        assert it.sidecar.calls[-1] == "close"
        assert "close logout" not in it.sidecar.calls


async def test_a_clock_that_is_off_is_audited() -> None:
    async with life() as it:
        await it.connects(1)
        it.sidecar.says(ConnectionState(state="open", me=None, server_time_offset_ms=61_000.0))
        await until(lambda: it.database.events("error"))
        assert it.database.events("error")[0]["code"] == "CLOCK_SKEW"

"""A claimed session: how it ends, also while its settings change."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from tests.unit.doubles import BOUND, until
from worker import tenant as module
from worker.log import HIDDEN, redact
from worker.session.rate_limit import RateLimiter
from worker.session.report import View
from worker.settings import Settings
from worker.stop import Stop
from worker.store import ClaimedSession, StoredSettings
from worker.supervisor import STOPPED
from worker.tenant import AT_END, CHANGING, Tenant
from worker.web.health import SessionHealth

HOST = Settings(_env_file=None, worker_session="host")  # type: ignore[call-arg]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OTHERS = StoredSettings(version="2", values={"catch_up_s": 60})


class Row:
    """The session's row, and a supervisor that serves it: it writes its last words when `may_end` is set."""

    def __init__(self) -> None:
        self.state = self.say = ""
        self.served = 0
        self.may_end = anyio.Event()
        self.turns: list[anyio.Event] = []

    async def status(self, session: str) -> dict[str, Any]:
        return {"session": {"detail": {"state": self.state, "say": self.say}}}

    async def set_session(self, session: str, fence: int, patch: dict[str, Any]) -> None:
        self.state, self.say = patch["detail"]["state"], patch["detail"]["say"]

    async def take_turn(self, seconds: float) -> None:
        self.turns.append(anyio.Event())
        await self.turns[-1].wait()

    def supervisor(
        self, settings: Settings, shared: object, health: SessionHealth, stop: Stop, failed: object
    ) -> SimpleNamespace:
        async def serve(polled: object, skew: float) -> None:
            self.state, self.say = "connected", "Connected."
            self.served += 1
            await stop.wait()
            await self.may_end.wait()
            view: View = it.at_end
            self.state, self.say = view.state, view.say

        it = SimpleNamespace(serve=serve, at_end=STOPPED)
        return it


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Row:
    async def release(*arguments: object, failed: bool) -> None:
        assert not failed

    row = Row()
    monkeypatch.setattr(module, "Supervisor", row.supervisor)
    monkeypatch.setattr(module, "release", release)
    return row


def made(row: Row, whole: Stop, values: dict[str, Any] | None = None) -> Tenant:
    shared = cast(Any, SimpleNamespace(store=row, poll=SimpleNamespace(registered=lambda polled: nullcontext())))
    stored = StoredSettings(version="1", values=values or {})
    claimed = ClaimedSession(session="mine", fence=1, until=NOW, now=NOW, settings=stored)
    return Tenant(claimed, HOST, shared, SessionHealth(), Stop(whole), RateLimiter(sleep=row.take_turn))


async def test_the_password_of_its_proxy_is_hidden_in_the_log_until_its_end(row: Row) -> None:
    said = "the proxy says planted-password"
    tenant = made(row, Stop(), {"proxy": "http://me:planted-password@proxy.example:3128"})
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tenant.run)
            await until(lambda: row.turns)
            row.turns[0].set()
            await until(lambda: row.served)
            assert redact(said) == f"the proxy says {HIDDEN}"
            tenant.on_give_up("unwanted")
            row.may_end.set()
    assert redact(said) == said


@pytest.mark.parametrize("left", [True, False], ids=["not wanted any more", "SIGTERM"])
@pytest.mark.parametrize("order", ["stop, then settings", "settings, then stop", "stop while it waits for its turn"])
async def test_a_session_that_is_stopped_while_its_settings_change_ends_as_stopped(
    row: Row, order: str, left: bool
) -> None:
    whole = Stop()
    tenant = made(row, whole)

    def stop() -> None:
        if left:
            tenant.on_give_up("unwanted")
        else:
            whole.ask()

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tenant.run)
            await until(lambda: row.turns)
            row.turns[0].set()
            await until(lambda: row.served)
            match order:
                case "stop, then settings":
                    stop()
                    tenant.on_settings(OTHERS)
                case "settings, then stop":
                    tenant.on_settings(OTHERS)
                    stop()
                case _:
                    tenant.on_settings(OTHERS)
                    row.may_end.set()
                    await until(lambda: row.turns[1:])
                    assert row.say == CHANGING.say
                    stop()
            row.may_end.set()
    assert row.served == 1
    assert row.say == (AT_END["unwanted"] if left else STOPPED).say
